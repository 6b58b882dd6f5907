//! What a node must fulfil to take a pod: one file per rule, and the order in which they are asked.
//!
//! Reasons read as upstream's plugins word them: users look for them.

use crate::{
    shape::Shape,
    snapshot::{Node, Snapshot},
};

pub mod affinity;
pub mod node_name;
pub mod pod_affinity;
pub mod ports;
pub mod resources;
pub mod spread;
pub mod taints;
pub mod unschedulable;

/// What can let in a pod that was refused: bits of [`Reason::cures`].
pub mod cure {
    /// Another node.
    pub const NODE: u8 = 1;
    /// Other labels of a node.
    pub const LABELS: u8 = 2;
    /// Other taints of a node, or its being uncordoned.
    pub const TAINTS: u8 = 4;
    /// More resources of a node.
    pub const ALLOCATABLE: u8 = 8;
    /// A pod that leaves.
    pub const POD_LEAVES: u8 = 16;
    /// A pod that comes.
    pub const POD_COMES: u8 = 32;
}

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It is cordoned.
    Unschedulable,
    /// The pod asks for another by name.
    NodeName,
    /// The pod does not stand this taint.
    Taint {
        /// The taint's key.
        key: String,
        /// The taint's value, or empty.
        value: String,
    },
    /// The pod's node selector or affinity says no.
    Affinity,
    /// A port is in use.
    Ports,
    /// Not enough of this resource is left.
    Insufficient(String),
    /// It has as many pods as it takes.
    TooManyPods,
    /// A domain would hold too many more than another.
    Spread,
    /// The node has no label to tell its domain.
    SpreadLabel,
    /// The pods that it wants to be near are elsewhere.
    PodAffinity,
    /// Pods that it wants not to be near are here.
    PodAntiAffinity,
    /// Pods are here that want not to be near it.
    ExistingAntiAffinity,
}

impl Reason {
    /// What can change the answer.
    pub fn cures(&self) -> u8 {
        cure::NODE
            | match self {
                Self::Unschedulable | Self::Taint { .. } => cure::TAINTS,
                Self::NodeName => 0,
                Self::Affinity => cure::LABELS,
                Self::Ports => cure::POD_LEAVES,
                Self::Insufficient(_) | Self::TooManyPods => cure::ALLOCATABLE | cure::POD_LEAVES,
                Self::SpreadLabel => cure::LABELS,
                Self::Spread => cure::LABELS | cure::TAINTS | cure::POD_LEAVES | cure::POD_COMES,
                Self::PodAffinity => cure::LABELS | cure::POD_COMES,
                Self::PodAntiAffinity | Self::ExistingAntiAffinity => cure::LABELS | cure::POD_LEAVES,
            }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Taint { key, value } => return write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::TooManyPods => "Too many pods",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

/// The rules that look at one node alone. All reasons of the first rule that says no; empty when all say yes.
pub fn local(shape: &Shape, node: &Node) -> Vec<Reason> {
    let one = unschedulable::check(shape, node)
        .or_else(|| node_name::check(shape, node))
        .or_else(|| taints::check(shape, node))
        .or_else(|| affinity::check(shape, node))
        .or_else(|| ports::check(shape, node));
    match one {
        Some(reason) => vec![reason],
        None => resources::check(shape, node),
    }
}

/// The rules that look at other nodes too, prepared once for a pod.
pub struct Global {
    spread: spread::Domains,
    pods: pod_affinity::Neighbours,
}

impl Global {
    /// Counts what the rules need; none when no such rule concerns the pod.
    pub fn of(shape: &Shape, snapshot: &Snapshot) -> Option<Self> {
        let pods = pod_affinity::Neighbours::of(shape, snapshot);
        if shape.local() && pods.idle() {
            return None;
        }
        Some(Self { spread: spread::Domains::of(shape, snapshot), pods })
    }

    /// The reason of the first rule that says no to this node.
    pub fn check(&self, node: &Node) -> Option<Reason> {
        self.spread.check(node).or_else(|| self.pods.check(node))
    }

    /// How the preferences among these rules like the node; 0 or more, not normalized.
    pub fn liking(&self, node: &Node) -> [i64; 2] {
        [self.spread.crowd(node), self.pods.liking(node)]
    }
}
