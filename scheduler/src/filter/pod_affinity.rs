//! Pods that a pod must be near or must not be near, and pods that must not have it near.

use ahash::{AHashMap, AHashSet};

use super::Reason;
use crate::{
    shape::{Shape, Term},
    snapshot::{Node, Snapshot},
};

struct Around {
    key: String,
    weight: i64,
    pods: AHashMap<String, i64>,
}

/// Which pods are in reach of which nodes.
pub struct Neighbours {
    near: Vec<Around>,
    away: Vec<Around>,
    liked: Vec<Around>,
    /// No pod anywhere is as the pod wants its neighbours, but it is so itself: it may be the first.
    first: bool,
    forbidden: AHashSet<(String, String)>,
}

impl Neighbours {
    /// Counts.
    pub fn of(shape: &Shape, snapshot: &Snapshot) -> Self {
        let around = |terms: &[Term]| terms.iter().map(|t| around(t, snapshot)).collect::<Vec<_>>();
        let near = around(&shape.near);
        let first = near.iter().all(|a| a.pods.values().all(|pods| *pods == 0))
            && shape.near.iter().all(|t| snapshot.concerns(t, &shape.namespace, &shape.labels));
        Self {
            near,
            away: around(&shape.away),
            liked: around(&shape.liked),
            first,
            forbidden: forbidden(shape, snapshot),
        }
    }

    /// Whether nothing here concerns the pod.
    pub fn idle(&self) -> bool {
        self.near.is_empty() && self.away.is_empty() && self.liked.is_empty() && self.forbidden.is_empty()
    }

    /// The first rule that says no, in upstream's order.
    pub fn check(&self, node: &Node) -> Option<Reason> {
        let pods = |around: &Around| Some(around.pods.get(node.labels.get(&around.key)?).copied().unwrap_or_default());
        let close = self.near.iter().all(|a| pods(a).is_some_and(|p| p > 0 || self.first));
        if !close {
            return Some(Reason::PodAffinity);
        }
        if self.away.iter().any(|a| pods(a).is_some_and(|p| p > 0)) {
            return Some(Reason::PodAntiAffinity);
        }
        let forbidden = self.forbidden.iter().any(|(key, value)| node.labels.get(key) == Some(value));
        forbidden.then_some(Reason::ExistingAntiAffinity)
    }

    /// The sum of the weights of the pods in reach.
    pub fn liking(&self, node: &Node) -> i64 {
        let here = |a: &Around| node.labels.get(&a.key).and_then(|d| a.pods.get(d)).copied().unwrap_or_default();
        self.liked.iter().map(|a| a.weight * here(a)).sum()
    }
}

fn around(term: &Term, snapshot: &Snapshot) -> Around {
    let groups = snapshot.groups().iter();
    let matching: Vec<_> =
        groups.filter(|(_, g)| snapshot.concerns(term, &g.namespace, &g.labels)).map(|(id, _)| id).collect();
    let mut pods = AHashMap::new();
    for (_, node) in snapshot.nodes() {
        let Some(domain) = node.labels.get(&term.topology_key) else { continue };
        let here: i64 = matching.iter().map(|id| i64::from(node.count(*id))).sum();
        if here > 0 {
            *pods.entry(domain.clone()).or_default() += here;
        }
    }
    Around { key: term.topology_key.clone(), weight: term.weight, pods }
}

/// The domains that pods already there keep this one out of.
fn forbidden(shape: &Shape, snapshot: &Snapshot) -> AHashSet<(String, String)> {
    let mut domains = AHashSet::new();
    if !snapshot.repelling() {
        return domains;
    }
    for (_, node) in snapshot.nodes().filter(|(_, n)| !n.repellers.is_empty()) {
        for term in node.repellers.iter().flat_map(|s| &s.away) {
            let Some(value) = node.labels.get(&term.topology_key) else { continue };
            if snapshot.concerns(term, &shape.namespace, &shape.labels) {
                domains.insert((term.topology_key.clone(), value.clone()));
            }
        }
    }
    domains
}
