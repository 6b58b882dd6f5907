//! The `orlop` binary as a library: every component as a subcommand, and the user's verbs.
//!
//! `main` is a few lines; end-to-end tests use [`up`] to build clusters out of the same pieces that a user runs.
//!
//! # Invariants
//! * This crate wires; it decides nothing that a component could decide.
//! * `orlop up` is `orlop server` and `orlop agent` as child processes, joined over an underlay, and nothing else.
//!
//! # Absent
//! A kind is never named in a verb's code: names, paths and columns come from [`api::kinds`] and from the server.

pub mod args;
pub mod cluster;
pub mod commands;
pub mod dispatch;
pub mod follow;
pub mod manifest;
pub mod moment;
pub mod objects;
pub mod output;
pub mod pod;
pub mod rest;
mod servers;
pub mod subject;
pub mod undo;
pub mod up;
pub mod wiring;
