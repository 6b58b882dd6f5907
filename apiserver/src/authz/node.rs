//! The node authorizer: a node reads what its pods refer to, and writes what is its own (upstream
//! `plugin/pkg/auth/authorizer/node` and the NodeRestriction admission plugin).

use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    rbac::v1::PolicyRule,
};

use super::{Attributes, Decision};
use crate::{cache::Cache, registry::downcast};

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

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

/// What the node of this name may.
pub fn decide(cache: &Cache, node: &str, what: &Attributes<'_>) -> Decision {
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
        "leases" if what.namespace != LEASES => format!("can only access leases in the {LEASES:?} system namespace"),
        "leases" if what.verb != "create" && what.name != node => {
            "can only access node lease with the same name as the requesting node".to_owned()
        }
        "secrets" | "configmaps" if !refers(cache, node, what, |spec| names(spec, what.resource, what.name)) => {
            unrelated(node, what.resource)
        }
        "serviceaccounts" | "serviceaccounts/token"
            if !refers(cache, node, what, |spec| {
                spec.service_account_name.as_deref().unwrap_or("default") == what.name
            }) =>
        {
            unrelated(node, what.resource)
        }
        "pods" | "pods/status" if !reads && !owns(cache, node, what) => {
            format!("node {node:?} can only change pods that are bound to it")
        }
        _ => return Decision::Allow(String::new()),
    };
    Decision::Deny(why)
}

fn unrelated(node: &str, resource: &str) -> String {
    format!("no relationship found between node '{node}' and this {}", resource.trim_end_matches('s'))
}

/// The named pod is bound to the node, or is no longer there.
fn owns(cache: &Cache, node: &str, what: &Attributes<'_>) -> bool {
    let Some(pods) = api::Kind::of::<Pod>().and_then(|kind| cache.kind(kind)) else { return false };
    let Some(item) = pods.get(&format!("{}/{}", what.namespace, what.name)) else { return true };
    let object = item.decode(&*pods.entry).ok();
    let pod = object.as_deref().and_then(downcast::<Pod>);
    pod.and_then(|pod| pod.spec.as_ref()).is_some_and(|spec| spec.node_name.as_deref() == Some(node))
}

/// Some pod of the namespace that is bound to the node refers to the thing.
fn refers(cache: &Cache, node: &str, what: &Attributes<'_>, does: impl Fn(&PodSpec) -> bool) -> bool {
    if what.name.is_empty() || what.namespace.is_empty() {
        return false;
    }
    let Some(pods) = api::Kind::of::<Pod>().and_then(|kind| cache.kind(kind)) else { return false };
    let Some(field) = pods.entry.field_names().iter().position(|f| *f == "spec.nodeName") else { return false };
    pods.snapshot(0).within(Some(what.namespace)).any(|item| {
        let bound = item.facts(&*pods.entry).fields.get(field).is_some_and(|f| f == node);
        let object = bound.then(|| item.decode(&*pods.entry).ok()).flatten();
        object.as_deref().and_then(downcast::<Pod>).and_then(|pod| pod.spec.as_ref()).is_some_and(&does)
    })
}

/// Whether the pod refers to that ConfigMap or Secret.
fn names(spec: &PodSpec, resource: &str, name: &str) -> bool {
    let secret = resource == "secrets";
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut from_env = containers.flat_map(|c| {
        let whole = c.env_from.iter().flatten().map(|source| match secret {
            true => source.secret_ref.as_ref().map(|r| r.name.as_str()),
            false => source.config_map_ref.as_ref().map(|r| r.name.as_str()),
        });
        let keys = c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()).map(|source| match secret {
            true => source.secret_key_ref.as_ref().map(|r| r.name.as_str()),
            false => source.config_map_key_ref.as_ref().map(|r| r.name.as_str()),
        });
        whole.chain(keys)
    });
    let mut pull = spec.image_pull_secrets.iter().flatten().map(|r| Some(r.name.as_str()));
    if from_env.any(|n| n == Some(name)) || (secret && pull.any(|n| n == Some(name))) {
        return true;
    }
    spec.volumes.iter().flatten().any(|volume| {
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        if secret {
            volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()) == Some(name)
                || projected.filter_map(|p| p.secret.as_ref()).any(|s| s.name == name)
        } else {
            volume.config_map.as_ref().map(|c| c.name.as_str()) == Some(name)
                || projected.filter_map(|p| p.config_map.as_ref()).any(|c| c.name == name)
        }
    })
}
