//! What the scheduler knows of nodes and of the pods on them, kept by deltas.
//!
//! # Invariants
//! * A node's `requested`, ports and groups are the sums over the pods placed on it, bound or assumed.
//! * Every change of a node is noted in a log, so that whoever remembers a judgement knows which nodes to judge anew.
//! * However it came about, a snapshot of the same nodes and pods decides the same.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ahash::AHashMap;
use k8s_openapi::api::core::v1::Node as Object;

use crate::shape::{Shape, Term};

mod groups;
mod node;

pub use groups::{Group, GroupId, Groups};
pub use node::{Difference, Node};

/// Names a node while it is known; afterwards another may get the same number.
pub type NodeId = u32;

/// Changes remembered. Whoever is further behind judges all nodes anew.
const LOG: usize = 8192;

#[derive(Clone, Debug)]
struct Placed {
    node: NodeId,
    shape: Arc<Shape>,
    group: GroupId,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Node>,
    by_name: AHashMap<Arc<str>, NodeId>,
    free: Vec<NodeId>,
    known: usize,
    pods: AHashMap<String, Placed>,
    groups: Groups,
    namespaces: AHashMap<String, BTreeMap<String, String>>,
    repelling: usize,
    log: VecDeque<NodeId>,
    forgotten: u64,
}

impl Snapshot {
    /// Nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).zip(&self.nodes).filter(|(_, n)| n.known)
    }

    /// Their number.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// A node by its number, if it exists.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id as usize).filter(|n| n.known)
    }

    /// A node's number.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// Where a pod is, bound or assumed.
    pub fn place_of(&self, uid: &str) -> Option<NodeId> {
        self.pods.get(uid).map(|p| p.node)
    }

    /// Sets of labels that pods have.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Whether any placed pod keeps others away.
    pub fn repelling(&self) -> bool {
        self.repelling > 0
    }

    /// Whether a term is about pods of this namespace with these labels.
    pub fn concerns(&self, term: &Term, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let named = term.namespaces.iter().any(|n| n == namespace);
        let chosen = || {
            let selector = term.namespace_selector.as_ref()?;
            Some(selector.is_everything() || selector.matches_option(self.namespaces.get(namespace)))
        };
        (named || chosen().unwrap_or(false)) && term.selector.matches(labels)
    }

    /// The position after the newest change.
    pub fn head(&self) -> u64 {
        self.forgotten + self.log.len() as u64
    }

    /// The nodes that changed since `position`; none when that is too long ago.
    pub fn changed_since(&self, position: u64) -> Option<impl Iterator<Item = NodeId>> {
        let skip = usize::try_from(position.checked_sub(self.forgotten)?).ok()?;
        Some(self.log.range(skip.min(self.log.len())..).copied())
    }

    /// A node was created or changed: what of it, as far as it matters here.
    pub fn apply_node(&mut self, object: &Object) -> Difference {
        let name = object.metadata.name.clone().unwrap_or_default();
        let id = self.slot(&name);
        let node = &mut self.nodes[id as usize];
        let appeared = !node.known;
        let mut difference = node.update(object);
        difference.appeared = appeared;
        if appeared {
            node.known = true;
            self.known += 1;
        }
        if difference.any() {
            self.note(id);
        }
        difference
    }

    /// A node is gone. Its pods stay on record until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.find(name) else { return };
        let node = &mut self.nodes[id as usize];
        if node.known {
            node.forget();
            self.known -= 1;
            self.note(id);
        }
        self.release(id);
    }

    /// A pod is on a node, or is assumed to be. Moves it when it was on another.
    pub fn place(&mut self, uid: &str, shape: &Arc<Shape>, node: &str) {
        if let Some(placed) = self.pods.get(uid) {
            if &*self.nodes[placed.node as usize].name == node && placed.shape.key == shape.key {
                return;
            }
            self.remove_pod(uid);
        }
        let id = self.slot(node);
        let group = self.groups.enter(&shape.namespace, &shape.labels);
        self.nodes[id as usize].add(shape, group);
        self.repelling += usize::from(!shape.away.is_empty());
        self.pods.insert(uid.to_owned(), Placed { node: id, shape: Arc::clone(shape), group });
        self.note(id);
    }

    /// A pod is no longer on its node, which is returned.
    pub fn remove_pod(&mut self, uid: &str) -> Option<NodeId> {
        let placed = self.pods.remove(uid)?;
        self.nodes[placed.node as usize].remove(&placed.shape, placed.group);
        self.groups.leave(placed.group);
        self.repelling -= usize::from(!placed.shape.away.is_empty());
        self.note(placed.node);
        self.release(placed.node);
        Some(placed.node)
    }

    /// A namespace has these labels.
    pub fn apply_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    fn slot(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            NodeId::try_from(self.nodes.len() - 1).expect("invariant: fewer than 2^32 nodes")
        });
        self.nodes[id as usize] = Node { name: Arc::clone(&name), ..Node::default() };
        self.by_name.insert(name, id);
        id
    }

    /// Lets a number go that stands for nothing any more.
    fn release(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        if !node.known && node.requested.pods == 0 && self.by_name.remove(&node.name).is_some() {
            self.free.push(id);
        }
    }

    fn note(&mut self, id: NodeId) {
        self.log.push_back(id);
        if self.log.len() > LOG {
            self.log.pop_front();
            self.forgotten += 1;
        }
    }
}
