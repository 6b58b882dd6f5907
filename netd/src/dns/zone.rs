//! The names of the cluster: an immutable snapshot with pure lookups.
//!
//! | name | type | answer |
//! |---|---|---|
//! | `SVC.NS.svc.DOMAIN` | A | the service's address; of a headless one, those of its ready endpoints |
//! | | SRV | every port |
//! | | CNAME | of an `ExternalName` service |
//! | `HOST.SVC.NS.svc.DOMAIN` | A | the endpoint of that hostname, or with that address, dashes for dots |
//! | `_PORT._PROTO.SVC.NS.svc.DOMAIN` | SRV | that port |
//! | `A-B-C-D.NS.pod.DOMAIN` | A | that address |
//! | `D.C.B.A.in-addr.arpa` | PTR | the service or endpoints of that address |
//!
//! The maps are persistent: a change of one service costs what that service costs, and readers keep the snapshot they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use client::Key;
use ipnet::Ipv4Net;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::{ruleset::Protocol, service};

/// How long, in seconds, a client may keep an answer. A negative one also.
pub const TTL: u32 = 5;
/// The most addresses of one headless service that are answered.
pub const MAX_ADDRESSES: usize = 1000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// IPv4 addresses.
    A,
    /// Ports and the names of hosts.
    Srv,
    /// The name of an address.
    Ptr,
    /// The other name.
    Cname,
    /// The zone's own record.
    Soa,
    /// The zone's name servers.
    Ns,
    /// Everything there is.
    Any,
    /// What no name here has.
    Other,
}

/// What a record says. Names are absolute, in lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// A port of a host.
    Srv(u16, String),
    /// The name of an address.
    Ptr(String),
    /// The other name.
    Cname(String),
    /// The zone's own record, with its serial number.
    Soa(u32),
    /// A name server.
    Ns(String),
}

/// A name and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// The name.
    pub name: String,
    /// What is said.
    pub data: Data,
}

/// What a lookup finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, and addresses of the names in them.
    Records(Vec<Record>, Vec<Record>),
    /// The name exists, but has nothing of that type.
    NoData,
    /// There is no such name.
    NoName,
    /// The name is not the cluster's.
    Elsewhere,
}

/// What is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    /// What the service's own name stands for.
    addresses: Vec<Ipv4Addr>,
    /// Whether that are its endpoints.
    headless: bool,
    /// Ready endpoints by host name.
    hosts: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Ports: name (may be empty), protocol, number.
    ports: BTreeSet<(String, Protocol, u16)>,
    /// The other name of an `ExternalName` service.
    external: Option<String>,
}

/// All names of a cluster at one moment.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Arc<str>,
    nets: [Ipv4Net; 2],
    server: Ipv4Addr,
    serial: u32,
    services: imbl::HashMap<Key, Arc<Names>>,
    namespaces: imbl::HashMap<String, usize>,
    reverse: imbl::HashMap<Ipv4Addr, BTreeSet<String>>,
}

impl Zone {
    /// A zone without services, for a cluster whose pods and services have these addresses and whose name server has that one.
    pub fn new(domain: &str, pods: Ipv4Net, services: Ipv4Net, server: Ipv4Addr) -> Self {
        Self {
            domain: domain.trim_end_matches('.').to_ascii_lowercase().into(),
            nets: [pods, services],
            server,
            serial: 1,
            services: imbl::HashMap::new(),
            namespaces: imbl::HashMap::new(),
            reverse: imbl::HashMap::new(),
        }
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Whether only this zone can know the name: it is below the domain.
    pub fn owns(&self, name: &str) -> bool {
        name.strip_suffix(&*self.domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The zone's own record.
    pub fn soa(&self) -> Record {
        Record { name: self.domain.to_string(), data: Data::Soa(self.serial) }
    }

    /// The same zone with this service as it is now: `None` if it is gone.
    pub fn set(&mut self, key: &Key, service: Option<&Service>, slices: &[Arc<EndpointSlice>]) {
        let new = service.and_then(|service| names(service, slices));
        let old = self.services.get(key).cloned();
        if old.as_deref() == new.as_ref() {
            return;
        }
        if let Some(old) = &old {
            for (address, name) in self.reverse_names(key, old) {
                let mut names = self.reverse.get(&address).cloned().unwrap_or_default();
                names.remove(&name);
                if names.is_empty() {
                    self.reverse.remove(&address)
                } else {
                    self.reverse.insert(address, names)
                };
            }
        }
        if let Some(new) = &new {
            for (address, name) in self.reverse_names(key, new) {
                self.reverse.entry(address).or_default().insert(name);
            }
        }
        let count = self.namespaces.get(&key.namespace).copied().unwrap_or_default();
        let count = count + usize::from(new.is_some()) - usize::from(old.is_some());
        if count == 0 {
            self.namespaces.remove(&key.namespace);
        } else {
            self.namespaces.insert(key.namespace.clone(), count);
        }
        match new {
            Some(new) => self.services.insert(key.clone(), Arc::new(new)),
            None => self.services.remove(key),
        };
        self.serial = self.serial.wrapping_add(1);
    }

    fn service_name(&self, key: &Key) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.domain)
    }

    fn reverse_names(&self, key: &Key, names: &Names) -> Vec<(Ipv4Addr, String)> {
        let service = self.service_name(key);
        let own = names.addresses.iter().filter(|_| !names.headless).map(|address| (*address, service.clone()));
        let hosts = names.hosts.iter().flat_map(|(host, addresses)| {
            addresses.iter().map(|address| (*address, format!("{host}.{service}"))).collect::<Vec<_>>()
        });
        own.chain(hosts).collect()
    }

    /// Answers one question. The name is absolute, in lower case, without the final dot.
    pub fn lookup(&self, name: &str, wanted: Type) -> Answer {
        if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
            return self.reverse(name, reversed, wanted);
        }
        if !self.owns(name) {
            return Answer::Elsewhere;
        }
        let rest = name[..name.len() - self.domain.len()].trim_end_matches('.');
        let labels: Vec<&str> = rest.split('.').rev().filter(|label| !label.is_empty()).collect();
        match labels[..] {
            [] => self.apex(name, wanted),
            ["svc" | "pod" | "dns"] => Answer::NoData,
            ["dns", "ns"] => addresses(name, [self.server], wanted),
            ["svc", namespace] if self.namespaces.contains_key(namespace) => Answer::NoData,
            ["svc", namespace, service, ..] => {
                let key = Key::new(namespace, service);
                self.services
                    .get(&key)
                    .map_or(Answer::NoName, |names| self.service(name, &key, names, &labels[3..], wanted))
            }
            ["pod", _] => Answer::NoData,
            ["pod", _, dashed] => match dashed.replace('-', ".").parse() {
                Ok(address) => addresses(name, [address], wanted),
                Err(_) => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn apex(&self, name: &str, wanted: Type) -> Answer {
        let server = format!("ns.dns.{}", self.domain);
        let ns = Record { name: name.to_owned(), data: Data::Ns(server.clone()) };
        let address = Record { name: server, data: Data::A(self.server) };
        match wanted {
            Type::Soa => Answer::Records(vec![self.soa()], Vec::new()),
            Type::Ns => Answer::Records(vec![ns], vec![address]),
            Type::Any => Answer::Records(vec![self.soa(), ns], vec![address]),
            Type::A | Type::Srv | Type::Ptr | Type::Cname | Type::Other => Answer::NoData,
        }
    }

    fn reverse(&self, name: &str, reversed: &str, wanted: Type) -> Answer {
        let labels: Vec<&str> = reversed.split('.').rev().collect();
        let Ok(address) = labels.join(".").parse::<Ipv4Addr>() else { return Answer::Elsewhere };
        match (self.reverse.get(&address), wanted) {
            (Some(names), Type::Ptr | Type::Any) => {
                let record = |to: &String| Record { name: name.to_owned(), data: Data::Ptr(to.clone()) };
                Answer::Records(names.iter().map(record).collect(), Vec::new())
            }
            (Some(_), _) => Answer::NoData,
            (None, _) if self.nets.iter().any(|net| net.contains(&address)) => Answer::NoName,
            (None, _) => Answer::Elsewhere,
        }
    }

    fn service(&self, name: &str, key: &Key, names: &Names, below: &[&str], wanted: Type) -> Answer {
        if let Some(external) = &names.external {
            // an alias answers for every type, but only for itself
            let alias = Record { name: name.to_owned(), data: Data::Cname(external.clone()) };
            return if below.is_empty() { Answer::Records(vec![alias], Vec::new()) } else { Answer::NoName };
        }
        match below {
            [] if wanted == Type::Srv => self.ports(name, key, names, |_| true),
            [] => addresses(name, names.addresses.iter().copied().take(MAX_ADDRESSES), wanted),
            [protocol] if protocol.starts_with('_') => {
                let known = names.ports.iter().any(|(_, p, _)| protocol[1..] == p.to_string());
                if known { Answer::NoData } else { Answer::NoName }
            }
            [host] => match names.hosts.get(*host) {
                Some(found) => addresses(name, found.iter().copied(), wanted),
                None => Answer::NoName,
            },
            [protocol, port] if protocol.starts_with('_') && port.starts_with('_') => {
                let same = |(n, p, _): &(String, Protocol, u16)| *n == port[1..] && protocol[1..] == p.to_string();
                match (names.ports.iter().any(same), wanted) {
                    (true, Type::Srv | Type::Any) => self.ports(name, key, names, same),
                    (true, _) => Answer::NoData,
                    (false, _) => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }

    fn ports(&self, name: &str, key: &Key, names: &Names, wanted: impl Fn(&(String, Protocol, u16)) -> bool) -> Answer {
        let service = self.service_name(key);
        let targets: Vec<(String, Vec<Ipv4Addr>)> = if names.headless {
            let host =
                |(host, found): (&String, &BTreeSet<_>)| (format!("{host}.{service}"), found.iter().copied().collect());
            names.hosts.iter().map(host).take(MAX_ADDRESSES).collect()
        } else {
            vec![(service, names.addresses.clone())]
        };
        let (mut records, mut more) = (Vec::new(), Vec::new());
        for (target, found) in targets {
            for (_, _, port) in names.ports.iter().filter(|port| wanted(port)) {
                records.push(Record { name: name.to_owned(), data: Data::Srv(*port, target.clone()) });
            }
            more.extend(found.into_iter().map(|address| Record { name: target.clone(), data: Data::A(address) }));
        }
        if records.is_empty() { Answer::NoData } else { Answer::Records(records, more) }
    }
}

fn addresses(name: &str, found: impl IntoIterator<Item = Ipv4Addr>, wanted: Type) -> Answer {
    if !matches!(wanted, Type::A | Type::Any) {
        return Answer::NoData;
    }
    let record = |address| Record { name: name.to_owned(), data: Data::A(address) };
    let records: Vec<_> = found.into_iter().map(record).collect();
    if records.is_empty() { Answer::NoData } else { Answer::Records(records, Vec::new()) }
}

fn names(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<Names> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let external = spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase();
        return Some(Names { external: Some(external), ..Names::default() });
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let mut names = Names { headless, addresses: service::addresses(service), ..Names::default() };
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        for endpoint in service::endpoints(slice).filter(|endpoint| service::ready(endpoint)) {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok()) {
                let dashed = || address.to_string().replace('.', "-");
                let host = endpoint.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(dashed);
                names.hosts.entry(host.to_ascii_lowercase()).or_default().insert(address);
            }
        }
    }
    if headless {
        let all: BTreeSet<_> = names.hosts.values().flatten().copied().collect();
        names.addresses = all.into_iter().collect();
    }
    let target = |name: &str| {
        let ports = slices.iter().flat_map(|slice| slice.ports.iter().flatten());
        ports.filter(|port| port.name.as_deref().unwrap_or_default() == name).find_map(|port| port.port)
    };
    for port in spec.ports.iter().flatten() {
        let name = port.name.clone().unwrap_or_default();
        // a headless service translates nothing: clients must be told the pods' own port
        let number = if headless { target(&name).unwrap_or(port.port) } else { port.port };
        if let (Some(protocol), Some(number)) =
            (Protocol::parse(port.protocol.as_deref().unwrap_or("TCP")), service::number(number))
        {
            names.ports.insert((name.to_ascii_lowercase(), protocol, number));
        }
    }
    Some(names)
}
