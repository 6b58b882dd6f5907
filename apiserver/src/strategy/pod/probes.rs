//! Probes and lifecycle handlers: what the node asks a container, and when.

use api::field::{Error, Errors, Path};
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::strategy::rules;

/// What is wrong with a container's probes and handlers.
pub(super) fn validate(container: &Container, path: &Path, errors: &mut Errors) {
    for (field, probe, repeatable) in [
        ("livenessProbe", &container.liveness_probe, false),
        ("readinessProbe", &container.readiness_probe, true),
        ("startupProbe", &container.startup_probe, false),
    ] {
        if let Some(probe) = probe {
            validate_probe(probe, &path.child(field), repeatable, errors);
        }
    }
    let ready = container.readiness_probe.as_ref();
    if ready.is_some_and(|p| p.termination_grace_period_seconds.is_some()) {
        let path = path.child("readinessProbe").child("terminationGracePeriodSeconds");
        let value = ready.and_then(|p| p.termination_grace_period_seconds);
        errors.push(Error::invalid(&path, value, "must not be set for readinessProbes"));
    }
    let Some(lifecycle) = &container.lifecycle else { return };
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(handler) = handler {
            validate_handler(handler, &path.child("lifecycle").child(field), errors);
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path, repeatable: bool, errors: &mut Errors) {
    let kinds = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    one_kind(&kinds, path, errors);
    actions(probe.exec.as_ref(), probe.http_get.as_ref(), probe.tcp_socket.as_ref(), path, errors);
    if let Some(grpc) = &probe.grpc {
        rules::port(errors, &path.child("grpc").child("port"), grpc.port);
    }
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        rules::non_negative(errors, &path.child(field), value.map(i64::from));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0"));
    }
    if !repeatable && let Some(times) = probe.success_threshold.filter(|s| *s > 1) {
        errors.push(Error::invalid(&path.child("successThreshold"), times, "must be 1"));
    }
}

fn validate_handler(handler: &LifecycleHandler, path: &Path, errors: &mut Errors) {
    let kinds =
        [handler.exec.is_some(), handler.http_get.is_some(), handler.tcp_socket.is_some(), handler.sleep.is_some()];
    one_kind(&kinds, path, errors);
    actions(handler.exec.as_ref(), handler.http_get.as_ref(), handler.tcp_socket.as_ref(), path, errors);
    rules::non_negative(errors, &path.child("sleep").child("seconds"), handler.sleep.as_ref().map(|s| s.seconds));
}

fn one_kind(kinds: &[bool], path: &Path, errors: &mut Errors) {
    match kinds.iter().filter(|k| **k).count() {
        0 => errors.push(Error::required(path, "must specify a handler type")),
        1 => {}
        _ => errors.push(Error::forbidden(path, "may not specify more than 1 handler type")),
    }
}

fn actions(
    exec: Option<&ExecAction>,
    http: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    path: &Path,
    errors: &mut Errors,
) {
    if exec.is_some_and(|e| e.command.as_ref().is_none_or(Vec::is_empty)) {
        errors.push(Error::required(&path.child("exec").child("command"), ""));
    }
    if let Some(http) = http {
        let path = path.child("httpGet");
        if http.path.as_deref().is_none_or(str::is_empty) {
            errors.push(Error::required(&path.child("path"), ""));
        }
        port(&http.port, &path.child("port"), errors);
        if let Some(scheme) = http.scheme.as_deref().filter(|s| !matches!(*s, "HTTP" | "HTTPS")) {
            errors.push(Error::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
        }
    }
    if let Some(tcp) = tcp {
        port(&tcp.port, &path.child("tcpSocket").child("port"), errors);
    }
}

fn port(port: &IntOrString, path: &Path, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => rules::port(errors, path, *number),
        IntOrString::String(name) => rules::port_name(errors, path, name),
    }
}
