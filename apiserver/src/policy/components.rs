//! Roles for the parts of the cluster itself.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};

use super::{meta, role, rule};

const READ: &[&str] = &["get", "list", "watch"];
const EVENTS: &[&str] = &["create", "patch", "update"];

/// What a node does: what it needs to run its pods. The node authorizer narrows it to the node's own.
fn node() -> Vec<PolicyRule> {
    vec![
        rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        rule(&["create"], &["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"]),
        rule(READ, &[""], &["services"]),
        rule(&["create", "get", "list", "watch"], &[""], &["nodes"]),
        rule(&["patch", "update"], &[""], &["nodes/status"]),
        rule(&["patch", "update"], &[""], &["nodes"]),
        rule(EVENTS, &["", "events.k8s.io"], &["events"]),
        rule(READ, &[""], &["pods"]),
        rule(&["create", "delete"], &[""], &["pods"]),
        rule(&["patch", "update"], &[""], &["pods/status"]),
        rule(&["create"], &[""], &["pods/eviction"]),
        rule(READ, &[""], &["configmaps", "secrets"]),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(&["create", "delete", "get", "patch", "update"], &["coordination.k8s.io"], &["leases"]),
        rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
    ]
}

fn scheduler() -> Vec<PolicyRule> {
    vec![
        rule(EVENTS, &["", "events.k8s.io"], &["events"]),
        rule(&["create", "get", "list", "update", "watch"], &["coordination.k8s.io"], &["leases"]),
        rule(READ, &[""], &["namespaces", "nodes", "replicationcontrollers", "services"]),
        rule(&["delete", "get", "list", "watch"], &[""], &["pods"]),
        rule(&["create"], &[""], &["bindings", "pods/binding"]),
        rule(&["patch", "update"], &[""], &["pods/status"]),
        rule(READ, &["apps"], &["replicasets", "statefulsets"]),
    ]
}

/// All controllers run as one user here, so this is the sum of what upstream gives to each.
fn controllers() -> Vec<PolicyRule> {
    let all = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    vec![
        rule(EVENTS, &["", "events.k8s.io"], &["events"]),
        rule(all, &["coordination.k8s.io"], &["leases"]),
        rule(READ, &["*"], &["*"]),
        // garbage collection and the end of a namespace reach every kind
        rule(&["delete", "deletecollection", "patch", "update"], &["*"], &["*"]),
        rule(&["create"], &[""], &["configmaps", "endpoints", "pods", "secrets", "serviceaccounts"]),
        rule(&["create"], &[""], &["serviceaccounts/token"]),
        rule(&["create"], &["apps"], &["replicasets"]),
        rule(&["create"], &["discovery.k8s.io"], &["endpointslices"]),
        rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
    ]
}

pub(super) fn roles() -> Vec<ClusterRole> {
    vec![
        role("system:node", node()),
        role("system:kube-scheduler", scheduler()),
        role("system:kube-controller-manager", controllers()),
        role(
            "system:node-proxier",
            vec![
                rule(READ, &[""], &["endpoints", "nodes", "services"]),
                rule(READ, &["discovery.k8s.io"], &["endpointslices"]),
                rule(EVENTS, &["", "events.k8s.io"], &["events"]),
            ],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
                rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            ],
        ),
        role(
            "system:heapster",
            vec![
                rule(READ, &[""], &["events", "namespaces", "nodes", "pods"]),
                rule(READ, &["apps"], &["deployments"]),
            ],
        ),
        role("system:kube-dns", vec![rule(READ, &[""], &["endpoints", "services"])]),
    ]
}

/// Who leads is decided in kube-system.
pub(super) fn namespaced() -> Vec<Role> {
    ["kube-controller-manager", "kube-scheduler"]
        .map(|component| {
            let mut named = rule(&["get", "update"], &[""], &["configmaps"]);
            named.resource_names = Some(vec![component.to_owned()]);
            let mut metadata = meta(&format!("system::leader-locking-{component}"));
            metadata.namespace = Some("kube-system".into());
            Role { metadata, rules: Some(vec![rule(&["watch"], &[""], &["configmaps"]), named]) }
        })
        .into()
}
