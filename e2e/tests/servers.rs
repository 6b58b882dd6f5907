//! Stories of several servers: one joins another, the one that leads dies, one is removed; and etcd's tools beside them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::Server;

/// How long writes may fail when the server that leads is killed.
const GAP: Duration = Duration::from_secs(2);

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.invalid/web}]}
";

/// Three servers, each with its own name, that have a vote each.
fn three() -> Result<Vec<Server>> {
    let mut servers = vec![Server::start(&["--server-name", "a"])?];
    for name in ["b", "c"] {
        let (url, token) = (servers[0].url(), servers[0].server_token()?);
        servers.push(Server::start(&["--server-name", name, "--join", &url, "--token", &token])?);
        let voters = servers.len();
        servers[0].until("the server has a vote", |server| {
            let members = server.ask(&["server", "members"])?;
            Ok(members.matches("follower").count() == voters - 1 && members.contains("leader"))
        })?;
    }
    Ok(servers)
}

/// The line of `orlop server members` about the one of this role or name.
fn line(members: &str, word: &str) -> Result<Vec<String>> {
    let line = members.lines().find(|line| line.split_whitespace().any(|w| w == word));
    Ok(line.with_context(|| format!("no {word} in\n{members}"))?.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn a_cluster_of_three_outlives_the_one_that_leads() -> Result<()> {
    let mut servers = three()?;
    for (number, server) in servers.iter().enumerate() {
        server.kubectl(&["create", "configmap", &format!("through-{number}")])?;
    }
    for server in &servers {
        let names = server.kubectl(&["get", "configmaps", "-o", "name"])?;
        let all = (0..3).all(|number| names.contains(&format!("configmap/through-{number}")));
        ensure!(all, "a server does not show what was written through another:\n{names}");
    }
    let leader = &line(&servers[0].ask(&["server", "members"])?, "leader")?[1];
    let place = ["a", "b", "c"].iter().position(|name| name == leader).context("the leader has a name")?;
    let mut dead = servers.remove(place);
    let since = Instant::now();
    dead.kill()?;
    servers[0].until("writes go on", |server| {
        Ok(server.try_kubectl(&["create", "configmap", "after"], "").ok
            || server.kubectl(&["get", "configmap", "after"]).is_ok())
    })?;
    ensure!(since.elapsed() < GAP, "writes failed for {:?}", since.elapsed());
    // the controllers run beside the new leader
    servers[1].kubectl_with_input(&["apply", "-f", "-"], DEPLOYMENT)?;
    servers[0].until("the controllers go on", |server| {
        Ok(server.kubectl(&["get", "pods", "-o", "name"])?.lines().count() == 2)
    })?;
    // who was dead comes back with everything
    dead.resume()?;
    dead.until("it has what it missed", |server| {
        Ok(server.kubectl(&["get", "pods", "-o", "name"])?.lines().count() == 2)
    })?;
    // and is removed for good
    let id = line(&servers[0].ask(&["server", "members"])?, leader)?[0].clone();
    let left = servers[0].ask(&["server", "remove", &id])?;
    let ids: Vec<_> = left.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(ids.len() == 2 && !ids.contains(&id.as_str()), "the server is still there:\n{left}");
    dead.until("a server that was removed ends", Server::has_ended)
}

#[test]
fn etcds_tools_see_the_store_and_a_certificate_of_the_cluster_does_not() -> Result<()> {
    let server = Server::start(&[])?;
    server.kubectl(&["create", "configmap", "seen"])?;
    let keys = server.shell(". ./etcd.env && etcdctl get /registry/core/configmaps/default/ --prefix --keys-only");
    ensure!(keys.ok && keys.out.contains("/registry/core/configmaps/default/seen"), "{}{}", keys.out, keys.err);
    let health = server.shell(". ./etcd.env && etcdctl endpoint status");
    ensure!(health.ok, "{}{}", health.out, health.err);
    let stranger =
        ". ./etcd.env && ETCDCTL_CERT=pki/admin.crt ETCDCTL_KEY=pki/admin.key etcdctl get / --command-timeout=3s";
    let refused = server.shell(stranger);
    ensure!(!refused.ok, "whoever holds a certificate of the cluster read the store:\n{}", refused.out);
    Ok(())
}

#[test]
fn a_server_that_died_while_it_joined_may_ask_again() -> Result<()> {
    let server = Server::start(&[])?;
    let (url, token) = (server.url(), server.server_token()?);
    client::config::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let ask = |peer: &str| {
        let joined = runtime.block_on(client::join::join_server(&url, token.trim(), &[peer.to_owned()]));
        joined.map(|enlisted| enlisted.member).with_context(|| format!("join as {peer}"))
    };
    // nobody has these ports; nobody is to start there
    let (first, again) = (ask("https://127.0.0.1:1")?, ask("https://127.0.0.1:1")?);
    ensure!(first == again, "it was taken for two: {first} and {again}");
    let other = ask("https://127.0.0.1:2")?;
    ensure!(first != other, "two servers were taken for one: {other}");
    Ok(())
}

#[test]
fn a_nodes_token_does_not_make_a_server() -> Result<()> {
    let server = Server::start(&[])?;
    let token = server.shell("cat token").out;
    let dir = tempfile::tempdir().context("make a folder")?;
    let mut joining = server.orlop(&["server", "--bind", "127.0.0.1:0", "--peer-bind", "127.0.0.1:0"])?;
    joining.args(["--etcd-bind", "127.0.0.1:0", "--join", &server.url(), "--token", token.trim(), "--data-dir"]);
    let said = joining.arg(dir.path()).output().context("run a server")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(!said.status.success() && text.contains("401"), "{text}");
    ensure!(std::fs::read_dir(dir.path()).context("look into the folder")?.next().is_none(), "something was stored");
    Ok(())
}
