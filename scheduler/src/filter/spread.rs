//! Topology spread constraints: how many more of some pods one domain may hold than another.

use ahash::AHashMap;

use super::{Reason, affinity, taints};
use crate::{
    shape::{Shape, Spread},
    snapshot::{Node, Snapshot},
};

struct Counted {
    key: String,
    max_skew: i64,
    required: bool,
    own: i64,
    least: i64,
    pods: AHashMap<String, i64>,
}

/// How many pods each domain holds, per constraint.
pub struct Domains {
    constraints: Vec<Counted>,
}

impl Domains {
    /// Counts.
    pub fn of(shape: &Shape, snapshot: &Snapshot) -> Self {
        Self { constraints: shape.spread.iter().map(|s| count(s, shape, snapshot)).collect() }
    }

    /// Whether the node's domain would hold too many.
    pub fn check(&self, node: &Node) -> Option<Reason> {
        self.constraints.iter().filter(|c| c.required).find_map(|c| {
            let Some(domain) = node.labels.get(&c.key) else { return Some(Reason::SpreadLabel) };
            let here = c.pods.get(domain).copied().unwrap_or_default();
            (here + c.own - c.least > c.max_skew).then_some(Reason::Spread)
        })
    }

    /// How many pods the node's domains hold already, by the constraints that are preferences.
    pub fn crowd(&self, node: &Node) -> i64 {
        let soft = self.constraints.iter().filter(|c| !c.required);
        soft.map(|c| {
            // a node without the label is the last choice
            let most = || c.pods.values().max().copied().unwrap_or_default() + 1;
            node.labels.get(&c.key).map_or_else(most, |d| c.pods.get(d).copied().unwrap_or_default())
        })
        .sum()
    }
}

fn count(spread: &Spread, shape: &Shape, snapshot: &Snapshot) -> Counted {
    let groups = snapshot.groups().iter();
    let matching: Vec<_> = groups
        .filter(|(_, g)| g.namespace == shape.namespace && spread.selector.matches(&g.labels))
        .map(|(id, _)| id)
        .collect();
    let keys: Vec<_> = shape.spread.iter().filter(|s| s.required == spread.required).map(|s| &s.topology_key).collect();
    let mut pods = AHashMap::new();
    for (_, node) in snapshot.nodes() {
        let eligible = keys.iter().all(|key| node.labels.contains_key(*key))
            && (!spread.honor_affinity || affinity::wants(shape, node))
            && (!spread.honor_taints || taints::check(shape, node).is_none());
        let Some(domain) = node.labels.get(&spread.topology_key).filter(|_| eligible) else { continue };
        let here: i64 = matching.iter().map(|id| i64::from(node.count(*id))).sum();
        *pods.entry(domain.clone()).or_default() += here;
    }
    let few = i64::try_from(pods.len()).unwrap_or(i64::MAX) < spread.min_domains;
    let least = if few { 0 } else { pods.values().min().copied().unwrap_or_default() };
    Counted {
        key: spread.topology_key.clone(),
        max_skew: spread.max_skew,
        required: spread.required,
        own: i64::from(spread.selector.matches(&shape.labels)),
        least,
        pods,
    }
}
