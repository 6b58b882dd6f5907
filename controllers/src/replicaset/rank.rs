//! Which Pods of a ReplicaSet go first when there are too many: upstream's `ActivePodsWithRanks`.

use std::{cmp::Reverse, sync::Arc};

use ahash::AHashMap;
use client::Key;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod;

/// The annotation by which a user says what the loss of a Pod costs.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Active Pods per node.
pub type Neighbours = AHashMap<String, usize>;

/// Counts the active Pods of each node.
pub fn neighbours(pods: impl Iterator<Item = Arc<Pod>>) -> Neighbours {
    let mut counts = Neighbours::new();
    for pod in pods.filter(|p| pod::is_active(p)) {
        if let Some(node) = pod::node(&pod) {
            *counts.entry(node.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// The `count` Pods whose loss costs least: not bound before bound, pending before running, not ready before ready, cheap
/// before dear, crowded before alone, lately ready before long ready, often restarted before steady, young before old.
pub fn cheapest(pods: &[&Pod], count: usize, neighbours: &Neighbours) -> Vec<Key> {
    if count == 0 {
        return Vec::new();
    }
    let mut ranked: Vec<_> = pods.iter().map(|pod| (rank(pod, neighbours), *pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.iter().take(count).map(|(_, pod)| Key::of(*pod)).collect()
}

/// Orders Pods by what their loss costs; the name at last, so that the order is the same each time.
fn rank(pod: &Pod, neighbours: &Neighbours) -> impl Ord + use<> {
    let node = pod::node(pod);
    let phase = match pod::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = pod.annotations().get(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or_default();
    let crowd = node.and_then(|n| neighbours.get(n)).copied().unwrap_or_default();
    let restarts = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).max();
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        (node.is_some(), phase, pod::is_ready(pod), cost),
        (Reverse(crowd), Reverse(pod::ready_since(pod)), Reverse(restarts), Reverse(created)),
        pod.name_any(),
    )
}
