//! Scripts under `testdata/`: services and endpoints in, rules and names out.
//!
//! A script is made of blocks: lines of input, `----`, the expected output, an empty line. `REWRITE=1 cargo test -p netd --test golden`
//! writes what comes out into the files, to be reviewed as a diff.
//!
//! ```text
//! service NS/NAME [ip=A] [port=NAME:PORT/PROTOCOL[:NODEPORT]]... [headless] [external=NAME] [affinity] [internal-local] [external-local]
//! slice   NS/NAME SERVICE [port=NAME:PORT/PROTOCOL]... ADDRESS[@NODE][,HOSTNAME][,notready|,terminating|,dead]...
//! pod     ADDRESS [[HOSTADDRESS:]HOSTPORT/PROTOCOL>PORT]...
//! delete  service|slice|pod WHICH
//! rules                     all rules of node `here`
//! change                    the steps since the last `rules` or `change`
//! lookup  NAME TYPE
//! ```
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path, sync::Arc};

use client::Key;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use netd::{
    HostPort,
    dns::zone::{Answer, Data, Record, Type, Zone},
    ruleset::{Owner, Part, Ruleset, diff},
    service,
};

struct World {
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, Arc<EndpointSlice>>,
    pods: BTreeMap<Ipv4Addr, Vec<HostPort>>,
    last: Ruleset,
    zone: Zone,
}

impl World {
    fn new() -> Self {
        let zone = Zone::new(
            "cluster.local",
            "10.42.0.0/16".parse().unwrap(),
            "10.43.0.0/16".parse().unwrap(),
            "10.43.0.10".parse().unwrap(),
        );
        let (services, slices, pods) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { services, slices, pods, last: Ruleset::default(), zone }
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["service", name, ref rest @ ..] => {
                let service = parse_service(name, rest);
                self.services.insert(Key::of(&service), Arc::new(service));
            }
            ["slice", name, service, ref rest @ ..] => {
                let slice = parse_slice(name, service, rest);
                self.slices.insert(Key::of(&slice), Arc::new(slice));
            }
            ["pod", address, ref ports @ ..] => {
                self.pods.insert(address.parse().unwrap(), ports.iter().map(|word| parse_host_port(word)).collect());
            }
            ["delete", "service", name] => assert!(self.services.remove(&key(name)).is_some(), "{line}"),
            ["delete", "slice", name] => assert!(self.slices.remove(&key(name)).is_some(), "{line}"),
            ["delete", "pod", address] => assert!(self.pods.remove(&address.parse().unwrap()).is_some(), "{line}"),
            ["rules"] => {
                self.last = self.rules();
                return self.last.to_string();
            }
            ["change"] => return self.change(),
            ["lookup", name, kind] => {
                self.name();
                return lookup(&self.zone, name, kind);
            }
            _ => panic!("unknown line: {line}"),
        }
        String::new()
    }

    fn rules(&self) -> Ruleset {
        let services: Vec<_> = self.services.values().cloned().collect();
        let slices: Vec<_> = self.slices.values().cloned().collect();
        service::rules(&services, &slices, &self.pods, "here")
    }

    fn change(&mut self) -> String {
        let new = self.rules();
        let owners: std::collections::BTreeSet<&Owner> = self.last.parts.keys().chain(new.parts.keys()).collect();
        fn part<'a>(ruleset: &'a Ruleset, owner: &Owner) -> Option<&'a Part> {
            ruleset.parts.get(owner).map(|part| &**part)
        }
        let steps = diff(owners.iter().map(|owner| (part(&self.last, owner), part(&new, owner))));
        self.last = new;
        steps.iter().map(|step| format!("{step}\n")).collect()
    }

    /// Brings the zone up to date, one service at a time, as the node does.
    fn name(&mut self) {
        let mut keys: std::collections::BTreeSet<Key> = self.services.keys().cloned().collect();
        keys.extend(self.slices.values().filter_map(|slice| service::owner(slice)));
        keys.insert(key("default/gone"));
        for key in keys {
            let of = |slice: &&Arc<EndpointSlice>| service::owner(slice).as_ref() == Some(&key);
            let slices: Vec<_> = self.slices.values().filter(of).cloned().collect();
            self.zone.set(&key, self.services.get(&key).map(|service| &**service), &slices);
        }
    }
}

fn key(text: &str) -> Key {
    let (namespace, name) = text.split_once('/').unwrap();
    Key::new(namespace, name)
}

/// `NAME:PORT/PROTOCOL[:NODEPORT]`
fn parse_port(text: &str) -> (Option<String>, i32, Option<String>, Option<i32>) {
    let (name, rest) = text.split_once(':').unwrap();
    let (port, rest) = rest.split_once('/').unwrap();
    let (protocol, node_port) = rest.split_once(':').map_or((rest, None), |(p, n)| (p, Some(n.parse().unwrap())));
    let name = (!name.is_empty()).then(|| name.to_owned());
    (name, port.parse().unwrap(), Some(protocol.to_owned()), node_port)
}

fn parse_service(name: &str, words: &[&str]) -> Service {
    let mut spec = ServiceSpec::default();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("ip", address) => spec.cluster_ip = Some(address.to_owned()),
            ("headless", _) => spec.cluster_ip = Some("None".to_owned()),
            ("external", name) => {
                spec.type_ = Some("ExternalName".to_owned());
                spec.external_name = Some(name.to_owned());
            }
            ("affinity", _) => spec.session_affinity = Some("ClientIP".to_owned()),
            ("internal-local", _) => spec.internal_traffic_policy = Some("Local".to_owned()),
            ("external-local", _) => spec.external_traffic_policy = Some("Local".to_owned()),
            ("port", text) => {
                let (name, port, protocol, node_port) = parse_port(text);
                let port = ServicePort { name, port, protocol, node_port, ..ServicePort::default() };
                spec.ports.get_or_insert_default().push(port);
            }
            _ => panic!("unknown word of a service: {word}"),
        }
    }
    let mut service = Service { spec: Some(spec), ..Service::default() };
    (service.metadata.namespace, service.metadata.name) = (Some(key(name).namespace), Some(key(name).name));
    service
}

fn parse_slice(name: &str, service: &str, words: &[&str]) -> EndpointSlice {
    let mut slice = EndpointSlice { address_type: "IPv4".to_owned(), ..EndpointSlice::default() };
    (slice.metadata.namespace, slice.metadata.name) = (Some(key(name).namespace), Some(key(name).name));
    slice.metadata.labels = Some([(service::SERVICE_NAME.to_owned(), service.to_owned())].into());
    for word in words {
        if let Some(text) = word.strip_prefix("port=") {
            let (name, port, protocol, _) = parse_port(text);
            let port = EndpointPort { name, port: Some(port), protocol, ..EndpointPort::default() };
            slice.ports.get_or_insert_default().push(port);
            continue;
        }
        let mut parts = word.split(',');
        let (address, node) = parts.next().map(|p| p.split_once('@').unwrap_or((p, ""))).unwrap();
        let mut endpoint = Endpoint { addresses: vec![address.to_owned()], ..Endpoint::default() };
        endpoint.node_name = (!node.is_empty()).then(|| node.to_owned());
        for part in parts {
            let conditions = |ready, serving, terminating| {
                Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) })
            };
            match part {
                "notready" => endpoint.conditions = conditions(false, false, false),
                "terminating" => endpoint.conditions = conditions(false, true, true),
                "dead" => endpoint.conditions = conditions(false, false, true),
                host => endpoint.hostname = Some(host.to_owned()),
            }
        }
        slice.endpoints.get_or_insert_default().push(endpoint);
    }
    slice
}

/// `[HOSTADDRESS:]HOSTPORT/PROTOCOL>PORT`
fn parse_host_port(text: &str) -> HostPort {
    let (host, port) = text.split_once('>').unwrap();
    let (host, protocol) = host.split_once('/').unwrap();
    let (host_ip, host_port) = host.split_once(':').map_or((None, host), |(a, p)| (Some(a.parse().unwrap()), p));
    let (host_port, container_port) = (host_port.parse().unwrap(), port.parse().unwrap());
    HostPort { host_ip, host_port, container_port, protocol: protocol.to_owned() }
}

fn lookup(zone: &Zone, name: &str, kind: &str) -> String {
    let kind = match kind {
        "A" => Type::A,
        "SRV" => Type::Srv,
        "PTR" => Type::Ptr,
        "CNAME" => Type::Cname,
        "SOA" => Type::Soa,
        "NS" => Type::Ns,
        "ANY" => Type::Any,
        _ => Type::Other,
    };
    let text = |record: &Record| match &record.data {
        Data::A(address) => format!("A {address}"),
        Data::Srv(port, target) => format!("SRV {port} {target}"),
        Data::Ptr(target) => format!("PTR {target}"),
        Data::Cname(target) => format!("CNAME {target}"),
        Data::Soa(serial) => format!("SOA {serial}"),
        Data::Ns(server) => format!("NS {server}"),
    };
    match zone.lookup(name, kind) {
        Answer::Records(records, more) => {
            assert!(records.iter().all(|record| record.name == name), "an answer is about what was asked");
            let answers = records.iter().map(|record| format!("{}\n", text(record)));
            answers.chain(more.iter().map(|record| format!("  {} {}\n", record.name, text(record)))).collect()
        }
        other => format!("{other:?}\n"),
    }
}

fn play(directory: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(directory);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no script in {}", directory.display());
    for file in files {
        let script = fs::read_to_string(&file).unwrap();
        let mut world = World::new();
        let mut played = String::new();
        for block in script.trim_end().split("\n\n") {
            let (input, _) = block.split_once("\n----").unwrap_or((block, ""));
            let lines = input.lines().filter(|line| !line.starts_with('#'));
            let output: String = lines.map(|line| world.run(line)).collect();
            played.push_str(&format!("{input}\n----\n{output}\n"));
        }
        let played = played.trim_end().to_owned() + "\n";
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&file, played).unwrap();
        } else {
            assert_eq!(played, script, "{} says otherwise; REWRITE=1 rewrites it", file.display());
        }
    }
}

#[test]
fn rules() {
    play("rules");
}

#[test]
fn names() {
    play("dns");
}
