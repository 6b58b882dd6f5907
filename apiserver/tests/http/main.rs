//! The API server as its clients see it: over loopback TLS with kubectl, and called as a service.

#![allow(clippy::unwrap_used)]

mod access;
mod backup;
mod cluster;
mod history;
mod kubectl;
mod node;
mod restriction;
mod semantics;
mod tokens;
mod transaction;
mod watch;
