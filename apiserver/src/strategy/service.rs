//! Service: one address for the pods that a selector chooses.

use std::net::IpAddr;

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ClientIPConfig, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Cell, Column, FieldOf, NameRule, Strategy, column, rules};
use crate::allocate;

/// The strategy of Services.
pub struct Services;

/// How long a client stays with one pod, where sessions have affinity; seconds.
const STICKY_SECONDS: i32 = 10_800;
/// The longest that a client may be asked to stay; seconds.
const MAX_STICKY_SECONDS: i32 = 86_400;
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Type", "How the Service is exposed."),
    column::text("Cluster-IP", "The address of the Service inside the cluster."),
    column::text("External-IP", "Addresses outside the cluster that lead to the Service."),
    column::text("Port(s)", "The list of ports that are exposed by this service."),
    column::AGE,
    column::wide("Selector", "Route service traffic to pods with label keys and values matching this selector."),
];

fn external(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
        || (spec.type_.as_deref() == Some("ClusterIP") && spec.external_ips.as_ref().is_some_and(|e| !e.is_empty()))
}

fn default_ports(ports: &mut [ServicePort]) {
    for port in ports {
        if port.protocol.as_deref().is_none_or(str::is_empty) {
            port.protocol = Some("TCP".into());
        }
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

fn default_spec(spec: &mut ServiceSpec) {
    if spec.type_.as_deref().is_none_or(str::is_empty) {
        spec.type_ = Some("ClusterIP".into());
    }
    if spec.session_affinity.as_deref().is_none_or(str::is_empty) {
        spec.session_affinity = Some("None".into());
    }
    if spec.session_affinity.as_deref() == Some("None") {
        spec.session_affinity_config = None;
    } else if spec.session_affinity_config.is_none() {
        let client = ClientIPConfig { timeout_seconds: Some(STICKY_SECONDS) };
        spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client) });
    }
    default_ports(spec.ports.as_deref_mut().unwrap_or_default());
    if external(spec) && spec.external_traffic_policy.as_deref().is_none_or(str::is_empty) {
        spec.external_traffic_policy = Some("Cluster".into());
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".into());
    spec.ip_families.get_or_insert_with(|| vec!["IPv4".into()]);
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".into());
    if spec.type_.as_deref() == Some("LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    match (spec.cluster_ip.as_deref(), spec.cluster_ips.as_deref()) {
        (None | Some(""), Some([first, ..])) => spec.cluster_ip = Some(first.clone()),
        (Some(address), None | Some([])) if !address.is_empty() => spec.cluster_ips = Some(vec![address.to_owned()]),
        _ => {}
    }
}

/// Keeps what was given out before, where a writer leaves it out and still needs it; drops what a change of the type frees.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    let unset = |address: &Option<String>| address.as_deref().is_none_or(str::is_empty);
    if new.type_.as_deref() == Some("ExternalName") {
        if new.cluster_ip == old.cluster_ip {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        new.ip_families = None;
        new.ip_family_policy = None;
        new.internal_traffic_policy = None;
    } else if unset(&new.cluster_ip) && old.type_.as_deref() != Some("ExternalName") {
        new.cluster_ip.clone_from(&old.cluster_ip);
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    if !external(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy = None;
    }
    if new.type_.as_deref() != Some("LoadBalancer") {
        new.allocate_load_balancer_node_ports = None;
    }
    let before = old.ports.as_deref().unwrap_or_default();
    let ports = new.ports.as_deref_mut().unwrap_or_default();
    let had = |port: &ServicePort| before.iter().find(|o| o.port == port.port && o.protocol == port.protocol);
    if !matches!(new.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        // what the writer merely carried along from the old type goes
        for port in ports.iter_mut().filter(|p| p.node_port.is_some()) {
            if before.iter().any(|o| o.node_port == port.node_port) {
                port.node_port = None;
            }
        }
        return;
    }
    let taken: Vec<_> = ports.iter().filter_map(|p| p.node_port).collect();
    for port in ports.iter_mut().filter(|p| p.node_port.unwrap_or_default() == 0) {
        port.node_port = had(port).and_then(|o| o.node_port).filter(|p| !taken.contains(p));
    }
}

fn validate_ports(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && spec.type_.as_deref() != Some("ExternalName") {
        errors.push(Error::required(path, ""));
    }
    let node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(Error::required(&path.child("name"), ""));
            }
        } else {
            rules::label(errors, &path.child("name"), name);
            if ports[..index].iter().any(|p| p.name.as_deref() == Some(name)) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        rules::port(errors, &path.child("port"), port.port);
        rules::one_of(errors, &path.child("protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"]);
        match &port.target_port {
            Some(IntOrString::Int(number)) => rules::port(errors, &path.child("targetPort"), *number),
            Some(IntOrString::String(name)) => rules::port_name(errors, &path.child("targetPort"), name),
            None => {}
        }
        if !node_ports && port.node_port.is_some_and(|p| p != 0) {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(Error::forbidden(&path.child("nodePort"), why));
        }
        if ports[..index].iter().any(|p| p.port == port.port && p.protocol == port.protocol) {
            let key = serde_json::json!({"port": port.port, "protocol": port.protocol});
            errors.push(Error::duplicate(&path, key));
        }
        let same_node_port = |p: &ServicePort| p.node_port == port.node_port && p.protocol == port.protocol;
        if port.node_port.is_some_and(|p| p != 0) && ports[..index].iter().any(same_node_port) {
            errors.push(Error::duplicate(&path.child("nodePort"), port.node_port));
        }
    }
}

fn validate_external_name(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        errors.push(Error::required(&path.child("externalName"), ""));
    } else {
        rules::subdomain(errors, &path.child("externalName"), name.trim_end_matches('.'));
    }
    if spec.cluster_ip.as_deref().is_some_and(|a| !a.is_empty()) {
        errors.push(Error::forbidden(&path.child("clusterIPs"), "may not be set when `type` is 'ExternalName'"));
    }
}

fn validate_addresses(spec: &ServiceSpec, path: &Path, errors: &mut Errors) {
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if headless && matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        let kind = spec.type_.as_deref().unwrap_or_default();
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(Error::invalid(&path.child("clusterIPs").index(0), "None", why));
    }
    if let (Some(address), Some([first, ..])) = (spec.cluster_ip.as_ref(), spec.cluster_ips.as_deref())
        && address != first
    {
        let why = "first value must match `clusterIP`";
        errors.push(Error::invalid(&path.child("clusterIPs"), &spec.cluster_ips, why));
    }
    if !headless {
        for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
            if address.parse::<IpAddr>().is_err() {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                errors.push(Error::invalid(&path.child("clusterIPs").index(index), address, why));
            }
        }
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        if address.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(Error::invalid(&path.child("externalIPs").index(index), address, why));
        }
    }
}

fn validate_spec(spec: &ServiceSpec) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    rules::one_of(&mut errors, &path.child("type"), spec.type_.as_deref(), &TYPES);
    validate_ports(spec, &path.child("ports"), &mut errors);
    if spec.type_.as_deref() == Some("ExternalName") {
        validate_external_name(spec, &path, &mut errors);
    } else {
        validate_addresses(spec, &path, &mut errors);
    }
    rules::labels(&mut errors, &path.child("selector"), spec.selector.as_ref());
    let affinity = path.child("sessionAffinity");
    rules::one_of(&mut errors, &affinity, spec.session_affinity.as_deref(), &["ClientIP", "None"]);
    let client = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    if let Some(seconds) = client.and_then(|c| c.timeout_seconds)
        && !(1..=MAX_STICKY_SECONDS).contains(&seconds)
    {
        let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        let why = format!("must be greater than 0 and less than {MAX_STICKY_SECONDS}");
        errors.push(Error::invalid(&path, seconds, why));
    }
    let policies = ["Cluster", "Local"];
    if let Some(policy) = &spec.external_traffic_policy {
        let path = path.child("externalTrafficPolicy");
        if external(spec) {
            rules::one_of(&mut errors, &path, Some(policy), &policies);
        } else {
            let why = "may only be set for externally-accessible services";
            errors.push(Error::invalid(&path, policy, why));
        }
    }
    if let Some(policy) = &spec.internal_traffic_policy {
        rules::one_of(&mut errors, &path.child("internalTrafficPolicy"), Some(policy), &policies);
    }
    errors
}

fn external_addresses(object: &Service, spec: &ServiceSpec) -> String {
    let listed = spec.external_ips.iter().flatten().cloned();
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let status = object.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let given = status.iter().flat_map(|l| l.ingress.iter().flatten());
            let given = given.filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone()));
            let all: Vec<_> = given.chain(listed).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        _ => {
            let all: Vec<_> = listed.collect();
            if all.is_empty() { "<none>".into() } else { all.join(",") }
        }
    }
}

impl Strategy for Services {
    type Object = Service;

    fn default(&self, object: &mut Service) {
        default_spec(object.spec.get_or_insert_default());
    }

    fn prepare_create(&self, object: &mut Service) {
        let load_balancer = Some(LoadBalancerStatus::default());
        object.status = Some(ServiceStatus { load_balancer, conditions: None });
    }

    fn prepare_update(&self, new: &mut Service, old: &Service) {
        new.status.clone_from(&old.status);
        if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
            keep_allocated(new, old);
        }
    }

    fn prepare_status(&self, new: &mut Service, old: &Service) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, object: &Service) -> Errors {
        object.spec.as_ref().map(validate_spec).unwrap_or_default()
    }

    fn validate_update(&self, new: &Service, old: &Service) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Errors::new() };
        let mut errors = Errors::new();
        let set = |spec: &ServiceSpec| spec.cluster_ip.as_ref().is_some_and(|a| !a.is_empty());
        let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
        if !external(new) && !external(old) && set(old) && new.cluster_ip != old.cluster_ip {
            let why = "may not change once set";
            let path = Path::new("spec").child("clusterIPs").index(0);
            errors.push(Error::invalid(&path, [new.cluster_ip.as_deref().unwrap_or_default()], why));
        }
        errors
    }

    fn allocates(&self) -> bool {
        true
    }

    fn allocate(&self, new: &mut Service, _old: Option<&Service>, others: &[&Service]) -> Errors {
        allocate::allocate(new, others)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label1035
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Service, now: Timestamp) -> Vec<Cell> {
        let spec = object.spec.clone().unwrap_or_default();
        let ports = spec.ports.iter().flatten().map(|p| {
            let protocol = p.protocol.as_deref().unwrap_or_default();
            match p.node_port.filter(|n| *n > 0) {
                Some(node) => format!("{}:{node}/{protocol}", p.port),
                None => format!("{}/{protocol}", p.port),
            }
        });
        vec![
            column::name(&object.metadata),
            column::cell(spec.type_.clone().unwrap_or_default()),
            column::or_none(spec.cluster_ip.as_deref()),
            column::cell(external_addresses(object, &spec)),
            column::or_none(Some(&ports.collect::<Vec<_>>().join(","))),
            column::aged(&object.metadata, now),
            column::labels(spec.selector.as_ref()),
        ]
    }

    fn fields(&self) -> &'static [FieldOf<Service>] {
        &[
            ("spec.clusterIP", |s| s.spec.as_ref().and_then(|s| s.cluster_ip.clone()).unwrap_or_default()),
            ("spec.type", |s| s.spec.as_ref().and_then(|s| s.type_.clone()).unwrap_or_default()),
        ]
    }
}
