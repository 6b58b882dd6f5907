//! What a node may write beyond what it is authorized to: nothing that is another node's, and nothing that would draw pods
//! to it which are kept away (upstream's NodeRestriction).

use std::collections::BTreeMap;

use api::{Kind, status};
use k8s_openapi::{
    api::{
        authentication::v1::BoundObjectReference,
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status},
};

use crate::registry::{Stored, downcast};

type Verdict = Result<(), Box<Status>>;
type Labels = BTreeMap<String, String>;

/// Labels in this namespace, and in those below it, are for administrators: pods that select them trust the node.
const RESTRICTION: &str = "node-restriction.kubernetes.io";

/// Of Kubernetes' own labels, those that a node may say of itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
];

/// Namespaces, with those below them, whose labels a node may set.
const OWN_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Marks the API's picture of a pod that a node has from elsewhere.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Refuses to create what is not the node's.
pub(super) fn create(node: &str, kind: &Kind, object: &dyn Stored) -> Verdict {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let refuse = |why: String| Err(Box::new(status::forbidden(kind, name, &why)));
    if let Some(pod) = downcast::<Pod>(object) {
        if meta.annotations.as_ref().is_none_or(|all| !all.contains_key(MIRROR)) {
            return refuse(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if !bound(pod, node) {
            return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
    } else if downcast::<Node>(object).is_some() {
        let labels = restricted(meta.labels.as_ref(), None);
        if !labels.is_empty() {
            return refuse(format!("is not allowed to set the following labels: {}", labels.join(", ")));
        }
        return same_node(node, kind, name);
    } else if downcast::<Lease>(object).is_some() && name != node {
        return refuse("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

/// Refuses changes to what is not the node's, and those that would lift a restriction.
pub(super) fn update(node: &str, kind: &Kind, subresource: &str, new: &dyn Stored, old: &dyn Stored) -> Verdict {
    let name = old.meta().name.as_deref().unwrap_or_default();
    let refuse = |why: String| Err(Box::new(status::forbidden(kind, name, &why)));
    if let Some(pod) = downcast::<Pod>(old) {
        if subresource != "status" {
            return refuse(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            ));
        }
        if !bound(pod, node) {
            return refuse(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        if new.meta().labels != old.meta().labels {
            return refuse(format!("node {node:?} cannot update labels through pod status"));
        }
    } else if let Some((new, old)) = downcast::<Node>(new).zip(downcast::<Node>(old)) {
        same_node(node, kind, name)?;
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if taints(new) != taints(old) {
            return refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        let owners = |meta: &ObjectMeta| meta.owner_references.clone().unwrap_or_default();
        if owners(&new.metadata) != owners(&old.metadata) {
            return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
        let labels = restricted(new.metadata.labels.as_ref(), old.metadata.labels.as_ref());
        if !labels.is_empty() {
            return refuse(format!("is not allowed to modify labels: {}", labels.join(", ")));
        }
    }
    Ok(())
}

/// Refuses to delete what is not the node's.
pub(super) fn delete(node: &str, kind: &Kind, old: &dyn Stored) -> Verdict {
    let name = old.meta().name.as_deref().unwrap_or_default();
    if downcast::<Pod>(old).is_some_and(|pod| !bound(pod, node)) {
        let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
        return Err(Box::new(status::forbidden(kind, name, &why)));
    }
    if downcast::<Node>(old).is_some() { same_node(node, kind, name) } else { Ok(()) }
}

/// Refuses a token that does not die with a pod of the node; `place` is the node of the pod that it is bound to.
pub(super) fn token(
    node: &str,
    kind: &Kind,
    account: &str,
    to: Option<&BoundObjectReference>,
    place: Option<&str>,
) -> Verdict {
    let refuse = |why: &str| Err(Box::new(status::forbidden(kind, account, why)));
    let Some(to) = to.filter(|to| to.kind.as_deref() == Some("Pod")) else {
        return refuse("node requested token not bound to a pod");
    };
    if to.uid.as_deref().unwrap_or_default().is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    if place != Some(node) {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn same_node(node: &str, kind: &Kind, name: &str) -> Verdict {
    if name == node {
        return Ok(());
    }
    let why = format!("node {node:?} is not allowed to modify node {name:?}");
    Err(Box::new(status::forbidden(kind, name, &why)))
}

fn bound(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node))
}

/// The labels that differ and that a node may not touch.
fn restricted<'a>(new: Option<&'a Labels>, old: Option<&'a Labels>) -> Vec<&'a str> {
    let value = |labels: Option<&'a Labels>, key: &str| labels.and_then(|all| all.get(key));
    let mut keys: Vec<_> = new.into_iter().chain(old).flat_map(Labels::keys).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| value(new, key) != value(old, key) && !may_label(key));
    keys
}

fn may_label(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |of: &str| namespace == of || namespace.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if within(RESTRICTION) {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || OWN_LABELS.contains(&key) || OWN_NAMESPACES.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_label_itself_with_what_says_nothing_of_trust() {
        for (key, may) in [
            ("disk", true),
            ("example.com/disk", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("pool.node.kubernetes.io/anything", true),
            ("kubelet.kubernetes.io/anything", true),
            ("topology.kubernetes.io/zone", true),
            ("notkubernetes.io/role", true),
            ("kubernetes.io/role", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("x.k8s.io/role", false),
            ("node-restriction.kubernetes.io/pci", false),
            ("team.node-restriction.kubernetes.io/pci", false),
        ] {
            assert_eq!(may_label(key), may, "{key}");
        }
    }

    #[test]
    fn labels_that_stay_are_nobodys_concern() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let old = labels(&[("k8s.io/a", "1"), ("k8s.io/b", "1"), ("free", "1")]);
        let new = labels(&[("k8s.io/a", "1"), ("k8s.io/c", "1"), ("free", "2")]);
        assert_eq!(restricted(Some(&new), Some(&old)), ["k8s.io/b", "k8s.io/c"]);
    }
}
