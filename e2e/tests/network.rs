//! Pods reach each other, services and names, from every node.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Stage, manifest,
    stage::PATIENCE,
    story::{Setting, Story, tell},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const STORIES: &[Story] = &[
    ("the_hosts_own_network_is_untouched", host_untouched),
    ("pods_and_services_are_reached_from_everywhere", reached_from_everywhere),
    ("names_resolve_in_every_form", names_resolve),
    ("names_are_answered_over_tcp_and_outside_ones_fail_in_time", names_on_the_wire),
    ("node_ports_and_host_ports_are_reached_from_other_nodes", published_ports),
    ("a_client_with_affinity_stays_with_its_pod", affinity),
    ("datagrams_find_their_way_after_a_pod_is_replaced", datagrams),
    ("names_and_services_survive_their_agent", agent_restarts),
    ("no_lookup_fails_while_an_agent_is_killed", lookups_go_on),
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
    let heard: BTreeSet<_> = (0..60).filter_map(|_| stage.get_on_node(0, to, "/").ok()).collect();
    ensure!(heard.len() == 3, "the service should answer from all three: {heard:?}");
    Ok(())
}

fn names_resolve(stage: &mut Stage) -> Result<()> {
    let servers = servers(stage)?;
    stage.apply(
        r"
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: server}, ports: [{port: 8080}]}
",
    )?;
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
    let started = Instant::now();
    exec(stage, "server-1", &["get", &format!("http://server.{ns}.svc.cluster.local/")])?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(2), "a whole name of the cluster was looked for elsewhere: {took:?}");
    Ok(())
}

/// What `dig` hears on a node.
fn dig(stage: &Stage, node: usize, words: &[&str]) -> Result<String> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let said = stage.cluster.nodes()[node]
        .host()
        .run(move || Command::new("dig").args(["@10.43.0.10", "+tries=1", "+time=4"]).args(words).output())?;
    Ok(String::from_utf8_lossy(&said.context("run dig")?.stdout).into_owned())
}

fn names_on_the_wire(stage: &mut Stage) -> Result<()> {
    for node in 0..3 {
        let said = dig(stage, node, &["+tcp", "+short", "kubernetes.default.svc.cluster.local"])?;
        ensure!(said == "10.43.0.1\n", "node {node} over TCP: {said}");
    }
    let said = dig(stage, 0, &["+short", "-x", "10.43.0.1"])?;
    ensure!(said == "kubernetes.default.svc.cluster.local.\n", "the reverse: {said}");
    let said = dig(stage, 0, &["nobody.default.svc.cluster.local"])?;
    ensure!(said.contains("status: NXDOMAIN"), "a name that is nobody's: {said}");
    // these nodes have no way to the outside
    let started = Instant::now();
    let said = dig(stage, 0, &["www.example.test"])?;
    ensure!(said.contains("status: SERVFAIL"), "a name outside: {said}");
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(3), "the failure took {took:?}");
    Ok(())
}

fn published_ports(stage: &mut Stage) -> Result<()> {
    let port = "    ports: [{containerPort: 8080, hostPort: 8088}]\n  nodeName: node-1\n";
    stage.apply(&manifest::pod("published", &["serve"], port))?;
    let service = manifest::service("published").replace("targetPort: http", "targetPort: 8080");
    stage.apply(&service.replace("spec:", "spec:\n  type: NodePort"))?;
    stage.kubectl(&["wait", "pod/published", "--for=condition=Ready", "--timeout=60s"])?;
    let node_port: u16 =
        stage.field("service/published", "{.spec.ports[0].nodePort}")?.parse().context("a node port")?;
    let addresses = stage.field("nodes", r#"{.items[*].status.addresses[?(@.type=="InternalIP")].address}"#)?;
    let addresses: Vec<Ipv4Addr> =
        addresses.split(' ').map(|a| a.parse().context("an address")).collect::<Result<_>>()?;
    for from in 0..3 {
        for to in &addresses {
            let to = SocketAddr::from((*to, node_port));
            stage.until(&format!("node {from} reaches the node port at {to}"), PATIENCE, |s| {
                Ok(s.get_on_node(from, to, "/").is_ok())
            })?;
        }
        let to = SocketAddr::from((addresses[0], 8088));
        stage.get_on_node(from, to, "/").with_context(|| format!("node {from} to the host port at {to}"))?;
    }
    let elsewhere = SocketAddr::from((addresses[1], 8088));
    ensure!(stage.get_on_node(0, elsewhere, "/").is_err(), "the host port is open where its pod is not");
    stage.kubectl(&["delete", "pod/published"])?;
    let here = SocketAddr::from((addresses[0], 8088));
    stage.until("the host port is closed", PATIENCE, |s| Ok(s.get_on_node(1, here, "/").is_err()))
}

fn affinity(stage: &mut Stage) -> Result<()> {
    let servers = servers(stage)?;
    let sticky = manifest::service("sticky").replace("targetPort: http", "targetPort: 8080");
    let sticky =
        sticky.replace("{app: sticky}", "{app: server}").replace("spec:", "spec:\n  sessionAffinity: ClientIP");
    stage.apply(&sticky)?;
    let address = stage.field("service/sticky", "{.spec.clusterIP}")?;
    for (from, _) in &servers {
        let url = format!("http://{address}/");
        stage.until("the service answers", PATIENCE, |s| Ok(exec(s, from, &["get", &url]).is_ok()))?;
        let heard: BTreeSet<_> = (0..8).map(|_| exec(stage, from, &["get", &url])).collect::<Result<_>>()?;
        ensure!(heard.len() == 1, "{from} was sent to several: {heard:?}");
    }
    Ok(())
}

/// Sends one datagram again and again through the same flow, until it comes back.
fn echoed(stage: &Stage, node: usize, to: SocketAddr) -> Result<bool> {
    stage.cluster.nodes()[node].host().run(move || -> Result<bool> {
        // always the same port: the flow is what the kernel remembers
        let socket = UdpSocket::bind(("0.0.0.0", 45_454)).context("bind")?;
        socket.set_read_timeout(Some(Duration::from_millis(300))).context("set a deadline")?;
        socket.connect(to).context("connect")?;
        let mut heard = [0; 16];
        Ok(socket.send(b"hello").is_ok() && socket.recv(&mut heard).is_ok_and(|size| &heard[..size] == b"hello"))
    })?
}

fn datagrams(stage: &mut Stage) -> Result<()> {
    stage.apply(
        r"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 7, targetPort: 7007, protocol: UDP}]}
",
    )?;
    let address = stage.field("service/echo", "{.spec.clusterIP}")?;
    let to: SocketAddr = format!("{address}:7").parse().context("the service's address")?;
    ensure!(!echoed(stage, 0, to)?, "a service without pods answered");
    for round in 2..=3 {
        let more = format!("  nodeName: node-{round}\n");
        let pod = manifest::pod(&format!("echo-{round}"), &["echo", "7007"], &more);
        stage.apply(&pod.replace(&format!("{{app: echo-{round}}}"), "{app: echo}"))?;
        stage.until("datagrams come back", PATIENCE, |s| echoed(s, 0, to))?;
        stage.kubectl(&["delete", "pod", &format!("echo-{round}")])?;
    }
    Ok(())
}

fn agent(stage: &Stage, node: usize) -> Result<Pid> {
    let init = stage.cluster.nodes()[node].init_pid().context("the node is off")?;
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).context("list processes")?;
    for child in children.split_whitespace() {
        let words = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if words.contains("\0agent\0") {
            return Ok(Pid::from_raw(child.parse().context("a process")?));
        }
    }
    bail!("node {node} has no agent")
}

/// Kills a node's agent; the node's first process starts another.
fn kill_agent(stage: &Stage, node: usize) -> Result<()> {
    kill(agent(stage, node)?, Signal::SIGKILL).context("kill the agent")
}

/// A hundred lookups a second, while the agent that answers them is killed again and again.
fn lookups_go_on(stage: &mut Stage) -> Result<()> {
    servers(stage)?;
    let name = format!("server.{}.svc.cluster.local.", stage.namespace);
    stage.until("the name is known", PATIENCE, |s| Ok(exec(s, "server-1", &["resolve", &name]).is_ok()))?;
    stage.apply(&manifest::pod("asker", &["resolve", &name, "1500", "10"], "  nodeName: node-1\n"))?;
    stage.until("it asks", PATIENCE, |s| Ok(s.field("pod/asker", "{.status.phase}")? == "Running"))?;
    for _ in 0..3 {
        let old = agent(stage, 0)?;
        kill_agent(stage, 0)?;
        stage.until("a new agent runs", PATIENCE, |s| Ok(agent(s, 0).is_ok_and(|new| new != old)))?;
        stage.until("the new agent serves", PATIENCE, |s| Ok(s.try_kubectl(&["logs", "asker"]).ok))?;
    }
    let running = stage.field("pod/asker", "{.status.phase}")?;
    ensure!(
        running == "Running",
        "the agent was to be killed three times while lookups are made; the pod is {running}"
    );
    stage.until("all was asked", PATIENCE, |s| Ok(s.field("pod/asker", "{.status.phase}")? != "Running"))?;
    let said = stage.kubectl(&["logs", "asker"])?;
    ensure!(said.starts_with("1500 answered, 0 failed"), "{said}");
    Ok(())
}

fn agent_restarts(stage: &mut Stage) -> Result<()> {
    let servers = servers(stage)?;
    let ruleset = |stage: &Stage| -> Result<String> {
        let listed = stage.cluster.nodes()[0].host().run(|| Command::new("nft").args(["list", "ruleset"]).output())?;
        Ok(String::from_utf8_lossy(&listed.context("run nft")?.stdout).into_owned())
    };
    let before = ruleset(stage)?;
    ensure!(before.contains("10.43.0.1"), "the node has no rules for services:\n{before}");
    kill_agent(stage, 0)?;
    // nobody is needed for what the kernel does
    let service: SocketAddr = format!("{}:80", stage.field("service/server", "{.spec.clusterIP}")?).parse()?;
    stage.get_on_node(0, service, "/").context("a service on the node whose agent is dead")?;
    let pod: SocketAddr = format!("{}:8080", servers[0].1).parse()?;
    stage.get_on_node(1, pod, "/").context("a pod on the node whose agent is dead")?;
    stage.until("names are answered again", PATIENCE, |s| {
        Ok(dig(s, 0, &["+short", "kubernetes.default.svc.cluster.local"])? == "10.43.0.1\n")
    })?;
    exec(stage, "server-1", &["get", "http://server/"])?;
    stage.apply(&manifest::pod("later", &["serve"], "  nodeName: node-1\n"))?;
    stage.kubectl(&["wait", "pod/later", "--for=condition=Ready", "--timeout=60s"])?;
    exec(stage, "later", &["get", "http://server/"])?;
    Ok(())
}

/// The machine itself is only where the nodes are: not one rule or interface of it belongs to the cluster.
fn host_untouched(stage: &mut Stage) -> Result<()> {
    ensure!(stage.field("nodes", "{.items[*].metadata.name}")?.contains("node-3"), "no cluster runs");
    for (program, words) in [("nft", &["list", "ruleset"][..]), ("ip", &["-o", "link"]), ("ip", &["-o", "address"])] {
        let output = Command::new(program).args(words).output().with_context(|| format!("run {program}"))?;
        let listed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{program} failed");
        ensure!(!listed.contains("orlop") && !listed.contains("10.42.") && !listed.contains("10.43."), "{listed}");
    }
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
    let distinct: BTreeSet<_> = all.iter().collect();
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
