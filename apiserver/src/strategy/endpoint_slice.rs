//! EndpointSlice: some of the addresses behind a Service.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Cell, Column, Strategy, column, rules};

/// The strategy of EndpointSlices.
pub struct EndpointSlices;

/// Ports, and endpoints, and addresses of an endpoint in the table.
const SHOWN: usize = 3;
/// Ports in one slice.
const MAX_PORTS: usize = 100;
/// Endpoints in one slice.
const MAX_ENDPOINTS: usize = 1000;
/// Addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("AddressType", "The type of address carried by this slice."),
    column::text("Ports", "The ports exposed by each endpoint in this slice."),
    column::text("Endpoints", "The addresses of the endpoints in this slice."),
    column::AGE,
];

fn endpoints(object: &EndpointSlice, errors: &mut Errors) {
    let path = Path::new("endpoints");
    if object.endpoints.as_ref().is_some_and(|e| e.len() > MAX_ENDPOINTS) {
        errors.push(rules::too_many(&path, object.endpoints.as_ref().map_or(0, Vec::len), MAX_ENDPOINTS));
        return;
    }
    for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let path = path.index(index);
        let addresses = path.child("addresses");
        if endpoint.addresses.is_empty() {
            errors.push(Error::required(&addresses, "must contain at least 1 address"));
        } else if endpoint.addresses.len() > MAX_ADDRESSES {
            errors.push(rules::too_many(&addresses, endpoint.addresses.len(), MAX_ADDRESSES));
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let right = match object.address_type.as_str() {
                "IPv4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => {
                    rules::subdomain(errors, &addresses.index(index), address);
                    true
                }
            };
            if !right {
                let why = format!("must be an {} address", object.address_type);
                errors.push(Error::invalid(&addresses.index(index), address, why));
            }
        }
        if let Some(name) = &endpoint.node_name {
            rules::subdomain(errors, &path.child("nodeName"), name);
        }
        if let Some(name) = endpoint.hostname.as_ref().filter(|h| !h.is_empty()) {
            rules::label(errors, &path.child("hostname"), name);
        }
    }
}

fn ports(object: &EndpointSlice, errors: &mut Errors) {
    let path = Path::new("ports");
    let ports: Vec<_> = object.ports.iter().flatten().collect();
    if ports.len() > MAX_PORTS {
        errors.push(rules::too_many(&path, ports.len(), MAX_PORTS));
        return;
    }
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            rules::label(errors, &path.child("name"), name);
        }
        if ports[..index].iter().any(|p| p.name.as_deref().unwrap_or_default() == name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        rules::one_of(errors, &path.child("protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port.port {
            rules::port(errors, &path.child("port"), number);
        }
    }
}

impl Strategy for EndpointSlices {
    type Object = EndpointSlice;

    fn default(&self, object: &mut EndpointSlice) {
        for port in object.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn prepare_create(&self, object: &mut EndpointSlice) {
        object.metadata.generation = Some(1);
    }

    fn prepare_update(&self, new: &mut EndpointSlice, old: &EndpointSlice) {
        let same = new.endpoints == old.endpoints
            && new.ports == old.ports
            && new.address_type == old.address_type
            && new.metadata.labels == old.metadata.labels;
        rules::generation(&mut new.metadata, &old.metadata, !same);
    }

    fn validate(&self, object: &EndpointSlice) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("addressType");
        if object.address_type.is_empty() {
            errors.push(Error::required(&path, ""));
        } else {
            rules::one_of(&mut errors, &path, Some(&object.address_type), &["FQDN", "IPv4", "IPv6"]);
        }
        endpoints(object, &mut errors);
        ports(object, &mut errors);
        errors
    }

    fn validate_update(&self, new: &EndpointSlice, old: &EndpointSlice) -> Errors {
        let mut errors = Errors::new();
        rules::immutable(&mut errors, &Path::new("addressType"), &new.address_type, &old.address_type);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &EndpointSlice, now: Timestamp) -> Vec<Cell> {
        let ports = object.ports.iter().flatten().map(|p| match (p.port, &p.name) {
            (Some(port), _) => port.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".into(),
        });
        let addresses = object.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned());
        vec![
            column::name(&object.metadata),
            column::cell(object.address_type.clone()),
            column::first(&ports.collect::<Vec<_>>(), SHOWN),
            column::first(&addresses.collect::<Vec<_>>(), SHOWN),
            column::aged(&object.metadata, now),
        ]
    }
}
