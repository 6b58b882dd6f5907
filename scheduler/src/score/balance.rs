//! Load: much left is good, and so is using CPU and memory in the same share.

use crate::{shape::Shape, snapshot::Node};

/// Shares in millionths of what the node has, after the pod came.
fn shares(shape: &Shape, node: &Node) -> [i64; 2] {
    const WHOLE: i128 = 1_000_000;
    let share = |taken: i64, more: i64, has: i64| {
        if has <= 0 {
            return 1_000_000;
        }
        let share = i128::from(taken + more) * WHOLE / i128::from(has);
        i64::try_from(share.clamp(0, WHOLE)).unwrap_or(1_000_000)
    };
    [
        share(node.weighed.cpu, shape.weighed.cpu, node.allocatable.cpu),
        share(node.weighed.memory, shape.weighed.memory, node.allocatable.memory),
    ]
}

/// 0..=100: how much is left.
pub fn free(shape: &Shape, node: &Node) -> i64 {
    let [cpu, memory] = shares(shape, node);
    (2_000_000 - cpu - memory) / 20_000
}

/// 0..=100: how alike the shares are.
pub fn even(shape: &Shape, node: &Node) -> i64 {
    let [cpu, memory] = shares(shape, node);
    100 - (cpu - memory).abs() / 20_000
}
