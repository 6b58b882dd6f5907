//! A cordoned node takes only pods that stand the taint of being cordoned.

use k8s_openapi::api::core::v1::Taint;

use super::{Reason, taints};
use crate::{shape::Shape, snapshot::Node};

/// Whether the node is cordoned for this pod.
pub fn check(shape: &Shape, node: &Node) -> Option<Reason> {
    if !node.unschedulable {
        return None;
    }
    let cordoned =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let stood = shape.tolerations.iter().any(|t| taints::tolerates(t, &cordoned));
    (!stood).then_some(Reason::Unschedulable)
}
