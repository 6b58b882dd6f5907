//! The files that every container finds in `/etc`: hosts, hostname, resolv.conf. Pure texts.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

use crate::network::Dns;

/// Most name servers, as in glibc.
const SERVERS: usize = 3;
/// Most search domains (upstream's limit).
const SEARCHES: usize = 32;

/// What `hostname` prints in a pod; a node's own with `hostNetwork`.
pub fn hostname(pod_name: &str, spec: &PodSpec, node: &str) -> String {
    if spec.host_network == Some(true) {
        return node.to_owned();
    }
    let name = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_name);
    // the kernel's limit is 64, upstream's 63; a name must not end in a dash or dot then
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// `hostname.subdomain.namespace.svc.domain`, for pods that have a subdomain.
pub fn domain_name(hostname: &str, namespace: &str, spec: &PodSpec, cluster_domain: &str) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// `/etc/hosts` of a pod with a network of its own.
pub fn hosts(addresses: &[IpAddr], hostname: &str, domain_name: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    for address in addresses {
        match domain_name {
            Some(full) => text.push_str(&format!("{address}\t{full}\t{hostname}\n")),
            None => text.push_str(&format!("{address}\t{hostname}\n")),
        }
    }
    append_aliases(text, aliases)
}

/// `/etc/hosts` of a pod in the node's network: the node's, and the pod's aliases.
pub fn host_network_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    append_aliases(format!("# Kubernetes-managed hosts file (host network).\n{node_file}"), aliases)
}

fn append_aliases(mut text: String, aliases: &[HostAlias]) -> String {
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        ));
    }
    text
}

/// A resolv.conf in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => all.servers.extend(words.next().map(Into::into)),
                Some("search" | "domain") => all.searches = words.map(Into::into).collect(),
                Some("options") => all.options.extend(words.map(Into::into)),
                _ => {}
            }
        }
        all
    }

    fn add<'a>(list: &mut Vec<String>, more: impl IntoIterator<Item = &'a String>) {
        for item in more {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let searches: Vec<_> = self.searches.iter().take(SEARCHES).map(String::as_str).collect();
            text.push_str(&format!("search {}\n", searches.join(" ")));
        }
        for server in self.servers.iter().take(SERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// `/etc/resolv.conf` of a pod. `node_file` is the node's own.
pub fn resolv_conf(namespace: &str, spec: &PodSpec, dns: &Dns, node_file: &str) -> String {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !host_network);
    let node = Resolver::parse(node_file);
    let mut resolver = match policy {
        "None" => Resolver::default(),
        _ if cluster && !dns.servers.is_empty() => {
            let domain = &dns.domain;
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            Resolver::add(&mut searches, &node.searches);
            let servers = dns.servers.iter().map(ToString::to_string).collect();
            Resolver { servers, searches, options: vec!["ndots:5".into()] }
        }
        _ => node,
    };
    if let Some(config) = &spec.dns_config {
        Resolver::add(&mut resolver.servers, config.nameservers.iter().flatten());
        Resolver::add(&mut resolver.searches, config.searches.iter().flatten());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let word = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
            resolver.options.retain(|o| o != &name && !o.starts_with(&format!("{name}:")));
            resolver.options.push(word);
        }
    }
    resolver.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    const NODE: &str = "# of the node\nsearch lan\nnameserver 192.0.2.1\n";

    fn conf(spec: serde_json::Value) -> String {
        let dns = Dns { servers: vec!["10.43.0.10".parse().unwrap()], domain: "cluster.local".into() };
        let mut spec = spec;
        spec.as_object_mut().unwrap().insert("containers".into(), json!([]));
        resolv_conf("web", &from_value(spec).unwrap(), &dns, NODE)
    }

    #[test]
    fn names_are_resolved_as_the_policy_says() {
        let cluster = "search web.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\n\
            options ndots:5\n";
        let node = "search lan\nnameserver 192.0.2.1\n";
        assert_eq!(conf(json!({})), cluster);
        assert_eq!(conf(json!({"dnsPolicy": "Default"})), node);
        assert_eq!(conf(json!({"hostNetwork": true})), node);
        assert_eq!(conf(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})), cluster);
        let own = json!({"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.2.3.4"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(conf(own), "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n");
    }

    #[test]
    fn a_pod_finds_itself_and_its_aliases_in_hosts() {
        let aliases: Vec<HostAlias> = from_value(json!([{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}])).unwrap();
        let text = hosts(&["10.42.0.3".parse().unwrap()], "web-0", Some("web-0.web.ns.svc.cluster.local"), &aliases);
        assert!(text.contains("10.42.0.3\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"));
        let spec: PodSpec = from_value(json!({"containers": []})).unwrap();
        assert_eq!(hostname(&format!("{}-x", "a".repeat(62)), &spec, "n"), "a".repeat(62));
    }
}
