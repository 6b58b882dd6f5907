//! The network of one node.

pub mod underlay;
