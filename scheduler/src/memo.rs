//! Decisions about equal pods, remembered: of one shape to the next only the nodes are judged anew that changed since.
//!
//! # Invariants
//! * The answer is that of [`cycle::schedule`].
//! * Memory: [`SHAPES`] shapes at most, each with an entry per node that can take it.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use ahash::AHashMap;

use crate::{
    cycle::{self, Choice, Decision, Rejection},
    filter::{self, Global},
    score,
    shape::Shape,
    snapshot::{GroupId, NodeId, Snapshot},
};

/// Shapes remembered.
pub const SHAPES: usize = 256;

#[derive(Default)]
struct Class {
    /// Changes of the snapshot that are taken into account.
    seen: u64,
    /// The set of labels as it was numbered then.
    group: Option<GroupId>,
    /// Nodes that can take the pod, best first.
    ranked: BTreeSet<(Reverse<i64>, Arc<str>, NodeId)>,
    /// Where each is in `ranked`.
    places: AHashMap<NodeId, (i64, Arc<str>)>,
    /// Why no node can, as of `seen`.
    refusal: Option<Arc<Vec<Rejection>>>,
}

impl Class {
    fn judge(&mut self, id: NodeId, shape: &Shape, snapshot: &Snapshot) {
        if let Some((score, name)) = self.places.remove(&id) {
            self.ranked.remove(&(Reverse(score), name, id));
        }
        let Some(node) = snapshot.node(id) else { return };
        if filter::local(shape, node).is_empty() {
            let score = score::local(shape, self.group, node);
            self.places.insert(id, (score, Arc::clone(&node.name)));
            self.ranked.insert((Reverse(score), Arc::clone(&node.name), id));
        }
    }

    fn catch_up(&mut self, shape: &Shape, snapshot: &Snapshot, fresh: bool) {
        if !fresh && self.seen == snapshot.head() {
            return;
        }
        self.refusal = None;
        let group = snapshot.groups().find(&shape.namespace, &shape.labels);
        // the number of a set of labels is lent: with another number all counts mean something else
        let renamed = self.group.is_some() && self.group != group;
        self.group = group;
        match snapshot.changed_since(self.seen).filter(|_| !fresh && !renamed) {
            Some(changed) => {
                let changed: BTreeSet<NodeId> = changed.collect();
                for id in changed {
                    self.judge(id, shape, snapshot);
                }
            }
            None => {
                self.ranked.clear();
                self.places.clear();
                for (id, _) in snapshot.nodes() {
                    self.judge(id, shape, snapshot);
                }
            }
        }
        self.seen = snapshot.head();
    }
}

/// See the module.
#[derive(Default)]
pub struct Memo {
    classes: AHashMap<Arc<str>, Class>,
}

/// A decision; the rejections are shared by equal pods.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The pod goes there.
    Bind(Choice),
    /// No node can take it.
    Refuse(Arc<Vec<Rejection>>),
}

impl Memo {
    /// Decides as [`cycle::schedule`] does.
    pub fn decide(&mut self, shape: &Shape, snapshot: &Snapshot) -> Answer {
        if let Some(global) = Global::of(shape, snapshot) {
            return match cycle::schedule_with(shape, snapshot, Some(&global)) {
                Decision::Bind(choice) => Answer::Bind(choice),
                Decision::Refuse(rejections) => Answer::Refuse(Arc::new(rejections)),
            };
        }
        if self.classes.len() >= SHAPES && !self.classes.contains_key(&shape.key) {
            self.classes.clear();
        }
        let fresh = !self.classes.contains_key(&shape.key);
        let class = self.classes.entry(Arc::clone(&shape.key)).or_default();
        class.catch_up(shape, snapshot, fresh);
        if let Some((Reverse(score), _, node)) = class.ranked.first() {
            return Answer::Bind(Choice { node: *node, score: *score });
        }
        let refusal = class.refusal.get_or_insert_with(|| match cycle::schedule_with(shape, snapshot, None) {
            Decision::Refuse(rejections) => Arc::new(rejections),
            Decision::Bind(_) => Arc::default(),
        });
        Answer::Refuse(Arc::clone(refusal))
    }
}
