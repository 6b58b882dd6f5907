//! What a pod's author may leave out (upstream's `pkg/apis/core/v1/defaults.go`).

use k8s_openapi::api::core::v1::{Container, EnvVar, HTTPGetAction, ObjectFieldSelector, Pod, PodSpec, Probe, Volume};

use super::{GRACE_SECONDS, resources};

/// rw-r--r--: files of configMap, secret, downwardAPI and projected volumes.
const FILE_MODE: i32 = 0o644;
/// How long a projected token lives; seconds.
const TOKEN_SECONDS: i64 = 3600;

/// A pod's own defaults: those of its spec, and what a template leaves open.
pub(super) fn pod(object: &mut Pod) {
    let pod = object.spec.get_or_insert_default();
    spec(pod);
    pod.enable_service_links.get_or_insert(true);
    for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
        resources::requests_from_limits(container);
    }
    if pod.host_network == Some(true) {
        for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
            for port in container.ports.iter_mut().flatten().filter(|p| p.host_port.unwrap_or_default() == 0) {
                port.host_port = Some(port.container_port);
            }
        }
    }
}

/// The defaults of a pod's spec, also in a template.
pub(in crate::strategy) fn spec(spec: &mut PodSpec) {
    let text = |field: &mut Option<String>, value: &str| {
        if field.as_deref().is_none_or(str::is_empty) {
            *field = Some(value.into());
        }
    };
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    // the old and the new name of one field
    match (&spec.service_account_name, &spec.service_account) {
        (Some(name), _) if !name.is_empty() => spec.service_account = Some(name.clone()),
        (_, Some(name)) if !name.is_empty() => spec.service_account_name = Some(name.clone()),
        _ => {}
    }
    for init in spec.init_containers.iter_mut().flatten() {
        container(init);
    }
    spec.containers.iter_mut().for_each(container);
    spec.volumes.iter_mut().flatten().for_each(volume);
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        if constraint.when_unsatisfiable.is_empty() {
            constraint.when_unsatisfiable = "DoNotSchedule".into();
        }
    }
}

fn container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = if latest(image) { "Always" } else { "IfNotPresent" };
    if container.image_pull_policy.as_deref().is_none_or(str::is_empty) {
        container.image_pull_policy = Some(policy.into());
    }
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    container.termination_message_policy.get_or_insert_with(|| "File".into());
    for port in container.ports.iter_mut().flatten() {
        if port.protocol.as_deref().is_none_or(str::is_empty) {
            port.protocol = Some("TCP".into());
        }
    }
    container.env.iter_mut().flatten().for_each(environment);
    resources::canonical(container);
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(probe);
    let lifecycle = container.lifecycle.iter_mut();
    for handler in lifecycle.flat_map(|l| [&mut l.post_start, &mut l.pre_stop]).flatten() {
        handler.http_get.iter_mut().for_each(http);
    }
}

/// Whether the image is named without a tag or digest, or by the tag `latest`: then its name may mean another image tomorrow.
fn latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn environment(variable: &mut EnvVar) {
    if let Some(field) = variable.value_from.as_mut().and_then(|v| v.field_ref.as_mut()) {
        field_version(field);
    }
}

fn field_version(field: &mut ObjectFieldSelector) {
    if field.api_version.as_deref().is_none_or(str::is_empty) {
        field.api_version = Some("v1".into());
    }
}

fn probe(probe: &mut Probe) {
    let number = |field: &mut Option<i32>, value: i32| {
        if field.unwrap_or_default() == 0 {
            *field = Some(value);
        }
    };
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(http);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn http(action: &mut HTTPGetAction) {
    if action.path.as_deref().is_none_or(str::is_empty) {
        action.path = Some("/".into());
    }
    if action.scheme.as_deref().is_none_or(str::is_empty) {
        action.scheme = Some("HTTP".into());
    }
}

fn volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(k8s_openapi::api::core::v1::EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().filter_map(|i| i.field_ref.as_mut()).for_each(field_version);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        for projection in source.sources.iter_mut().flatten() {
            if let Some(token) = &mut projection.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            let items = projection.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
            items.filter_map(|i| i.field_ref.as_mut()).for_each(field_version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_may_change_are_always_pulled() {
        for image in ["web", "web:latest", "localhost:5000/web", "host:5000/a/web:latest"] {
            assert!(latest(image), "{image}");
        }
        for image in ["web:1", "localhost:5000/web:2", "web@sha256:00", "web:latest@sha256:00"] {
            assert!(!latest(image), "{image}");
        }
    }
}
