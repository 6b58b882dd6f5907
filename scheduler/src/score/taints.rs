//! Nodes that would rather not have the pod.

use crate::{filter::taints::soft, shape::Shape, snapshot::Node};

/// -100..=0: how many taints of effect PreferNoSchedule the pod does not tolerate.
pub fn kept_off(shape: &Shape, node: &Node) -> i64 {
    -i64::try_from(soft(shape, node) * 50).unwrap_or(100).min(100)
}
