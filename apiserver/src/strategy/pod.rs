//! Pod: containers that run together on one node.

use api::{
    field::{Error, Errors, Path},
    selector::Selector,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{Cell, Column, FieldOf, Strategy, rules};

mod columns;
mod containers;
mod defaults;
mod probes;
mod resources;
mod scheduling;
mod security;
mod update;
mod volumes;

pub(super) use defaults::spec as default_spec;
pub(super) use scheduling::EFFECTS;

/// The strategy of Pods.
pub struct Pods;

/// How long containers have to end, unless the pod says otherwise; seconds.
const GRACE_SECONDS: i64 = 30;
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];

fn from_spec(object: &Pod, read: impl Fn(&PodSpec) -> Option<String>) -> String {
    object.spec.as_ref().and_then(read).unwrap_or_default()
}

fn from_status(object: &Pod, read: impl Fn(&PodStatus) -> Option<String>) -> String {
    object.status.as_ref().and_then(read).unwrap_or_default()
}

fn gated(spec: &PodSpec) -> bool {
    spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
}

/// What is wrong with a pod's spec by itself.
fn validate_spec(spec: &PodSpec, path: &Path, template: bool) -> Errors {
    let mut errors = Errors::new();
    let volumes = volumes::validate(spec, &path.child("volumes"), &mut errors);
    containers::validate(spec, path, &volumes, &mut errors);
    rules::one_of(&mut errors, &path.child("restartPolicy"), spec.restart_policy.as_deref(), &RESTART_POLICIES);
    if template && spec.restart_policy.as_deref().is_some_and(|p| p != "Always") {
        let path = path.child("restartPolicy");
        if RESTART_POLICIES.contains(&spec.restart_policy.as_deref().unwrap_or_default()) {
            errors.push(Error::not_supported(&path, &spec.restart_policy, &["Always"]));
        }
    }
    rules::one_of(&mut errors, &path.child("dnsPolicy"), spec.dns_policy.as_deref(), &DNS_POLICIES);
    let servers = spec.dns_config.as_ref().and_then(|c| c.nameservers.as_ref());
    if spec.dns_policy.as_deref() == Some("None") && servers.is_none_or(Vec::is_empty) {
        let path = path.child("dnsConfig").child("nameservers");
        errors.push(Error::required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    let grace = path.child("terminationGracePeriodSeconds");
    rules::non_negative(&mut errors, &grace, spec.termination_grace_period_seconds);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| *s < 1 || *s > i64::from(i32::MAX)) {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, why));
    }
    if let Some(name) = spec.service_account_name.as_ref().filter(|n| !n.is_empty()) {
        rules::subdomain(&mut errors, &path.child("serviceAccountName"), name);
    }
    if let Some(name) = spec.node_name.as_ref().filter(|n| !n.is_empty()) {
        rules::subdomain(&mut errors, &path.child("nodeName"), name);
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            rules::label(&mut errors, &path.child(field), value);
        }
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(index);
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(Error::invalid(&path.child("ip"), &alias.ip, why));
        }
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            rules::subdomain(&mut errors, &path.child("hostnames").index(index), name);
        }
    }
    scheduling::validate(spec, path, &mut errors);
    security::validate_pod(spec, &path.child("securityContext"), &mut errors);
    errors
}

/// What is wrong with a template, whose labels the controller's selector must choose.
pub(super) fn validate_template(
    template: Option<&PodTemplateSpec>,
    selector: &LabelSelector,
    path: &Path,
    errors: &mut Errors,
) {
    let Some(template) = template else {
        errors.push(Error::required(path, ""));
        return;
    };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let labels_path = path.child("metadata").child("labels");
    if !rules::selects_everything(selector)
        && let Ok(read) = Selector::from_label_selector(Some(selector))
        && !read.matches_option(labels)
    {
        let empty = std::collections::BTreeMap::new();
        let why = "`selector` does not match template `labels`";
        errors.push(Error::invalid(&labels_path, labels.unwrap_or(&empty), why));
    }
    rules::labels(errors, &labels_path, labels);
    errors.extend(validate_spec(&template.spec.clone().unwrap_or_default(), &path.child("spec"), true));
}

impl Strategy for Pods {
    type Object = Pod;

    fn default(&self, object: &mut Pod) {
        defaults::pod(object);
    }

    fn prepare_create(&self, object: &mut Pod) {
        object.metadata.generation = Some(1);
        let spec = object.spec.get_or_insert_default();
        // upstream gives the same condition at once, so that the reason shows before anybody looks
        let conditions = gated(spec).then(|| {
            vec![PodCondition {
                type_: "PodScheduled".into(),
                status: "False".into(),
                reason: Some("SchedulingGated".into()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
                ..PodCondition::default()
            }]
        });
        object.status = Some(PodStatus {
            phase: Some("Pending".into()),
            qos_class: Some(resources::qos(spec).into()),
            conditions,
            ..PodStatus::default()
        });
    }

    fn prepare_update(&self, new: &mut Pod, old: &Pod) {
        new.status.clone_from(&old.status);
        let changed = new.spec != old.spec;
        rules::generation(&mut new.metadata, &old.metadata, changed);
    }

    fn prepare_status(&self, new: &mut Pod, old: &Pod) {
        new.spec.clone_from(&old.spec);
        new.metadata.owner_references.clone_from(&old.metadata.owner_references);
        if let (Some(new), Some(old)) = (&mut new.status, &old.status) {
            new.qos_class.clone_from(&old.qos_class);
        }
    }

    fn validate(&self, object: &Pod) -> Errors {
        let mut errors = validate_spec(&object.spec.clone().unwrap_or_default(), &Path::new("spec"), false);
        let spec = object.spec.as_ref();
        if spec.is_some_and(|s| gated(s) && s.node_name.as_ref().is_some_and(|n| !n.is_empty())) {
            let why = "cannot be set until all schedulingGates have been cleared";
            errors.push(Error::forbidden(&Path::new("spec").child("nodeName"), why));
        }
        errors
    }

    fn validate_update(&self, new: &Pod, old: &Pod) -> Errors {
        update::validate(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(&self, object: &Pod, now: Timestamp) -> Vec<Cell> {
        columns::row(object, now)
    }

    fn fields(&self) -> &'static [FieldOf<Pod>] {
        &[
            ("spec.nodeName", |p| from_spec(p, |s| s.node_name.clone())),
            ("spec.restartPolicy", |p| from_spec(p, |s| s.restart_policy.clone())),
            ("spec.schedulerName", |p| from_spec(p, |s| s.scheduler_name.clone())),
            ("spec.serviceAccountName", |p| from_spec(p, |s| s.service_account_name.clone())),
            ("spec.hostNetwork", |p| from_spec(p, |s| Some((s.host_network == Some(true)).to_string()))),
            ("status.phase", |p| from_status(p, |s| s.phase.clone())),
            ("status.podIP", |p| from_status(p, |s| s.pod_ip.clone())),
            ("status.nominatedNodeName", |p| from_status(p, |s| s.nominated_node_name.clone())),
        ]
    }

    fn grace_seconds(&self, object: &Pod, asked: Option<i64>) -> Option<i64> {
        let spec = object.spec.as_ref();
        let scheduled = spec.and_then(|s| s.node_name.as_ref()).is_some_and(|n| !n.is_empty());
        let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
        if !scheduled || matches!(phase, Some("Succeeded" | "Failed")) {
            return Some(0);
        }
        let own = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(GRACE_SECONDS);
        // a negative period means one second (KEP-1860 and upstream's CheckGracefulDelete)
        Some(match asked.unwrap_or(own) {
            i64::MIN..0 => 1,
            seconds => seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: Option<&str>, phase: &str) -> Pod {
        let spec = PodSpec { node_name: node.map(Into::into), ..PodSpec::default() };
        let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
        Pod { spec: Some(spec), status: Some(status), ..Pod::default() }
    }

    #[test]
    fn only_what_may_still_run_is_waited_for() {
        assert_eq!(Pods.grace_seconds(&pod(None, "Pending"), None), Some(0));
        assert_eq!(Pods.grace_seconds(&pod(Some("a"), "Succeeded"), Some(60)), Some(0));
        assert_eq!(Pods.grace_seconds(&pod(Some("a"), "Running"), None), Some(30));
        assert_eq!(Pods.grace_seconds(&pod(Some("a"), "Running"), Some(0)), Some(0));
        assert_eq!(Pods.grace_seconds(&pod(Some("a"), "Running"), Some(-5)), Some(1));
    }
}
