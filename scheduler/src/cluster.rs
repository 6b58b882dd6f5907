//! The state that decisions start from: the snapshot, the queue, and the pods assumed to be where they are being bound.
//!
//! Changes go in, decisions come out; writing them is the shell's.

use std::{sync::Arc, time::Instant};

use ahash::AHashMap;
use client::{Change, Key};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};

use crate::{
    cycle::{self, Rejection},
    filter::cure,
    memo::{Answer, Memo},
    queue::Queue,
    shape::Shape,
    snapshot::{NodeId, Snapshot},
};

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Order {
    /// Bind the pod to the node; then call [`Cluster::bound`] or [`Cluster::unbound`].
    Bind {
        /// The pod.
        pod: Arc<Pod>,
        /// The node's name.
        node: String,
    },
    /// Say why the pod has no node.
    Explain {
        /// The pod.
        pod: Arc<Pod>,
        /// Each node's reasons.
        rejections: Arc<Vec<Rejection>>,
    },
}

/// See the module.
pub struct Cluster {
    name: String,
    /// Nodes, and the pods on them.
    pub snapshot: Snapshot,
    /// Pods without a node.
    pub queue: Queue,
    memo: Memo,
    /// Pods whose binding is on its way, or written and not yet seen: uid to key.
    assumed: AHashMap<String, Key>,
}

fn text(field: Option<&String>) -> &str {
    field.map(String::as_str).unwrap_or_default()
}

impl Cluster {
    /// A cluster of nothing, for the scheduler of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            memo: Memo::default(),
            assumed: AHashMap::new(),
        }
    }

    /// A node changed.
    pub fn node(&mut self, change: &Change<Node>, now: Instant) {
        match change {
            Change::Applied { new, .. } => {
                let difference = self.snapshot.apply_node(new);
                let cures = [
                    (difference.appeared, cure::NODE),
                    (difference.labels, cure::LABELS),
                    (difference.taints, cure::TAINTS),
                    (difference.allocatable, cure::ALLOCATABLE),
                ];
                let cures = cures.iter().filter(|(changed, _)| *changed).fold(0, |sum, (_, cure)| sum | cure);
                if cures != 0 {
                    let at = self.snapshot.find(text(new.metadata.name.as_ref()));
                    self.queue.wake(cures, at, &self.snapshot, now);
                }
            }
            Change::Deleted(old) => {
                self.snapshot.remove_node(text(old.metadata.name.as_ref()));
                // the message of waiting pods counts nodes, and domains may have vanished
                self.queue.wake(cure::LABELS, None, &self.snapshot, now);
            }
        }
    }

    /// A namespace changed.
    pub fn namespace(&mut self, change: &Change<Namespace>, now: Instant) {
        let meta = &change.object().metadata;
        let name = text(meta.name.as_ref());
        match change {
            Change::Applied { .. } => {
                self.snapshot.apply_namespace(name, meta.labels.clone().unwrap_or_default());
                self.queue.wake(cure::POD_COMES | cure::POD_LEAVES, None, &self.snapshot, now);
            }
            Change::Deleted(_) => self.snapshot.remove_namespace(name),
        }
    }

    /// A pod changed.
    pub fn pod(&mut self, change: &Change<Pod>, now: Instant) {
        let pod = change.object();
        let key = Key::of(&**pod);
        let uid = text(pod.metadata.uid.as_ref());
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed")) || matches!(change, Change::Deleted(_));
        if ended {
            self.queue.remove(&key);
            self.assumed.remove(uid);
            self.leaves(uid, now);
            return;
        }
        if let Some(node) = spec.and_then(|s| s.node_name.as_ref()).filter(|n| !n.is_empty()) {
            self.queue.remove(&key);
            let new = self.assumed.remove(uid).is_none() && self.snapshot.place_of(uid).is_none();
            self.snapshot.place(uid, &Arc::new(Shape::of(pod)), node);
            if new {
                self.comes(node.clone().as_str(), now);
            }
            return;
        }
        let ours = spec.and_then(|s| s.scheduler_name.as_ref()).is_none_or(|n| *n == self.name);
        let gated = spec.is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()));
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(&key);
        } else if !self.assumed.contains_key(uid) {
            self.queue.apply(pod);
        }
    }

    /// Decides about the next pod; none when none waits.
    pub fn decide(&mut self, now: Instant) -> Option<Order> {
        let waiting = self.queue.pop(now)?;
        let key = Key::of(&*waiting.pod);
        match self.memo.decide(&waiting.shape, &self.snapshot) {
            Answer::Bind(choice) => {
                let node = self.snapshot.node(choice.node).map(|n| n.name.to_string()).unwrap_or_default();
                let uid = text(waiting.pod.metadata.uid.as_ref());
                self.snapshot.place(uid, &waiting.shape, &node);
                self.assumed.insert(uid.to_owned(), key);
                self.comes(&node, now);
                Some(Order::Bind { pod: waiting.pod, node })
            }
            Answer::Refuse(rejections) => {
                self.queue.refuse(&key, cycle::cures(&rejections), now);
                Some(Order::Explain { pod: waiting.pod, rejections })
            }
        }
    }

    /// The binding is written. The pod leaves the queue; the watch will confirm it.
    pub fn bound(&mut self, pod: &Pod) {
        if self.assumed.contains_key(text(pod.metadata.uid.as_ref())) {
            self.queue.remove(&Key::of(pod));
        }
    }

    /// The binding failed: what was assumed is taken back, and the pod tried again later.
    pub fn unbound(&mut self, pod: &Pod, now: Instant) {
        let uid = text(pod.metadata.uid.as_ref());
        // confirmed or deleted meanwhile: the watch knows better
        if self.assumed.remove(uid).is_some() {
            self.queue.fail(&Key::of(pod), now);
            self.leaves(uid, now);
        }
    }

    fn leaves(&mut self, uid: &str, now: Instant) {
        if let Some(node) = self.snapshot.remove_pod(uid) {
            self.wake_at(cure::POD_LEAVES, node, now);
        }
    }

    fn comes(&mut self, node: &str, now: Instant) {
        if let Some(node) = self.snapshot.find(node) {
            self.wake_at(cure::POD_COMES, node, now);
        }
    }

    fn wake_at(&mut self, cures: u8, node: NodeId, now: Instant) {
        self.queue.wake(cures, Some(node), &self.snapshot, now);
    }
}
