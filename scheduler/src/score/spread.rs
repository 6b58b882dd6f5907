//! Pods of one workload go to different nodes.

use crate::snapshot::{GroupId, Node};

/// What one more pod of the same labels on a node costs: as much as the difference between an empty and a full node.
const EACH: i64 = 100;

/// 0 or less: how many pods with the same labels are there.
pub fn apart(group: Option<GroupId>, node: &Node) -> i64 {
    group.map_or(0, |group| -EACH * i64::from(node.count(group)))
}
