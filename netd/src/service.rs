//! From services and endpoints to rules. Pure.
//!
//! # Which endpoints
//! The ready ones; if there is none, those that still serve while they terminate (KEP-1669). A policy of `Local` looks at the
//! endpoints of this node alone. A port without endpoints gets no rule: the table's base refuses what is left for a service address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use client::Key;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};

use crate::{
    attach::HostPort,
    ruleset::{Balance, Match, Owner, Part, Protocol, Ruleset, Target},
};

/// The label by which a slice names its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The most endpoints of one port that are used; further ones get no traffic.
pub const MAX_ENDPOINTS: usize = 2000;

/// The service that a slice belongs to.
pub fn owner(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// All rules of a node: those of every service and of every pod of its own.
pub fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    pods: &BTreeMap<Ipv4Addr, Vec<HostPort>>,
    node: &str,
) -> Ruleset {
    let mut by_service: BTreeMap<Key, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        if let Some(key) = owner(slice) {
            by_service.entry(key).or_default().push(Arc::clone(slice));
        }
    }
    let mut parts = BTreeMap::new();
    for service in services {
        let key = Key::of(&**service);
        let part = of_service(service, by_service.get(&key).map(Vec::as_slice).unwrap_or_default(), node);
        if part != Part::default() {
            parts.insert(Owner::Service(key), Arc::new(part));
        }
    }
    for (address, host_ports) in pods {
        parts.insert(Owner::Pod(*address), Arc::new(of_pod(*address, host_ports)));
    }
    Ruleset { parts }
}

/// What a pod of this node asks for.
pub fn of_pod(address: Ipv4Addr, host_ports: &[HostPort]) -> Part {
    let mut part = Part::default();
    part.elements.insert(Match::Pod(address), None);
    for port in host_ports {
        let Some(protocol) = Protocol::parse(&port.protocol) else { continue };
        let element = match port.host_ip {
            Some(IpAddr::V4(host)) if !host.is_unspecified() => Match::HostAddressPort(host, protocol, port.host_port),
            Some(IpAddr::V6(host)) if !host.is_unspecified() => continue,
            _ => Match::HostPort(protocol, port.host_port),
        };
        let target = Target::Address(SocketAddrV4::new(address, port.container_port));
        part.elements.insert(element, Some(target));
    }
    part
}

/// What a service asks for, given its slices.
pub fn of_service(service: &Service, slices: &[Arc<EndpointSlice>], node: &str) -> Part {
    let mut part = Part::default();
    let Some(spec) = &service.spec else { return part };
    if spec.type_.as_deref() == Some("ExternalName") {
        return part;
    }
    let key = Key::of(service);
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let addresses = addresses(service);
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")) else { continue };
        let Some(number) = number(port.port) else { continue };
        let name = format!("svc/{key}/{protocol}/{number}");
        let candidates = candidates(slices, port);
        let mut chain = |local: bool| {
            let name = if local { format!("{name}/local") } else { name.clone() };
            let endpoints = usable(&candidates, local.then_some(node));
            if endpoints.is_empty() {
                return None;
            }
            part.chains.entry(name.clone()).or_insert(Balance { endpoints, affinity });
            Some(Target::Chain(name))
        };
        let mut elements = Vec::new();
        if !addresses.is_empty()
            && let Some(target) = chain(internal_local)
        {
            elements.extend(addresses.iter().map(|a| (Match::Service(*a, protocol, number), target.clone())));
        }
        if let Some(node_port) = port.node_port.and_then(self::number)
            && let Some(target) = chain(external_local)
        {
            elements.push((Match::NodePort(protocol, node_port), target));
        }
        part.elements.extend(elements.into_iter().map(|(element, target)| (element, Some(target))));
    }
    part
}

/// The IPv4 cluster addresses of a service; none for a headless one.
pub fn addresses(service: &Service) -> Vec<Ipv4Addr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let all: BTreeSet<Ipv4Addr> = all.filter_map(|text| text.parse().ok()).collect();
    all.into_iter().collect()
}

/// A port number, if it is one: neither negative nor zero.
pub fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Whether an endpoint gets traffic. No word about it counts as ready (the API's rule).
pub fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn serves_while_terminating(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return false };
    conditions.terminating == Some(true) && conditions.serving.unwrap_or(true)
}

struct Candidate<'a> {
    address: SocketAddrV4,
    endpoint: &'a Endpoint,
}

fn candidates<'a>(slices: &'a [Arc<EndpointSlice>], port: &ServicePort) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && p.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
        };
        let Some(target) = slice.ports.iter().flatten().find(same).and_then(|p| p.port).and_then(number) else {
            continue;
        };
        for endpoint in endpoints(slice) {
            // "consumers should only use the first address" (EndpointSlice API)
            if let Some(Ok(address)) = endpoint.addresses.first().map(|text| text.parse()) {
                found.push(Candidate { address: SocketAddrV4::new(address, target), endpoint });
            }
        }
    }
    found
}

/// The endpoints of a slice.
pub fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().flatten()
}

fn usable(candidates: &[Candidate<'_>], only_on: Option<&str>) -> Vec<SocketAddrV4> {
    let here = |c: &&Candidate<'_>| only_on.is_none_or(|node| c.endpoint.node_name.as_deref() == Some(node));
    let choose = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<SocketAddrV4> {
        candidates.iter().filter(here).filter(|c| wanted(c.endpoint)).map(|c| c.address).collect()
    };
    let mut chosen = choose(ready);
    if chosen.is_empty() {
        chosen = choose(serves_while_terminating);
    }
    chosen.into_iter().take(MAX_ENDPOINTS).collect()
}
