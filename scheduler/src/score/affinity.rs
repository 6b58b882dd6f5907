//! Nodes that the pod prefers.

use crate::{filter::affinity::matches, shape::Shape, snapshot::Node};

/// 0..=100: the weights of the preferences that the node fulfils, capped.
pub fn liked(shape: &Shape, node: &Node) -> i64 {
    let terms = shape.preferred_nodes.iter();
    let sum: i64 = terms.filter(|(_, t)| matches(t, &node.labels, &node.name)).map(|(weight, _)| weight).sum();
    sum.min(100)
}
