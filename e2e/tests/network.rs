//! Pods reach each other, services and names, from every node.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result, ensure};
use e2e::{
    Stage, manifest,
    stage::PATIENCE,
    story::{Setting, Story, tell},
};

const STORIES: &[Story] = &[
    ("pods_and_services_are_reached_from_everywhere", reached_from_everywhere),
    ("names_resolve_in_every_form", names_resolve),
    ("hosts_and_resolv_conf_are_a_pods_own", own_files),
    ("a_service_without_endpoints_refuses_at_once", refuses_at_once),
    ("addresses_do_not_leak", addresses_do_not_leak),
];

fn main() -> ExitCode {
    tell(Setting { nodes: 3, server_args: &[] }, STORIES)
}

fn exec(stage: &Stage, pod: &str, words: &[&str]) -> Result<String> {
    let mut args = vec!["exec", pod, "--", "/testapp"];
    args.extend(words);
    stage.kubectl(&args)
}

/// One server per node, and a Service in front of all.
fn servers(stage: &Stage) -> Result<Vec<(String, String)>> {
    for node in 1..=3 {
        let more = format!("  nodeName: node-{node}\n");
        let pod = manifest::pod(&format!("server-{node}"), &["serve"], &more);
        stage.apply(&pod.replace(&format!("labels: {{app: server-{node}}}"), "labels: {app: server}"))?;
    }
    let service = manifest::service("server").replace("targetPort: http", "targetPort: 8080");
    stage.apply(&service)?;
    stage.kubectl(&["wait", "pod", "-l", "app=server", "--for=condition=Ready", "--timeout=60s"])?;
    let found = stage.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=server",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}",
    ])?;
    Ok(found.lines().filter_map(|l| l.split_once(' ')).map(|(n, a)| (n.to_owned(), a.to_owned())).collect())
}

fn reached_from_everywhere(stage: &mut Stage) -> Result<()> {
    let servers = servers(stage)?;
    ensure!(servers.len() == 3, "three servers expected: {servers:?}");
    let service = stage.field("service/server", "{.spec.clusterIP}")?;
    for (from, _) in &servers {
        for (to, address) in &servers {
            let said = exec(stage, from, &["get", &format!("http://{address}:8080/")])
                .with_context(|| format!("{from} to {to}"))?;
            ensure!(said.contains(to.as_str()), "{from} asked {to} and heard {said:?}");
        }
        exec(stage, from, &["get", &format!("http://{service}/")]).with_context(|| format!("{from} to the service"))?;
    }
    let to: SocketAddr = format!("{service}:80").parse().context("the service's address")?;
    for node in 0..3 {
        stage.get_on_node(node, to, "/").with_context(|| format!("node {node} to the service"))?;
        let (name, address) = &servers[(node + 1) % 3];
        let pod: SocketAddr = format!("{address}:8080").parse().context("a pod's address")?;
        stage.get_on_node(node, pod, "/").with_context(|| format!("node {node} to {name}"))?;
    }
    let heard: std::collections::BTreeSet<_> = (0..60).filter_map(|_| stage.get_on_node(0, to, "/").ok()).collect();
    ensure!(heard.len() == 3, "the service should answer from all three: {heard:?}");
    Ok(())
}

fn names_resolve(stage: &mut Stage) -> Result<()> {
    let servers = servers(stage)?;
    stage.apply("{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: server}, ports: [{port: 8080}]}}")?;
    let service = stage.field("service/server", "{.spec.clusterIP}")?;
    let ns = stage.namespace.clone();
    for name in ["server".to_owned(), format!("server.{ns}"), format!("server.{ns}.svc.cluster.local")] {
        stage.until(&format!("{name} resolves"), PATIENCE, |s| {
            Ok(exec(s, "server-1", &["resolve", &name]).is_ok_and(|a| a.contains(&service)))
        })?;
    }
    stage.until("the headless service resolves to all pods", PATIENCE, |s| {
        let said = exec(s, "server-2", &["resolve", "headless"]).unwrap_or_default();
        Ok(servers.iter().all(|(_, address)| said.contains(address.as_str())))
    })?;
    let dashed = servers[0].1.replace('.', "-");
    let said = exec(stage, "server-3", &["resolve", &format!("{dashed}.{ns}.pod.cluster.local")])?;
    ensure!(said.contains(&servers[0].1), "a pod's own name: {said}");
    let said = stage.try_kubectl(&["exec", "server-1", "--", "/testapp", "resolve", "no-such-service"]);
    ensure!(!said.ok, "a name that is nobody's resolved: {said:?}");
    exec(stage, "server-1", &["get", "http://server/"])?;
    Ok(())
}

fn own_files(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod(
        "box",
        &["serve"],
        "  hostname: captain\n  hostAliases: [{ip: 10.9.8.7, hostnames: [elsewhere]}]\n",
    ))?;
    stage.kubectl(&["wait", "pod/box", "--for=condition=Ready", "--timeout=60s"])?;
    let address = stage.field("pod/box", "{.status.podIP}")?;
    let hosts = exec(stage, "box", &["cat", "/etc/hosts"])?;
    ensure!(hosts.contains(&format!("{address}\tcaptain")) && hosts.contains("10.9.8.7\telsewhere"), "{hosts}");
    let resolv = exec(stage, "box", &["cat", "/etc/resolv.conf"])?;
    let search = format!("search {}.svc.cluster.local svc.cluster.local cluster.local", stage.namespace);
    ensure!(
        resolv.contains(&search) && resolv.contains("nameserver 10.43.0.10") && resolv.contains("ndots:5"),
        "{resolv}"
    );
    Ok(())
}

fn refuses_at_once(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::pod("client", &["serve"], ""))?;
    stage.apply(&manifest::service("nobody"))?;
    stage.kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"])?;
    let service = stage.field("service/nobody", "{.spec.clusterIP}")?;
    stage.until("the connection is refused", PATIENCE, |s| {
        let said = s.try_kubectl(&["exec", "client", "--", "/testapp", "get", &format!("http://{service}/")]);
        Ok(!said.ok && (said.out + &said.err).to_lowercase().contains("refused"))
    })
}

fn addresses_do_not_leak(stage: &mut Stage) -> Result<()> {
    for round in 0..3 {
        stage.apply(&manifest::web("web", 12, &format!("v{round}")))?;
        stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=120s"])?;
    }
    let addresses = stage.field("pods", "{.items[*].status.podIP}")?;
    let all: Vec<_> = addresses.split(' ').collect();
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    ensure!(all.len() == distinct.len(), "an address was given twice: {addresses}");
    stage.kubectl(&["delete", "deploy/web"])?;
    stage.until("all pods are gone", PATIENCE, |s| Ok(s.field("pods", "{.items[*].metadata.name}")?.is_empty()))?;
    for node in stage.cluster.nodes() {
        let node_name = node.name.clone();
        let links = node
            .host()
            .run(|| std::process::Command::new("ip").args(["-o", "link", "show", "type", "veth"]).output())?;
        let links = String::from_utf8_lossy(&links.context("list links")?.stdout).into_owned();
        // the uplink alone, and whatever system pods there are
        let others = links.lines().filter(|l| !l.contains("eth0")).count();
        ensure!(others == 0, "{node_name} keeps links:\n{links}");
    }
    Ok(())
}
