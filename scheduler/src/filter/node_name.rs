//! A pod that names its node can go to no other.

use super::Reason;
use crate::{shape::Shape, snapshot::Node};

/// Whether the pod names another node.
pub fn check(shape: &Shape, node: &Node) -> Option<Reason> {
    let named = shape.node_name.as_deref()?;
    (named != &*node.name).then_some(Reason::NodeName)
}
