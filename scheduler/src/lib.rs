//! Gives every pod a node.
//!
//! ```text
//!  watch ──> cluster ── snapshot (nodes, what is taken) ──┐
//!               └────── queue (pods without a node) ──> decide ──> bind, or explain why not
//!                          ^                              │
//!                          └── refused, until a cure <────┘
//! ```
//!
//! Deciding is pure: [`cycle::schedule`] is a function of a pod's [`shape::Shape`] and the [`snapshot::Snapshot`], and tells
//! for every node why it cannot take the pod. [`memo::Memo`] gives the same answer quickly, because pods of one workload have
//! one shape, and from one decision to the next few nodes change.
//!
//! # Invariants
//! * A pod is assumed to be on its node from the decision on; a binding that fails is taken back.
//! * No node is given more than it has.
//! * A refused pod is looked at again when something happens that may cure one of its reasons, and not before.
//!
//! # Absent
//! No preemption, and no volumes: pods do not name any that bind to nodes. Deciders have no clock, client or randomness.

pub mod amounts;
pub mod bind;
pub mod cluster;
pub mod cycle;
pub mod filter;
pub mod memo;
pub mod queue;
mod run;
pub mod score;
pub mod shape;
pub mod snapshot;

pub use run::{Config, Error, run};
