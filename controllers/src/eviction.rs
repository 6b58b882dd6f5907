//! Pods on Nodes with `NoExecute` taints: deleted when they do not tolerate them, or no longer.
//!
//! Follows upstream's `pkg/controller/tainteviction`. The time that a Pod tolerates a taint counts from when the taint was
//! added, so that a restart of this process does not start it anew.

use std::{sync::Arc, time::Duration};

use client::{Caches, Controller, During, Error, Key, Next, OrGone, Reader, Reconcile, Recorder, events::Type};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use tokio_util::sync::CancellationToken;

use crate::{node, pod};

/// Requests in flight for the Pods of one Node.
const PARALLEL: usize = 32;

/// The Pods bound to a Node.
pub fn pods_on(pods: &Reader<Pod>, node: &str) -> Vec<Arc<Pod>> {
    let mut all = pods.list();
    all.retain(|p| pod::node(p) == Some(node));
    all
}

/// Whether a toleration is about that taint, as `k8s.io/api/core/v1.Toleration.ToleratesTaint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// How long the Pod may stay on a Node with these taints: none for ever, zero for no longer. `default` is for taints of
/// silent Nodes and Pods that say nothing about them. Pure.
pub fn stays(pod: &Pod, taints: &[Taint], default: Duration, now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let left = |taint: &Taint| {
        let matching: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        let silent = [node::NOT_READY, node::UNREACHABLE].contains(&taint.key.as_str());
        let seconds = match matching.iter().map(|t| t.toleration_seconds).collect::<Option<Vec<_>>>() {
            Some(limits) => limits.into_iter().min().or(silent.then_some(default.as_secs().cast_signed()))?,
            // Some toleration has no limit; the others' limits still count, as upstream has it.
            None => matching.iter().filter_map(|t| t.toleration_seconds).min().unwrap_or(i64::MAX),
        };
        Some(match taint.time_added.as_ref() {
            _ if seconds == i64::MAX => Duration::MAX,
            None => Duration::from_secs(seconds.max(0).cast_unsigned()),
            Some(added) => {
                let end = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(added.0);
                Duration::try_from(end).unwrap_or_default()
            }
        })
    };
    let evicting = taints.iter().filter(|t| t.effect == "NoExecute");
    evicting.map(|t| left(t).unwrap_or_default()).min().filter(|d| *d != Duration::MAX)
}

struct Evictions {
    client: kube::Client,
    nodes: Reader<Node>,
    pods: Reader<Pod>,
    recorder: Recorder,
    default: Duration,
}

/// Runs the controller until `shutdown`. `default` is how long a Pod that says nothing stays on a silent Node.
pub async fn run(caches: Caches, default: Duration, shutdown: CancellationToken) {
    let controller = Evictions {
        client: caches.client().clone(),
        nodes: caches.reader(),
        pods: caches.reader(),
        recorder: Recorder::new(caches.client(), "taint-eviction-controller", ""),
        default,
    };
    let nodes = caches.reader::<Node>();
    Controller::new("eviction", &caches, controller)
        .watches::<Pod>(move |pod| {
            let key = pod::node(pod).map(|name| Key::new("", name));
            key.filter(|k| nodes.get(k).is_some_and(|n| !evicting(&n).is_empty())).into_iter().collect()
        })
        .run(shutdown)
        .await;
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

impl Reconcile for Evictions {
    type Object = Node;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let taints = self.nodes.get(key).map(|n| evicting(&n)).unwrap_or_default();
        if taints.is_empty() {
            return Ok(Next::AwaitChange);
        }
        let now = Timestamp::now();
        let (mut doomed, mut next) = (Vec::new(), None::<Duration>);
        for pod in pods_on(&self.pods, &key.name) {
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            match stays(&pod, &taints, self.default, now) {
                Some(Duration::ZERO) => doomed.push(pod),
                Some(left) => next = Some(next.map_or(left, |n| n.min(left))),
                None => {}
            }
        }
        let evicted = stream::iter(doomed).map(|pod| async move { self.evict(&pod).await });
        evicted.buffer_unordered(PARALLEL).try_collect::<()>().await?;
        Ok(next.map_or(Next::AwaitChange, Next::After))
    }
}

impl Evictions {
    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let key = Key::of(pod);
        self.recorder.event(pod, Type::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        api.delete(&key.name, &params).await.during::<Pod>("evict", &key).or_gone().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::Time};

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(30);

    fn left(tolerations: &str, taint: &str, age: i64) -> Option<u64> {
        let tolerations = tolerations.split_whitespace().map(|text| {
            let mut parts = text.split(':');
            let key = parts.next().filter(|k| *k != "*").map(str::to_owned);
            let toleration_seconds = parts.next().map(|s| s.parse().unwrap());
            Toleration { key, operator: Some("Exists".into()), toleration_seconds, ..Toleration::default() }
        });
        let spec = PodSpec { tolerations: Some(tolerations.collect()), ..PodSpec::default() };
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        let added = Timestamp::from_second(1000).unwrap();
        let taint =
            Taint { key: taint.into(), effect: "NoExecute".into(), time_added: Some(Time(added)), ..Taint::default() };
        let now = added + SignedDuration::from_secs(age);
        stays(&pod, &[taint], DEFAULT, now).map(|d| d.as_secs())
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        assert_eq!(left("", node::UNREACHABLE, 10), Some(20), "the default, counted from when the taint was added");
        assert_eq!(left("node.kubernetes.io/unreachable:300", node::UNREACHABLE, 10), Some(290));
        assert_eq!(left("node.kubernetes.io/unreachable:5", node::UNREACHABLE, 10), Some(0));
        assert_eq!(left("*", node::UNREACHABLE, 10), None, "for ever");
        assert_eq!(left("* node.kubernetes.io/unreachable:5", node::UNREACHABLE, 0), Some(5));
        assert_eq!(left("", "maintenance", 0), Some(0), "no default for what a user says");
        assert_eq!(left("other", "maintenance", 0), Some(0));
    }
}
