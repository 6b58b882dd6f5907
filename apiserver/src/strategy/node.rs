//! Node: a machine that runs pods.

use std::collections::BTreeMap;

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};

use super::{Cell, Column, FieldOf, Strategy, column, pod, rules};

/// The strategy of Nodes.
pub struct Nodes;

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Status", "The status of the node"),
    column::text("Roles", "The roles of the node"),
    column::AGE,
    column::text("Version", "Kubelet Version reported by the node."),
    column::wide("Internal-IP", "List of addresses reachable to the node."),
    column::wide("External-IP", "List of addresses reachable to the node."),
    column::wide("OS-Image", "OS Image reported by the node from /etc/os-release."),
    column::wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'."),
    column::wide("Container-Runtime", "ContainerRuntime Version reported by the node."),
];

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

fn status_text(object: &Node) -> String {
    let ready = object.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    let mut words = vec![match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if object.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(labels: Option<&BTreeMap<String, String>>) -> Cell {
    let mut roles: Vec<_> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            _ => (key == ROLE_LABEL && !value.is_empty()).then_some(value.as_str()),
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    column::or_none(Some(&roles.join(",")))
}

fn address(status: &NodeStatus, kind: &str) -> Cell {
    column::or_none(status.addresses.iter().flatten().find(|a| a.type_ == kind).map(|a| a.address.as_str()))
}

fn or_unknown(text: Option<&String>) -> Cell {
    column::cell(text.filter(|t| !t.is_empty()).map_or("<unknown>", String::as_str))
}

fn validate_taints(spec: &NodeSpec, errors: &mut Errors) {
    let path = Path::new("metadata").child("taints");
    let taints = spec.taints.as_deref().unwrap_or_default();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        rules::qualified(errors, &path.child("key"), &taint.key);
        if let Some(value) = &taint.value {
            let complaints = api::names::label_value(value);
            errors.extend(complaints.into_iter().map(|why| Error::invalid(&path.child("value"), value, why)));
        }
        rules::one_of(errors, &path.child("effect"), Some(&taint.effect), &pod::EFFECTS);
        if taints[..index].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            let mut duplicate = Error::duplicate(&path, taint);
            duplicate.detail = "taints must be unique by key and effect pair".into();
            errors.push(duplicate);
        }
    }
}

impl Strategy for Nodes {
    type Object = Node;

    fn default(&self, object: &mut Node) {
        let Some(status) = &mut object.status else { return };
        if let Some(capacity) = &status.capacity {
            let allocatable = status.allocatable.get_or_insert_default();
            for (name, amount) in capacity {
                allocatable.entry(name.clone()).or_insert_with(|| amount.clone());
            }
        }
    }

    fn prepare_update(&self, new: &mut Node, old: &Node) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status(&self, new: &mut Node, old: &Node) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, object: &Node) -> Errors {
        let mut errors = Errors::new();
        let Some(spec) = &object.spec else { return errors };
        validate_taints(spec, &mut errors);
        let path = Path::new("spec").child("podCIDRs");
        for (index, range) in spec.pod_cidrs.iter().flatten().enumerate() {
            if range.parse::<ipnet::IpNet>().is_err() {
                let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(Error::invalid(&path.index(index), range, why));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Node, old: &Node) -> Errors {
        let mut errors = Errors::new();
        let before = old.spec.clone().unwrap_or_default();
        let after = new.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        if before.pod_cidrs.as_ref().is_some_and(|c| !c.is_empty()) && before.pod_cidrs != after.pod_cidrs {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("podCIDRs"), why));
        }
        if before.provider_id.as_ref().is_some_and(|p| !p.is_empty()) && before.provider_id != after.provider_id {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(Error::forbidden(&path.child("providerID"), why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Node, now: Timestamp) -> Vec<Cell> {
        let status = object.status.clone().unwrap_or_default();
        let info = status.node_info.as_ref();
        vec![
            column::name(&object.metadata),
            column::cell(status_text(object)),
            roles(object.metadata.labels.as_ref()),
            column::aged(&object.metadata, now),
            column::cell(info.map(|i| i.kubelet_version.clone()).unwrap_or_default()),
            address(&status, "InternalIP"),
            address(&status, "ExternalIP"),
            or_unknown(info.map(|i| &i.os_image)),
            or_unknown(info.map(|i| &i.kernel_version)),
            or_unknown(info.map(|i| &i.container_runtime_version)),
        ]
    }

    fn fields(&self) -> &'static [FieldOf<Node>] {
        &[("spec.unschedulable", |n| n.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)).to_string())]
    }
}
