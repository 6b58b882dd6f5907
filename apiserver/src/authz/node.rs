//! The node authorizer: a node reads what its pods refer to, and writes what is its own (upstream
//! `plugin/pkg/auth/authorizer/node`). What of its own it may write is admission's concern.

mod references;

use api::selector::FieldSelector;
use k8s_openapi::api::{core::v1::Pod, rbac::v1::PolicyRule};

use self::references::{ACCOUNTS, CONFIG_MAPS, Reference, References, SECRETS};
use super::{Attributes, Decision};
use crate::cache::Cache;

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

/// The field that says where a pod is bound.
const NODE_OF_POD: &str = "spec.nodeName";

/// What every node may do, to any object that its further rules do not narrow: group, resource, verbs.
const RULES: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews", "create"),
    ("authorization.k8s.io", "localsubjectaccessreviews", "create"),
    ("", "services", "get list watch"),
    ("", "namespaces", "get list watch"),
    ("discovery.k8s.io", "endpointslices", "get list watch"),
    ("", "nodes", "create get list watch update patch"),
    ("", "nodes/status", "update patch"),
    ("", "events", "create update patch"),
    ("", "pods", "get list watch delete"),
    ("", "pods/status", "update patch"),
    ("", "pods/eviction", "create"),
    ("", "secrets", "get list watch"),
    ("", "configmaps", "get list watch"),
    ("", "serviceaccounts/token", "create"),
    ("", "serviceaccounts", "get"),
    ("coordination.k8s.io", "leases", "get create update patch delete"),
];

/// The same as RBAC rules, for those who ask what they may.
pub fn rules() -> Vec<PolicyRule> {
    let rule = |(group, resource, verbs): &(&str, &str, &str)| PolicyRule {
        api_groups: Some(vec![(*group).to_owned()]),
        resources: Some(vec![(*resource).to_owned()]),
        verbs: verbs.split(' ').map(Into::into).collect(),
        ..PolicyRule::default()
    };
    RULES.iter().map(rule).collect()
}

/// Decides for nodes.
#[derive(Default)]
pub struct Nodes {
    references: References,
}

impl Nodes {
    /// What the node of this name may.
    pub fn decide(&self, cache: &Cache, node: &str, what: &Attributes<'_>) -> Decision {
        let resource = match what.subresource {
            "" => what.resource.to_owned(),
            sub => format!("{}/{sub}", what.resource),
        };
        let rule = RULES.iter().find(|(group, r, verbs)| {
            *group == what.group && *r == resource && verbs.split(' ').any(|verb| verb == what.verb)
        });
        if rule.is_none() {
            return Decision::Deny(String::new());
        }
        let reads = matches!(what.verb, "get" | "list" | "watch");
        let why = match resource.as_str() {
            "nodes" | "nodes/status" if !reads && !what.name.is_empty() && what.name != node => {
                format!("node {node:?} is not allowed to modify node {:?}", what.name)
            }
            "leases" if what.namespace != LEASES => {
                format!("can only access leases in the {LEASES:?} system namespace")
            }
            "leases" if what.verb != "create" && what.name != node => {
                "can only access node lease with the same name as the requesting node".to_owned()
            }
            SECRETS if !self.related(cache, node, SECRETS, what) => unrelated(node, "secret"),
            CONFIG_MAPS if !self.related(cache, node, CONFIG_MAPS, what) => unrelated(node, "configmap"),
            ACCOUNTS | "serviceaccounts/token" if !self.related(cache, node, ACCOUNTS, what) => {
                unrelated(node, "serviceaccount")
            }
            "pods" if matches!(what.verb, "list" | "watch") && !chooses_own(node, what.fields) => {
                "can only list/watch pods with spec.nodeName field selector".to_owned()
            }
            "pods" | "pods/status" | "pods/eviction" if !what.name.is_empty() && !owns(cache, node, what) => {
                unrelated(node, "pod")
            }
            _ => return Decision::Allow(String::new()),
        };
        Decision::Deny(why)
    }

    /// A pod of the node refers to the named object.
    fn related(&self, cache: &Cache, node: &str, resource: &'static str, what: &Attributes<'_>) -> bool {
        let to = Reference { resource, namespace: what.namespace.to_owned(), name: what.name.to_owned() };
        !to.name.is_empty() && self.references.holds(cache, node, &to)
    }
}

fn unrelated(node: &str, what: &str) -> String {
    format!("no relationship found between node '{node}' and this {what}")
}

/// The field selector leaves no pods but those of the node.
fn chooses_own(node: &str, fields: &str) -> bool {
    let selector = fields.parse::<FieldSelector>();
    selector.is_ok_and(|s| s.terms.iter().any(|t| t.equal && t.field == NODE_OF_POD && t.value == node))
}

/// The named pod is bound to the node, or is no longer there.
fn owns(cache: &Cache, node: &str, what: &Attributes<'_>) -> bool {
    let Some(pods) = api::Kind::of::<Pod>().and_then(|kind| cache.kind(kind)) else { return false };
    let Some(item) = pods.get(&format!("{}/{}", what.namespace, what.name)) else { return true };
    let field = pods.entry.field_names().iter().position(|name| *name == NODE_OF_POD);
    field.and_then(|field| item.facts(&*pods.entry).fields.get(field)).is_some_and(|bound| bound == node)
}
