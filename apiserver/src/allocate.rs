//! What no two Services may share, given out: cluster addresses and node ports.
//!
//! Nothing is recorded here: what is in use is what the stored Services say, so nothing can leak and nothing needs repair.
//! Handlers let only one writer of Services allocate at a time.

use std::{collections::BTreeSet, net::Ipv4Addr};

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

/// The first address of the Service network 10.43.0.0/16.
const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 0);
/// Addresses of the Service network.
const ADDRESSES: u32 = 1 << 16;
/// The address of Service `default/kubernetes`.
pub const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 1);
/// The address of the cluster's name server, which every node binds.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
/// Addresses below this offset are given only to those who ask for one by name (KEP-3070): 256, upstream's most.
const DYNAMIC_FROM: u32 = 256;
/// The first node port.
const FIRST_PORT: i32 = 30_000;
/// The last node port.
const LAST_PORT: i32 = 32_767;

/// Whether the Service has an address of its own.
pub fn wants_address(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() != Some("None")
}

/// Whether the Service's ports are open on every node.
pub fn wants_node_ports(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn inside(address: Ipv4Addr) -> bool {
    let offset = u32::from(address).wrapping_sub(u32::from(NETWORK));
    (1..ADDRESSES - 1).contains(&offset)
}

/// Gives `new` the address and the node ports that it wants and does not have. `others` are all other stored Services.
pub fn allocate(new: &mut Service, others: &[&Service]) -> Errors {
    let mut errors = Errors::new();
    let kubernetes =
        new.metadata.namespace.as_deref() == Some("default") && new.metadata.name.as_deref() == Some("kubernetes");
    let seed = hash(new.metadata.uid.as_deref().or(new.metadata.name.as_deref()).unwrap_or_default());
    let Some(spec) = &mut new.spec else { return errors };
    if wants_address(spec) {
        address(spec, others, kubernetes, seed, &mut errors);
    }
    if wants_node_ports(spec) {
        node_ports(spec, others, seed, &mut errors);
    }
    errors
}

fn address(spec: &mut ServiceSpec, others: &[&Service], kubernetes: bool, seed: u32, errors: &mut Errors) {
    let used: BTreeSet<Ipv4Addr> = others
        .iter()
        .filter_map(|s| s.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok())
        .chain((!kubernetes).then_some(KUBERNETES))
        .chain([DNS])
        .collect();
    let path = Path::new("spec").child("clusterIPs");
    if let Some(asked) = spec.cluster_ip.as_ref().filter(|a| !a.is_empty()) {
        let why = match asked.parse::<Ipv4Addr>() {
            Ok(address) if !inside(address) => {
                "failed to allocate IP ".to_owned()
                    + asked
                    + ": the provided IP is not in the valid range. The range of valid IPs is 10.43.0.0/16"
            }
            Ok(address) if used.contains(&address) => {
                format!("failed to allocate IP {asked}: provided IP is already allocated")
            }
            Ok(_) => {
                spec.cluster_ips = Some(vec![asked.clone()]);
                return;
            }
            Err(_) => format!("failed to allocate IP {asked}: only IPv4 is served"),
        };
        errors.push(Error::invalid(&path, [asked], why));
        return;
    }
    let dynamic = ADDRESSES - 1 - DYNAMIC_FROM;
    let at = |offset: u32| Ipv4Addr::from(u32::from(NETWORK) + offset);
    let free = (0..dynamic)
        .map(|i| at(DYNAMIC_FROM + (seed.wrapping_add(i)) % dynamic))
        .chain((2..DYNAMIC_FROM).map(at))
        .find(|address| !used.contains(address));
    match free {
        Some(address) => {
            spec.cluster_ip = Some(address.to_string());
            spec.cluster_ips = Some(vec![address.to_string()]);
        }
        None => errors.push(Error::invalid(&path, [""; 0], "failed to allocate a serviceIP: range is full")),
    }
}

fn node_ports(spec: &mut ServiceSpec, others: &[&Service], seed: u32, errors: &mut Errors) {
    let path = Path::new("spec").child("ports");
    let ports = spec.ports.get_or_insert_default();
    // one number may serve TCP and UDP of one Service, never two Services
    let mut used: BTreeSet<i32> = others
        .iter()
        .flat_map(|s| s.spec.iter().flat_map(|s| s.ports.iter().flatten()))
        .filter_map(|p| p.node_port.filter(|p| *p != 0))
        .collect();
    for (index, port) in ports.iter().enumerate() {
        let Some(asked) = port.node_port.filter(|p| *p != 0) else { continue };
        let path = path.index(index).child("nodePort");
        if !(FIRST_PORT..=LAST_PORT).contains(&asked) {
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {FIRST_PORT}-{LAST_PORT}"
            );
            errors.push(Error::invalid(&path, asked, why));
        } else if used.contains(&asked) {
            errors.push(Error::invalid(&path, asked, "provided port is already allocated"));
        }
    }
    used.extend(ports.iter().filter_map(|p| p.node_port));
    let span = LAST_PORT - FIRST_PORT + 1;
    let start = i32::try_from(seed % span.unsigned_abs()).unwrap_or_default();
    let mut free = (0..span).map(|i| FIRST_PORT + (start + i) % span).filter(|p| !used.contains(p));
    for (index, port) in ports.iter_mut().enumerate().filter(|(_, p)| p.node_port.unwrap_or_default() == 0) {
        port.node_port = free.next();
        if port.node_port.is_none() {
            let why = "failed to allocate a nodePort: range is full";
            errors.push(Error::invalid(&path.index(index).child("nodePort"), 0, why));
        }
    }
}

/// FNV-1a: spreads first choices, so that an address is not reused at once after a Service is gone.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServicePort;
    use proptest::prelude::*;

    use super::*;

    fn service(name: &str, kind: &str, address: Option<&str>, ports: &[i32]) -> Service {
        let ports = ports.iter().map(|p| ServicePort { node_port: Some(*p), port: 80, ..ServicePort::default() });
        let spec = ServiceSpec {
            type_: Some(kind.into()),
            cluster_ip: address.map(Into::into),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        };
        let mut service = Service { spec: Some(spec), ..Service::default() };
        service.metadata.name = Some(name.into());
        service.metadata.namespace = Some("default".into());
        service
    }

    fn texts(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused_with_the_reason() {
        let taken = service("a", "NodePort", Some("10.43.0.7"), &[30_080]);
        let mut fine = service("b", "NodePort", Some("10.43.0.8"), &[30_081]);
        assert!(allocate(&mut fine, &[&taken]).is_empty());
        let mut clash = service("c", "NodePort", Some("10.43.0.7"), &[30_080, 80]);
        assert_eq!(
            texts(&allocate(&mut clash, &[&taken])),
            [
                "spec.clusterIPs: Invalid value: [\"10.43.0.7\"]: failed to allocate IP 10.43.0.7: provided IP is already allocated",
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
                "spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
            ]
        );
        let mut outside = service("d", "ClusterIP", Some("10.96.0.1"), &[]);
        assert_eq!(
            texts(&allocate(&mut outside, &[])),
            [
                "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: the provided IP is not in the valid range. The range of valid IPs is 10.43.0.0/16"
            ]
        );
    }

    #[test]
    fn the_clusters_own_addresses_are_not_given_away() {
        for reserved in ["10.43.0.1", "10.43.0.10", "10.43.0.0", "10.43.255.255"] {
            assert_eq!(allocate(&mut service("a", "ClusterIP", Some(reserved), &[]), &[]).len(), 1, "{reserved}");
        }
        assert!(allocate(&mut service("kubernetes", "ClusterIP", Some("10.43.0.1"), &[]), &[]).is_empty());
    }

    #[test]
    fn headless_and_external_services_get_nothing() {
        for (kind, address) in [("ClusterIP", Some("None")), ("ExternalName", None)] {
            let mut service = service("a", kind, address, &[]);
            let before = service.clone();
            assert!(allocate(&mut service, &[]).is_empty());
            assert_eq!(service, before);
        }
    }

    #[test]
    fn a_full_range_is_said_to_be_full() {
        let every: Vec<i32> = (FIRST_PORT..=LAST_PORT).collect();
        let hog = service("hog", "NodePort", Some("10.43.9.9"), &every);
        let errors = allocate(&mut service("late", "NodePort", None, &[0]), &[&hog]);
        assert_eq!(
            texts(&errors),
            ["spec.ports[0].nodePort: Invalid value: 0: failed to allocate a nodePort: range is full"]
        );
    }

    proptest! {
        #[test]
        fn no_two_services_share(names in proptest::collection::vec("[a-z]{1,3}", 1..60)) {
            let mut all: Vec<Service> = Vec::new();
            for name in names {
                let mut next = service(&name, "NodePort", None, &[0, 0]);
                let others: Vec<_> = all.iter().collect();
                prop_assert!(allocate(&mut next, &others).is_empty());
                all.push(next);
            }
            let specs = || all.iter().map(|s| s.spec.as_ref().unwrap());
            let addresses: BTreeSet<_> = specs().map(|s| s.cluster_ip.clone()).collect();
            let ports: BTreeSet<_> = specs().flat_map(|s| s.ports.iter().flatten().map(|p| p.node_port)).collect();
            prop_assert_eq!(addresses.len(), all.len());
            prop_assert_eq!(ports.len(), 2 * all.len());
        }
    }
}
