//! Containers: their names, images, ports, environment and mounts.

use std::collections::BTreeSet;

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};

use super::{probes, resources, security};
use crate::strategy::rules;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Fields of the pod that an environment variable may show.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What is wrong with the containers and init containers, which may mount these volumes.
pub(super) fn validate(spec: &PodSpec, path: &Path, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let list = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(Error::required(&list, ""));
    }
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = list.index(index);
        one(container, &path, volumes, errors);
        unique(container, &path, &mut names, errors);
        host_ports(container, &path, spec.host_network == Some(true), &mut ports, errors);
        probes::validate(container, &path, errors);
        if let Some(policy) = container.restart_policy.as_deref().filter(|p| !p.is_empty()) {
            // only sidecars (KEP-753), which are init containers, restart by a policy of their own
            let why = "may not be set for non-init containers";
            errors.push(Error::forbidden(&path.child("restartPolicy"), format!("{why}: {policy}")));
        }
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.child("initContainers").index(index);
        one(container, &path, volumes, errors);
        unique(container, &path, &mut names, errors);
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if sidecar {
            host_ports(container, &path, spec.host_network == Some(true), &mut ports, errors);
            probes::validate(container, &path, errors);
            continue;
        }
        let fields = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, _) in fields.iter().filter(|(_, set)| *set) {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
}

fn unique(container: &Container, path: &Path, names: &mut BTreeSet<String>, errors: &mut Errors) {
    if !container.name.is_empty() && !names.insert(container.name.clone()) {
        errors.push(Error::duplicate(&path.child("name"), &container.name));
    }
}

fn one(container: &Container, path: &Path, volumes: &BTreeSet<String>, errors: &mut Errors) {
    if container.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        rules::label(errors, &path.child("name"), &container.name);
    }
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(Error::invalid(&path.child("image"), image, "must not have leading or trailing whitespace"));
    }
    let policy = container.image_pull_policy.as_deref();
    rules::one_of(errors, &path.child("imagePullPolicy"), policy, &PULL_POLICIES);
    let policy = container.termination_message_policy.as_deref();
    rules::one_of(errors, &path.child("terminationMessagePolicy"), policy, &["FallbackToLogsOnError", "File"]);
    validate_ports(container, &path.child("ports"), errors);
    validate_environment(container, path, errors);
    validate_mounts(container, &path.child("volumeMounts"), volumes, errors);
    if let Some(resources) = &container.resources {
        resources::validate(resources, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        security::validate_container(context, &path.child("securityContext"), errors);
    }
}

fn validate_ports(container: &Container, path: &Path, errors: &mut Errors) {
    let mut names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_ref().filter(|n| !n.is_empty()) {
            rules::port_name(errors, &path.child("name"), name);
            if !names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        if port.container_port == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            rules::port(errors, &path.child("containerPort"), port.container_port);
        }
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            rules::port(errors, &path.child("hostPort"), number);
        }
        rules::one_of(errors, &path.child("protocol"), port.protocol.as_deref(), &PROTOCOLS);
    }
}

type HostPort = (i32, String, String);

fn host_ports(container: &Container, path: &Path, host: bool, seen: &mut BTreeSet<HostPort>, errors: &mut Errors) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = path.child("ports").index(index);
        let Some(number) = port.host_port.filter(|p| *p != 0) else { continue };
        if host && number != port.container_port {
            let why = "must match `hostPort` when `hostNetwork` is true";
            errors.push(Error::invalid(&path.child("containerPort"), port.container_port, why));
        }
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = (number, text(&port.protocol), text(&port.host_ip));
        let shown = format!("{}/{}/{}", key.1, key.2, key.0);
        if !seen.insert(key) {
            errors.push(Error::duplicate(&path.child("hostPort"), shown));
        }
    }
}

fn validate_environment(container: &Container, path: &Path, errors: &mut Errors) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let path = path.child("env").index(index);
        if variable.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            rules::env_name(errors, &path.child("name"), &variable.name);
        }
        value_from(variable, &path.child("valueFrom"), errors);
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let path = path.child("envFrom").index(index);
        match (&source.config_map_ref, &source.secret_ref) {
            (None, None) => {
                errors.push(Error::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"));
            }
            (Some(_), Some(_)) => {
                errors.push(Error::invalid(&path, "", "may not have more than one field specified at a time"));
            }
            (Some(source), None) if source.name.is_empty() => {
                errors.push(Error::required(&path.child("configMapRef").child("name"), ""));
            }
            (None, Some(source)) if source.name.is_empty() => {
                errors.push(Error::required(&path.child("secretRef").child("name"), ""));
            }
            _ => {}
        }
    }
}

fn value_from(variable: &EnvVar, path: &Path, errors: &mut Errors) {
    let Some(from) = &variable.value_from else { return };
    let sources = [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    match sources.iter().filter(|s| **s).count() {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(Error::invalid(path, "", why));
        }
        1 if variable.value.as_deref().is_some_and(|v| !v.is_empty()) => {
            errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty"));
        }
        1 => {}
        _ => errors.push(Error::invalid(path, "", "may not have more than one field specified at a time")),
    }
    if let Some(field) = &from.field_ref {
        let path = path.child("fieldRef").child("fieldPath");
        let subscripted = ["metadata.annotations['", "metadata.labels['"]
            .iter()
            .any(|start| field.field_path.starts_with(start) && field.field_path.ends_with("']"));
        if field.field_path.is_empty() {
            errors.push(Error::required(&path, ""));
        } else if !subscripted && !FIELDS.contains(&field.field_path.as_str()) {
            errors.push(Error::not_supported(&path, &field.field_path, &FIELDS));
        }
    }
    let keys = [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, reference) in keys {
        let Some((name, key)) = reference else { continue };
        let path = path.child(field);
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        if key.is_empty() {
            errors.push(Error::required(&path.child("key"), ""));
        } else {
            rules::config_key(errors, &path.child("key"), key);
        }
    }
}

fn validate_mounts(container: &Container, path: &Path, volumes: &BTreeSet<String>, errors: &mut Errors) {
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(index);
        if mount.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !volumes.contains(&mount.name) {
            errors.push(Error::not_found(&path.child("name"), &mount.name));
        }
        if mount.mount_path.is_empty() {
            errors.push(Error::required(&path.child("mountPath"), ""));
        }
        if !paths.insert(&mount.mount_path) {
            let mut twice = Error::invalid(&path.child("mountPath"), &mount.mount_path, "must be unique");
            twice.reason = api::field::Reason::Invalid;
            errors.push(twice);
        }
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else { continue };
            if value.starts_with('/') {
                errors.push(Error::invalid(&path.child(field), value, "must be a relative path"));
            }
            if value.split('/').any(|part| part == "..") {
                errors.push(Error::invalid(&path.child(field), value, "must not contain '..'"));
            }
        }
    }
}
