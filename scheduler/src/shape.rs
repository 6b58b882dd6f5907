//! All of a pod that decides where it may run. Equal pods have one shape, and are decided about once.

use std::{collections::BTreeMap, hash::Hash, sync::Arc};

use api::selector::{Operator, Requirement, Selector};
use k8s_openapi::{
    api::core::v1::{
        NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::amounts::{self, Amounts};

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub address: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn clashes(&self, other: &Self) -> bool {
        let any = |p: &Self| p.address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(self) || any(other))
    }
}

/// Pods that a term is about: those of some namespaces that a selector chooses, and how far around each it reaches.
#[derive(Clone, Debug)]
pub struct Term {
    /// These namespaces.
    pub namespaces: Vec<String>,
    /// And those whose labels this chooses.
    pub namespace_selector: Option<Selector>,
    /// These pods.
    pub selector: Selector,
    /// The node label whose value is the reach.
    pub topology_key: String,
    /// How much it counts, where it is a preference.
    pub weight: i64,
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    /// The pods counted, of the pod's own namespace.
    pub selector: Selector,
    /// The node label whose values are the domains.
    pub topology_key: String,
    /// How many more than the emptiest domain one may hold.
    pub max_skew: i64,
    /// With fewer domains than this, the emptiest counts as holding none.
    pub min_domains: i64,
    /// The rule must hold; otherwise it is a preference.
    pub required: bool,
    /// Nodes that the pod's selector and affinity exclude are no domains.
    pub honor_affinity: bool,
    /// Nodes whose taints the pod does not tolerate are no domains.
    pub honor_taints: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Equal for equal shapes.
    pub key: Arc<str>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// What it needs.
    pub requests: Amounts,
    /// What it counts as when nodes are compared.
    pub weighed: Amounts,
    /// The one node that it asks for by name (never set for pods in the queue, but for what-if).
    pub node_name: Option<String>,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// One of these must match; none for any node.
    pub node_terms: Option<Vec<NodeSelectorTerm>>,
    /// Nodes that are liked better.
    pub preferred_nodes: Vec<(i64, NodeSelectorTerm)>,
    /// Taints that it stands.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node.
    pub ports: Vec<HostPort>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Pods that it must be near.
    pub near: Vec<Term>,
    /// Pods that it must not be near.
    pub away: Vec<Term>,
    /// Pods that it would like to be near (positive weight) or not (negative).
    pub liked: Vec<Term>,
}

impl Shape {
    /// Whether a node can be judged without looking at any other.
    pub fn local(&self) -> bool {
        self.spread.is_empty() && self.near.is_empty() && self.away.is_empty() && self.liked.is_empty()
    }

    /// The shape of a pod.
    pub fn of(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let requests = amounts::of_pod(spec);
        let weighed = amounts::weighed_pod(spec);
        let ports = ports(spec);
        let key = key(spec, &namespace, &labels, &requests, &weighed, &ports);
        let node = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = node.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred = node.and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref());
        let near = spec.affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
        let away = spec.affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
        let near_preferred = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let away_preferred = away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let term = |t: &PodAffinityTerm| term(t, &namespace, &labels);
        let weighted = |t: &WeightedPodAffinityTerm, sign: i64| Term {
            weight: sign * i64::from(t.weight),
            ..term(&t.pod_affinity_term)
        };
        let liked = near_preferred.into_iter().flatten().map(|t| weighted(t, 1));
        let liked = liked.chain(away_preferred.into_iter().flatten().map(|t| weighted(t, -1))).collect();
        let near = near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let away = away.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        Self {
            key,
            requests,
            weighed,
            ports,
            node_name: spec.node_name.clone().filter(|n| !n.is_empty()),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_terms: required.map(|r| r.node_selector_terms.clone()),
            preferred_nodes: preferred.into_iter().flatten().map(|p| (p.weight.into(), p.preference.clone())).collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            spread: spec.topology_spread_constraints.iter().flatten().map(|c| spread(c, &labels)).collect(),
            near: near.into_iter().flatten().map(term).collect(),
            away: away.into_iter().flatten().map(term).collect(),
            liked,
            namespace,
            labels,
        }
    }
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let containers = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some());
    containers
        .chain(&spec.containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| HostPort {
            address: p.host_ip.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: p.host_port.unwrap_or_default(),
        })
        .collect()
}

/// A text that is equal exactly for equal shapes.
fn key(
    spec: &PodSpec,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    requests: &Amounts,
    weighed: &Amounts,
    ports: &[HostPort],
) -> Arc<str> {
    let numbers = |a: &Amounts| format!("{},{},{},{:?}", a.cpu, a.memory, a.storage, a.other);
    let parts = (
        (namespace, labels, numbers(requests), numbers(weighed), format!("{ports:?}")),
        (&spec.node_name, &spec.node_selector, &spec.affinity, &spec.tolerations, &spec.topology_spread_constraints),
    );
    serde_json::to_string(&parts).expect("invariant: texts and maps of texts have a JSON form").into()
}

/// The selector with the pod's own values of some of its labels added (KEP-3243, KEP-3633).
fn selector(
    selector: Option<&LabelSelector>,
    labels: &BTreeMap<String, String>,
    same: Option<&Vec<String>>,
    different: Option<&Vec<String>>,
) -> Selector {
    let Some(selector) = selector else { return Selector::nothing() };
    let Ok(read) = Selector::from_label_selector(Some(selector)) else { return Selector::nothing() };
    let mut requirements = read.requirements().unwrap_or_default().to_vec();
    for (keys, operator) in [(same, Operator::In), (different, Operator::NotIn)] {
        let own = keys.into_iter().flatten().filter_map(|key| labels.get_key_value(key));
        requirements.extend(own.filter_map(|(key, value)| Requirement::new(key, operator, vec![value.clone()]).ok()));
    }
    Selector::new(requirements)
}

fn term(term: &PodAffinityTerm, namespace: &str, labels: &BTreeMap<String, String>) -> Term {
    let named = term.namespaces.clone().unwrap_or_default();
    let own = named.is_empty() && term.namespace_selector.is_none();
    Term {
        namespaces: if own { vec![namespace.to_owned()] } else { named },
        namespace_selector: term.namespace_selector.as_ref().and_then(|s| Selector::from_label_selector(Some(s)).ok()),
        selector: selector(
            term.label_selector.as_ref(),
            labels,
            term.match_label_keys.as_ref(),
            term.mismatch_label_keys.as_ref(),
        ),
        topology_key: term.topology_key.clone(),
        weight: 0,
    }
}

fn spread(constraint: &TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Spread {
    Spread {
        selector: selector(constraint.label_selector.as_ref(), labels, constraint.match_label_keys.as_ref(), None),
        topology_key: constraint.topology_key.clone(),
        max_skew: constraint.max_skew.into(),
        min_domains: constraint.min_domains.unwrap_or(1).into(),
        required: constraint.when_unsatisfiable == "DoNotSchedule",
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}
