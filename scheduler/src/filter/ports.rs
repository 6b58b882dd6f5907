//! Ports of the node that a pod wants for itself.

use super::Reason;
use crate::{shape::Shape, snapshot::Node};

/// Whether one of them is in use.
pub fn check(shape: &Shape, node: &Node) -> Option<Reason> {
    let taken = shape.ports.iter().any(|wanted| node.ports.iter().any(|used| used.clashes(wanted)));
    taken.then_some(Reason::Ports)
}
