//! Nodes that stop answering: noticed by their Lease, marked, tainted.
//!
//! Follows upstream's `pkg/controller/nodelifecycle`. What becomes of their Pods is [`crate::eviction`]'s concern.
//!
//! # Invariants
//! * A Node's clock is never compared with ours: a Lease is stale when *we* have not seen it change for the grace period.
//! * When no Node at all is ready, the fault is likely ours: nothing is tainted `NoExecute` then, so nothing is evicted.

use std::time::{Duration, Instant};

use ahash::AHashMap;
use client::{Caches, Controller, During, Error, Key, Next, OrGone, Reader, Reconcile, Recorder, events::Type};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{eviction, pod};

/// Taint of a Node that says that it is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a Node that says nothing any more.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a Node that a user closed.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The namespace of the Nodes' Leases.
pub const LEASES: &str = "kube-node-lease";

/// How soon a Node that is silent is looked at again.
const SILENT: Duration = Duration::from_secs(2);

/// Requests in flight for the Pods of one Node.
const PARALLEL: usize = 32;

/// Conditions that only the Node itself can know.
const OWN: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that are also taints, with the status that taints.
const TAINTING: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// What to do about one Node.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Its conditions, when they must change.
    pub conditions: Option<Vec<NodeCondition>>,
    /// Its taints, when they must change.
    pub taints: Option<Vec<Taint>>,
    /// Its Pods no longer serve: say so.
    pub pods_not_ready: bool,
}

/// The status of a Node's condition.
pub fn status<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

/// Decides. `stale`: the Node has not been heard of for the grace period. `evict`: some Node is ready, so that it makes
/// sense to move Pods. Pure.
pub fn plan(node: &Node, stale: bool, evict: bool, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut node = node.clone();
    if stale {
        let before = node.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        let after = unknown(&before, now);
        if after != before {
            node.status.get_or_insert_default().conditions = Some(after.clone());
            plan.conditions = Some(after);
        }
    }
    let before = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    let after = taints(&node, &before, evict, now);
    if after != before {
        plan.taints = Some(after);
    }
    plan.pods_not_ready = matches!(status(&node, "Ready"), Some("Unknown"));
    plan
}

fn unknown(before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let mut after = before.to_vec();
    for kind in OWN {
        match after.iter_mut().find(|c| c.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            None => after.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: None,
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    after
}

/// The taints that the Node should have: those of others as they are, ours by its conditions.
fn taints(node: &Node, before: &[Taint], evict: bool, now: Timestamp) -> Vec<Taint> {
    let ready = status(node, "Ready");
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (key, is) in [(UNREACHABLE, "Unknown"), (NOT_READY, "False")] {
        if ready == Some(is) {
            wanted.push((key, "NoSchedule"));
            if evict {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    for (condition, bad, key) in TAINTING {
        if status(node, condition) == Some(bad) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default() {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let keys = TAINTING.iter().map(|(_, _, key)| *key).chain([NOT_READY, UNREACHABLE, UNSCHEDULABLE]);
    let ours: Vec<&str> = keys.collect();
    let is_wanted = |t: &Taint| wanted.contains(&(t.key.as_str(), t.effect.as_str()));
    // Not-ready is also what a Node gives itself at birth: without a condition it stays until there is one.
    let keeps = |t: &Taint| !ours.contains(&t.key.as_str()) || is_wanted(t) || ready.is_none() && t.key == NOT_READY;
    let mut after: Vec<Taint> = before.iter().filter(|t| keeps(t)).cloned().collect();
    for (key, effect) in wanted {
        if !after.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            after.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    after
}

/// When a Node was last heard of.
#[derive(Clone, Debug)]
struct Heard {
    renewal: Option<MicroTime>,
    heartbeat: Option<Time>,
    at: Instant,
}

struct Nodes {
    client: kube::Client,
    nodes: Reader<Node>,
    leases: Reader<Lease>,
    pods: Reader<Pod>,
    recorder: Recorder,
    heard: Mutex<AHashMap<String, Heard>>,
    grace: Duration,
}

/// Runs the controller until `shutdown`. `grace` is how long a Node may be silent.
pub async fn run(caches: Caches, grace: Duration, shutdown: CancellationToken) {
    let leases = caches.reader_of_fields::<Lease>(&format!("metadata.namespace={LEASES}"));
    let controller = Nodes {
        client: caches.client().clone(),
        nodes: caches.reader(),
        leases: leases.clone(),
        pods: caches.reader(),
        recorder: Recorder::new(caches.client(), "node-controller", ""),
        heard: Mutex::default(),
        grace,
    };
    Controller::new("node", &caches, controller)
        .watches_in(&leases, |lease| vec![Key::new("", lease.name_any())])
        .run(shutdown)
        .await;
}

impl Reconcile for Nodes {
    type Object = Node;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(key) else {
            self.heard.lock().remove(&key.name);
            return Ok(Next::AwaitChange);
        };
        let now = Instant::now();
        let silent = now.saturating_duration_since(self.last_heard(&node, now));
        let stale = silent >= self.grace;
        let evict = self.nodes.list().iter().any(|n| self.is_well(n, now));
        let plan = plan(&node, stale, evict, Timestamp::now());
        self.apply(&node, key, plan).await?;
        // While a Node is silent the others decide whether its Pods should leave: they are looked at again.
        Ok(Next::After(if stale { SILENT } else { self.grace - silent }))
    }
}

impl Nodes {
    /// The Node is ready, and not only because nobody has said otherwise yet.
    fn is_well(&self, node: &Node, now: Instant) -> bool {
        let heard = self.heard.lock().get(&node.name_any()).map(|h| h.at);
        status(node, "Ready") == Some("True") && heard.is_none_or(|at| now.saturating_duration_since(at) < self.grace)
    }

    /// When the Node was last heard of, by our clock: its Lease or its heartbeat changed.
    fn last_heard(&self, node: &Node, now: Instant) -> Instant {
        let name = node.name_any();
        let lease = self.leases.get(&Key::new(LEASES, name.clone()));
        let renewal = lease.and_then(|l| l.spec.as_ref()?.renew_time.clone());
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.and_then(|c| c.iter().find(|c| c.type_ == "Ready"));
        let heartbeat = ready.and_then(|c| c.last_heartbeat_time.clone());
        let mut heard = self.heard.lock();
        let last = heard.entry(name).or_insert_with(|| Heard { renewal: None, heartbeat: None, at: now });
        if last.renewal != renewal || last.heartbeat != heartbeat {
            *last = Heard { renewal, heartbeat, at: now };
        }
        last.at
    }

    async fn apply(&self, node: &Node, key: &Key, plan: Plan) -> Result<(), Error> {
        let api = Api::<Node>::all(self.client.clone());
        let mut node = node.clone();
        if let Some(conditions) = plan.conditions {
            tracing::warn!(node = %key, grace = ?self.grace, "node is silent");
            self.recorder.event(&node, Type::Normal, "NodeNotReady", format!("Node {key} status is now: NodeNotReady"));
            node.status.get_or_insert_default().conditions = Some(conditions);
            let answer = api.replace_status(&key.name, &PostParams::default(), &node).await;
            let Some(written) = answer.during::<Node>("update the status of", key).or_gone()? else { return Ok(()) };
            node = written;
        }
        if let Some(taints) = plan.taints {
            let taints = (!taints.is_empty()).then_some(taints);
            let patch = serde_json::json!({
                "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
            });
            let answer = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            answer.during::<Node>("taint", key).or_gone()?;
        }
        if plan.pods_not_ready {
            let pods = eviction::pods_on(&self.pods, &key.name).into_iter().filter(|p| pod::is_ready(p));
            let marked = stream::iter(pods).map(|pod| async move { self.mark_not_ready(&pod).await });
            marked.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Nobody should be sent to a Pod whose Node is silent.
    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), Error> {
        let mut pod = pod.clone();
        let conditions = pod.status.as_mut().and_then(|s| s.conditions.as_mut());
        for condition in conditions.into_iter().flatten().filter(|c| c.type_ == "Ready") {
            condition.status = "False".into();
            condition.reason = Some("NodeNotReady".into());
            condition.message = Some("the node stopped answering".into());
            condition.last_transition_time = Some(Time(Timestamp::now()));
        }
        let key = Key::of(&pod);
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let answer = api.replace_status(&key.name, &PostParams::default(), &pod).await;
        answer.during::<Pod>("update the status of", &key).or_gone().map(drop)
    }
}
