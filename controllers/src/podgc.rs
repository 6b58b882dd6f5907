//! Pods that nobody else will end: on Nodes that are gone, deleted before they were bound, or ended long ago.
//!
//! Follows upstream's `pkg/controller/podgc`. These deletions are forced: there is no node agent to confirm them.

use std::time::{Duration, Instant};

use ahash::AHashMap;
use client::{Caches, Controller, During, Error, Key, Next, OrGone, Reader, Reconcile};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::pod;

/// The taint by which a user says that a Node is off and will not come back by itself (KEP-2268).
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Most Pods deleted at once because too many have ended.
const BATCH: usize = 100;

/// Why a Pod is removed by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was deleted before it was bound to a Node.
    Unbound,
    /// Its Node is gone.
    NodeGone,
    /// Its Node was declared out of service.
    OutOfService,
}

/// Whether the Pod must be removed by force, and why. `node` is its Node; none when there is no such Node. Pure.
pub fn doomed(pod: &Pod, node: Option<&Node>) -> Option<Why> {
    let deleted = pod.metadata.deletion_timestamp.is_some();
    if pod::node(pod).is_none() {
        return (deleted && pod::phase(pod) == "Pending").then_some(Why::Unbound);
    }
    let Some(node) = node else { return Some(Why::NodeGone) };
    let mut taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let ready = crate::node::status(node, "Ready") == Some("True");
    (deleted && !ready && taints.any(|t| t.key == OUT_OF_SERVICE)).then_some(Why::OutOfService)
}

struct PodCollector {
    client: kube::Client,
    pods: Reader<Pod>,
    nodes: Reader<Node>,
    grace: Duration,
    keep: usize,
    gone_since: Mutex<AHashMap<String, Instant>>,
}

/// Runs the controller until `shutdown`. A Node that is gone for `grace` is believed to be; at most `keep` Pods that have
/// ended are kept.
pub async fn run(caches: Caches, grace: Duration, keep: usize, shutdown: CancellationToken) {
    let collector = PodCollector {
        client: caches.client().clone(),
        pods: caches.reader(),
        nodes: caches.reader(),
        grace,
        keep,
        gone_since: Mutex::default(),
    };
    let (pods, nodes) = (caches.reader::<Pod>(), caches.reader::<Node>());
    nodes.synced().await;
    Controller::new("podgc", &caches, collector)
        .watches::<Node>(move |node| {
            // Asked about Nodes as they were and as they are: only what decides about Pods is worth a look at them.
            let present = nodes.get(&Key::of(node)).is_some();
            let off = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE);
            if present && !off {
                return Vec::new();
            }
            crate::eviction::pods_on(&pods, &node.name_any()).iter().map(|p| Key::of(p.as_ref())).collect()
        })
        .run(shutdown)
        .await;
}

impl Reconcile for PodCollector {
    type Object = Pod;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::AwaitChange) };
        if pod::is_terminated(&pod) && self.pods.len() > self.keep {
            self.thin_out().await?;
        }
        let node_key = Key::new("", pod::node(&pod).unwrap_or_default());
        let node = self.nodes.get(&node_key);
        if node.is_some() {
            self.gone_since.lock().remove(&node_key.name);
        }
        match doomed(&pod, node.as_deref()) {
            None => return Ok(Next::AwaitChange),
            Some(Why::NodeGone) => {
                let now = Instant::now();
                let since = *self.gone_since.lock().entry(node_key.name.clone()).or_insert(now);
                let left = (since + self.grace).saturating_duration_since(now);
                if !left.is_zero() {
                    return Ok(Next::After(left));
                }
                let api = Api::<Node>::all(self.client.clone());
                if api.get_metadata_opt(&node_key.name).await.during::<Node>("get", &node_key)?.is_some() {
                    return Ok(Next::After(self.grace));
                }
            }
            Some(Why::Unbound | Why::OutOfService) => {}
        }
        tracing::info!(pod = %key, node = %node_key, "removing a pod that no node will");
        self.remove(&pod).await?;
        Ok(Next::AwaitChange)
    }
}

impl PodCollector {
    async fn remove(&self, pod: &Pod) -> Result<(), Error> {
        let key = Key::of(pod);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        api.delete(&key.name, &params).await.during::<Pod>("remove", &key).or_gone().map(drop)
    }

    /// Removes those that ended first, when more have ended than are kept.
    async fn thin_out(&self) -> Result<(), Error> {
        let mut ended = self.pods.list();
        ended.retain(|p| pod::is_terminated(p) && p.metadata.deletion_timestamp.is_none());
        let surplus = ended.len().saturating_sub(self.keep).min(BATCH);
        ended.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        for pod in ended.iter().take(surplus) {
            self.remove(pod).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{NodeSpec, PodSpec, Taint},
        apimachinery::pkg::apis::meta::v1::Time,
    };

    use super::*;

    #[test]
    fn only_pods_that_no_node_will_end_are_removed_by_force() {
        let pod = |node: Option<&str>, deleted: bool| {
            let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
            pod.spec.get_or_insert_default().node_name = node.map(str::to_owned);
            pod.metadata.deletion_timestamp = deleted.then_some(Time(jiff::Timestamp::UNIX_EPOCH));
            pod
        };
        let taint = Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
        let off = Node { spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }), ..Node::default() };
        assert_eq!(doomed(&pod(None, false), None), None, "it waits to be scheduled");
        assert_eq!(doomed(&pod(None, true), None), Some(Why::Unbound));
        assert_eq!(doomed(&pod(Some("a"), false), None), Some(Why::NodeGone));
        assert_eq!(doomed(&pod(Some("a"), true), Some(&Node::default())), None, "its node will end it");
        assert_eq!(doomed(&pod(Some("a"), true), Some(&off)), Some(Why::OutOfService));
        assert_eq!(doomed(&pod(Some("a"), false), Some(&off)), None, "nobody deleted it");
    }
}
