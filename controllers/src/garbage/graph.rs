//! Who owns whom, over all kinds.

use std::collections::VecDeque;

use ahash::{AHashMap, AHashSet};
use api::Kind;
use client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// An object's uid: it outlives names.
pub type Uid = String;

/// The finalizer of an object that waits until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";

/// The finalizer of an object whose dependents are to stay.
pub const ORPHAN: &str = "orphan";

/// Uids of deleted objects that are remembered: their dependents need not ask. Uids never come back.
pub const REMEMBERED: usize = 16_384;

/// What of an object matters here.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its uid.
    pub uid: Uid,
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace and name.
    pub key: Key,
    /// As judged.
    pub resource_version: String,
    /// Who owns it.
    pub owners: Vec<OwnerReference>,
    /// What keeps it.
    pub finalizers: Vec<String>,
    /// It is being deleted.
    pub deleting: bool,
}

impl Node {
    /// The node of an object with this metadata.
    pub fn of(kind: &'static Kind, meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            kind,
            key: Key::of_meta(meta),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    /// It is being deleted, and waits until its dependents are gone.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// It is being deleted, and lets its dependents go first.
    pub fn orphans_dependents(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }

    /// It has that finalizer.
    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Its finalizers but one.
    pub fn finalizers_without(&self, finalizer: &str) -> Vec<String> {
        self.finalizers.iter().filter(|f| *f != finalizer).cloned().collect()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: AHashMap<Uid, Node>,
    dependents: AHashMap<Uid, AHashSet<Uid>>,
    gone: AHashSet<Uid>,
    gone_order: VecDeque<Uid>,
    unlisted: usize,
    listed: AHashSet<&'static str>,
}

impl Graph {
    /// Nothing is judged before so many kinds have been listed.
    pub fn expect_kinds(&mut self, count: usize) {
        self.unlisted = count;
    }

    /// The object with this uid, if it exists as far as is known.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this uid as an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Whether the object of that uid is known to be gone.
    pub fn known_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// An object was created or changed; which objects to judge now.
    pub fn apply(&mut self, node: Node) -> Vec<Uid> {
        let uid = node.uid.clone();
        let before = self.nodes.remove(&uid);
        let mut judge = Vec::new();
        for owner in before.iter().flat_map(|n| &n.owners) {
            if let Some(uids) = self.dependents.get_mut(&owner.uid) {
                uids.remove(&uid);
            }
            // An owner that waited for this dependent may go on.
            if !node.owners.iter().any(|o| o == owner) {
                judge.extend(self.waiting(&owner.uid));
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let owners_changed = before.as_ref().is_none_or(|b| b.owners != node.owners);
        let unowned = node.owners.iter().any(|o| !self.nodes.contains_key(&o.uid) || self.waiting(&o.uid).is_some());
        if node.waits_for_dependents() || node.orphans_dependents() || owners_changed && unowned {
            judge.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        self.ready(judge)
    }

    /// An object is gone; which objects to judge now.
    pub fn delete(&mut self, uid: &str) -> Vec<Uid> {
        self.is_gone(uid);
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut judge: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            judge.extend(self.waiting(&owner.uid));
            if let Some(uids) = self.dependents.get_mut(&owner.uid) {
                uids.remove(uid);
                if uids.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        self.ready(judge)
    }

    /// One kind has been listed whole: what was not listed is gone.
    pub fn listed(&mut self, kind: &'static Kind, listed: &AHashSet<Uid>) -> Vec<Uid> {
        let vanished: Vec<Uid> = self
            .nodes
            .values()
            .filter(|n| std::ptr::eq(n.kind, kind) && !listed.contains(&n.uid))
            .map(|n| n.uid.clone())
            .collect();
        let mut judge: Vec<Uid> = vanished.iter().flat_map(|uid| self.delete(uid)).collect();
        if self.listed.insert(kind.plural) {
            self.unlisted = self.unlisted.saturating_sub(1);
            if self.unlisted == 0 {
                // Only now is it known whose owner was not seen.
                let worth = |n: &&Node| !n.owners.is_empty() || n.deleting;
                judge.extend(self.nodes.values().filter(worth).map(|n| n.uid.clone()));
            }
        }
        self.ready(judge)
    }

    /// It is known that there is no object of that uid any more.
    pub fn is_gone(&mut self, uid: &str) {
        if self.gone.insert(uid.to_owned()) {
            self.gone_order.push_back(uid.to_owned());
            if self.gone_order.len() > REMEMBERED
                && let Some(oldest) = self.gone_order.pop_front()
            {
                self.gone.remove(&oldest);
            }
        }
    }

    /// Owners of the object that no watch has shown, neither living nor gone, with the namespace in which to ask.
    pub fn unsure_owners(&self, uid: &str) -> Vec<(OwnerReference, Option<String>)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let unknown = |o: &&OwnerReference| !self.nodes.contains_key(&o.uid) && !self.gone.contains(&o.uid);
        let namespace = Some(node.key.namespace.clone()).filter(|n| !n.is_empty());
        node.owners.iter().filter(unknown).map(|o| (o.clone(), namespace.clone())).collect()
    }

    /// The owner of that uid, if it waits for its dependents.
    fn waiting(&self, uid: &str) -> Option<Uid> {
        self.nodes.get(uid).filter(|n| n.waits_for_dependents()).map(|n| n.uid.clone())
    }

    /// Nothing is judged before everything was listed once.
    fn ready(&self, judge: Vec<Uid>) -> Vec<Uid> {
        if self.unlisted > 0 { Vec::new() } else { judge }
    }
}
