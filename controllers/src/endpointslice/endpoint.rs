//! What one Pod contributes to a Service: its endpoint, and the ports behind the Service's ports.

use std::net::IpAddr;

use k8s_openapi::{
    api::{
        core::v1::{Container, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use crate::pod;

/// The address families of a Service, as EndpointSlices call them.
pub fn families(service: &Service) -> Vec<&'static str> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let named = families.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect::<Vec<_>>();
    if named.is_empty() { vec!["IPv4"] } else { named }
}

/// The Pod's endpoint in that family; none when it has no address there or has ended.
pub fn endpoint(service: &Service, pod: &Pod, family: &str) -> Option<Endpoint> {
    if pod::is_terminated(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let address = all.filter_map(|ip| ip.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv6() == (family == "IPv6"))?;
    let spec = pod.spec.as_ref()?;
    let serving = pod::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let always = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or_default();
    let named = spec.subdomain.as_ref() == service.metadata.name.as_ref();
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(always || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.hostname.clone().filter(|_| named),
        node_name: pod::node(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The ports behind the Service's ports on this Pod. A named port that the Pod does not have is left out.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let found = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number(port, pod)?),
            protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn protocol(name: Option<&str>) -> &str {
    name.unwrap_or("TCP")
}

fn number(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => containers(pod)
            .flat_map(|c| c.ports.iter().flatten())
            .find(|p| {
                p.name.as_ref() == Some(name) && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
            })
            .map(|p| p.container_port),
    }
}

/// Containers that run as long as the Pod does: the ordinary ones and restartable init containers (KEP-753).
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|s| {
        let sidecars = s.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        s.containers.iter().chain(sidecars)
    })
}

/// What tells endpoints apart: the Pod, and the address in case the Pod got another one.
pub fn identity(endpoint: &Endpoint) -> (String, String) {
    let pod = endpoint.target_ref.as_ref();
    let uid = pod.and_then(|p| p.uid.clone().or_else(|| p.name.clone())).unwrap_or_default();
    (uid, endpoint.addresses.first().cloned().unwrap_or_default())
}

/// The order in which new endpoints are placed.
pub fn name(endpoint: &Endpoint) -> String {
    endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_default()
}

/// Labels that a slice has from its Service.
pub fn labels(service: &Service) -> std::collections::BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    let headless = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None");
    labels.remove(HEADLESS);
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(super::SERVICE_NAME.into(), service.name_any());
    labels.insert(super::MANAGED_BY.into(), super::MANAGER.into());
    labels
}

/// The label of slices of Services without an address of their own.
const HEADLESS: &str = "service.kubernetes.io/headless";
