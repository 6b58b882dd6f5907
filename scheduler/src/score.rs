//! Which of the nodes that can take a pod should: one file per consideration, summed.
//!
//! Every consideration but those of [`crate::filter::Global`] looks at one node alone and is not normalized over all
//! nodes, so that the change of one node changes one score. Weights follow upstream's default plugins.

use crate::{
    shape::Shape,
    snapshot::{GroupId, Node},
};

pub mod affinity;
pub mod balance;
pub mod spread;
pub mod taints;

/// The sum of all considerations that look at the node alone. `group` is the number of the pod's set of labels, if any
/// placed pod has it.
pub fn local(shape: &Shape, group: Option<GroupId>, node: &Node) -> i64 {
    balance::free(shape, node)
        + balance::even(shape, node)
        + 2 * affinity::liked(shape, node)
        + 3 * taints::kept_off(shape, node)
        + spread::apart(group, node)
}

/// Brings raw figures of the nodes that can take the pod to 0..=200; the largest is best.
pub fn normalize(raw: &[i64]) -> Vec<i64> {
    let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
    let range = (most - least).max(1);
    raw.iter().map(|r| (r - least) * 200 / range).collect()
}
