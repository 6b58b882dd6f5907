//! The vocabulary that every part of Orlop speaks.
//!
//! Types are `k8s-openapi`'s. This crate adds what the schema alone does not say: which kinds are served and under which
//! names ([`kinds`]), what is wrong with an object and where ([`field`]), the `Status` that every error becomes
//! ([`status`]), and the arithmetic on objects: selectors, quantities, patches.
//!
//! # Invariants
//! * A kind is one row in [`kinds::KINDS`]; routes, discovery, storage keys and the CLI's names derive from it.
//! * Everything here is a pure function of its arguments.
//!
//! # Absent
//! No I/O, no async function, no tokio, no clock, no random source. Nothing of ours is imported.

pub mod duration;
pub mod field;
pub mod int_or_string;
pub mod kinds;
pub mod managed;
pub mod members;
pub mod moment;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strict;
pub mod transaction;
pub mod validity;

pub use kinds::{Kind, Scope, Subresource};
