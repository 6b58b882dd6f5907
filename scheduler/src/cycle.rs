//! One decision: where a pod goes, or why nowhere.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    filter::{self, Global, Reason},
    score,
    shape::Shape,
    snapshot::{Node, NodeId, Snapshot},
};

/// The node chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number in the snapshot.
    pub node: NodeId,
    /// Its score.
    pub score: i64,
}

/// A node that cannot take the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The node's name.
    pub node: String,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pod goes there.
    Bind(Choice),
    /// No node can take it, each for its reasons, in order of names.
    Refuse(Vec<Rejection>),
}

/// Decides about a pod: a function of the pod and the snapshot alone. Looks at every node; see [`crate::memo`] for the
/// quick way to the same answer.
pub fn schedule(shape: &Shape, snapshot: &Snapshot) -> Decision {
    let global = Global::of(shape, snapshot);
    schedule_with(shape, snapshot, global.as_ref())
}

/// As [`schedule`], with what [`Global::of`] found.
pub fn schedule_with(shape: &Shape, snapshot: &Snapshot, global: Option<&Global>) -> Decision {
    let group = snapshot.groups().find(&shape.namespace, &shape.labels);
    let mut fit: Vec<(NodeId, &Node)> = Vec::new();
    let mut rejections = Vec::new();
    for (id, node) in snapshot.nodes() {
        let mut reasons = filter::local(shape, node);
        if reasons.is_empty() {
            reasons.extend(global.and_then(|g| g.check(node)));
        }
        if reasons.is_empty() {
            fit.push((id, node));
        } else {
            rejections.push(Rejection { node: node.name.to_string(), reasons });
        }
    }
    let mut scores: Vec<i64> = fit.iter().map(|(_, node)| score::local(shape, group, node)).collect();
    if let Some(global) = global {
        let raw: Vec<_> = fit.iter().map(|(_, node)| global.liking(node)).collect();
        let crowds: Vec<_> = raw.iter().map(|[crowd, _]| -crowd).collect();
        let likings: Vec<_> = raw.iter().map(|[_, liking]| *liking).collect();
        let (crowds, likings) = (score::normalize(&crowds), score::normalize(&likings));
        for (index, score) in scores.iter_mut().enumerate() {
            *score += crowds[index] + likings[index];
        }
    }
    // of equals the first by name, so that the order in which nodes came does not matter
    let best = fit.iter().zip(scores).max_by_key(|((_, node), score)| (*score, Reverse(&node.name)));
    match best {
        Some(((node, _), score)) => Decision::Bind(Choice { node: *node, score }),
        None => {
            rejections.sort_by(|a, b| a.node.cmp(&b.node));
            Decision::Refuse(rejections)
        }
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`: upstream's words.
pub fn message(rejections: &[Rejection]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in rejections.iter().flat_map(|r| &r.reasons) {
        *counts.entry(reason.to_string()).or_default() += 1;
    }
    let mut parts: Vec<_> = counts.into_iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
    parts.sort();
    if parts.is_empty() {
        return "0/0 nodes are available: no nodes available to schedule pods".into();
    }
    format!("0/{} nodes are available: {}.", rejections.len(), parts.join(", "))
}

/// What can let the pod in: the sum of what can cure each reason.
pub fn cures(rejections: &[Rejection]) -> u8 {
    rejections.iter().flat_map(|r| &r.reasons).fold(filter::cure::NODE, |sum, reason| sum | reason.cures())
}
