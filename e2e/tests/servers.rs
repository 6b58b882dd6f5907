//! Stories of several servers: one joins another, the one that leads dies, one is removed or replaced, and nodes and users
//! go on with those that are left; and etcd's tools beside them.

use std::{
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use api::validity::Validity;
use client::join::{Identity, join_server, validity};
use e2e::{
    Rack, Server, Stage,
    joined::Joined,
    manifest,
    stage::{self, Following, PATIENCE, newest_kubectl, run},
};
use nix::sys::signal::Signal;

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

/// A server that is no more, as `orlop undo` or a user may put it back.
const PAST: &str = r"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes-10-0-0-1-6443, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: https, port: 6443}]
";

/// Three servers, each with its own name, that have a vote each.
fn three() -> Result<Vec<Server>> {
    grown(Server::start(&["--server-name", "a"])?, &["b", "c"])
}

/// The first server, and those of these names that have joined it, with a vote each.
fn grown(first: Server, names: &[&str]) -> Result<Vec<Server>> {
    let mut servers = vec![first];
    for name in names {
        let (url, token) = (servers[0].url(), servers[0].server_token()?);
        servers.push(Server::start(&["--server-name", name, "--join", &url, "--token", &token])?);
        let voters = servers.len();
        have_votes(&mut servers[0], voters)?;
    }
    Ok(servers)
}

/// Waits until so many servers have a vote and serve.
fn have_votes(server: &mut Server, voters: usize) -> Result<()> {
    server.until("the servers have a vote and serve", |server| {
        let members = server.ask(&["server", "members"])?;
        let ready = members.lines().filter(|line| line.split_whitespace().any(|word| word == "Ready")).count();
        Ok(ready == voters && members.matches("follower").count() == voters - 1 && members.contains("leader"))
    })
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
    // nobody is sent to the dead one
    servers[0].until("the dead server is no endpoint any more", |server| Ok(endpoints(server)? == 2))?;
    ensure!(line(&servers[0].ask(&["server", "members"])?, leader)?[2] == "NotReady", "the dead server looks alive");
    // who was dead comes back with everything
    dead.resume()?;
    dead.until("it has what it missed", |server| {
        Ok(server.kubectl(&["get", "pods", "-o", "name"])?.lines().count() == 2)
    })?;
    have_votes(&mut servers[0], 3)?;
    ensure!(endpoints(&servers[0])? == 3, "a server that is back is no endpoint");
    // what of the past is put back does not lead anywhere for long
    servers[0].kubectl_with_input(&["apply", "-f", "-"], PAST)?;
    servers[0].until("nobody is sent to a server of the past", |server| Ok(endpoints(server)? == 3))?;
    // and is removed for good
    let id = line(&servers[0].ask(&["server", "members"])?, leader)?[0].clone();
    let left = servers[0].ask(&["server", "remove", &id])?;
    let ids: Vec<_> = left.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(ids.len() == 2 && !ids.contains(&id.as_str()), "the server is still there:\n{left}");
    ensure!(endpoints(&servers[0])? == 2, "a server that was removed is still an endpoint");
    dead.until("a server that was removed ends", Server::has_ended)
}

/// How many servers Service `default/kubernetes` leads to.
fn endpoints(server: &Server) -> Result<usize> {
    let selector = "kubernetes.io/service-name=kubernetes";
    Ok(server.kubectl(&["get", "endpointslices", "-l", selector, "-o", "name"])?.lines().count())
}

/// Waits until the first one's kubeconfig tells of all servers.
fn know_each_other(servers: &mut [Server]) -> Result<()> {
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    servers[0].until("the kubeconfig tells of all servers", |server| {
        let text = std::fs::read_to_string(server.kubeconfig()).context("read the kubeconfig")?;
        Ok(urls.iter().all(|url| text.contains(&format!("- {url}"))))
    })
}

/// Runs `orlop` as a user with this kubeconfig and home.
fn user(server: &Server, kubeconfig: &Path, home: &Path, args: &[&str], input: &str) -> Result<String> {
    let said = run(server.orlop(args)?.env("KUBECONFIG", kubeconfig).env("HOME", home), input);
    ensure!(said.ok, "orlop {} failed:\n{}{}", args.join(" "), said.out, said.err);
    Ok(said.out)
}

#[test]
fn a_user_goes_on_when_the_server_that_the_kubeconfig_names_is_dead() -> Result<()> {
    let homes = tempfile::tempdir().context("make a folder")?;
    let [old, new] = ["old", "new"].map(|name| homes.path().join(name));
    let first = Server::start(&["--server-name", "a"])?;
    // copied before there were others: this user's commands remember them
    std::fs::copy(first.kubeconfig(), &old).context("copy the kubeconfig")?;
    let mut servers = grown(first, &["b", "c"])?;
    let [remembering, fresh] = ["remembering", "fresh"].map(|name| homes.path().join(name));
    user(&servers[0], &old, &remembering, &["get", "namespaces"], "")?;
    // copied later: it tells of the others
    know_each_other(&mut servers)?;
    std::fs::copy(servers[0].kubeconfig(), &new).context("copy the kubeconfig")?;
    servers[0].kubectl(&["get", "namespaces"])?;
    let mut dead = servers.remove(0);
    dead.kill()?;
    for (kubeconfig, home) in [(&old, &remembering), (&new, &fresh)] {
        user(&dead, kubeconfig, home, &["apply", "-f", "-"], DEPLOYMENT)?;
        let shown = user(&dead, kubeconfig, home, &["get", "deployments"], "")?;
        ensure!(shown.contains("web"), "the Deployment is not shown:\n{shown}");
    }
    // a server that starts again before it has heard of the others does not forget them
    servers.clear();
    let refused = dead.orlop(&["get", "namespaces"])?.env("KUBECONFIG", &new).output().context("run orlop")?;
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && text.contains("reach the server"), "{text}");
    Ok(())
}

/// Waits until the first server and these have votes, and serve.
fn all_vote(stage: &Stage, others: &[Joined; 2]) -> Result<()> {
    let voting = stage.until("all servers have a vote", PATIENCE, |s| {
        let members = s.orlop(&["server", "members"])?;
        Ok(members.matches("follower").count() == 2 && members.matches(" Ready ").count() == 3)
    });
    voting.with_context(|| others.each_ref().map(Joined::log).join("\n"))
}

#[test]
fn a_node_goes_on_when_all_servers_that_it_was_started_with_are_gone_for_good() -> Result<()> {
    let mut stage = Stage::raise(1, &["--server-name", "first"])?;
    let others = [Joined::start(&stage, 1)?, Joined::start(&stage, 2)?];
    all_vote(&stage, &others)?;
    let identity = stage.folder().join("data/node-1/pki/credentials.json");
    stage.until("the node has been told of all servers", PATIENCE, |_| {
        let text = std::fs::read_to_string(&identity).context("read the node's credentials")?;
        Ok(text.matches("https://172.30.0.1:").count() == 3)
    })?;
    let id = line(&stage.orlop(&["server", "members"])?, "first")?[0].clone();
    stage.cluster.kill_server()?;
    let survivor = &others[0];
    let runs = |stage: &Stage, name: &str| {
        stage.until(&format!("pod {name} runs"), PATIENCE, |s| {
            let pods = survivor.orlop(s, &["get", "pods"], "")?;
            Ok(pods.lines().any(|line| line.starts_with(name) && line.contains("Running")))
        })
    };
    survivor.orlop(&stage, &["apply", "-f", "-"], &manifest::pod("one", &["sleep", "3600"], ""))?;
    runs(&stage, "one")?;
    let nodes = survivor.orlop(&stage, &["get", "nodes"], "")?;
    ensure!(nodes.contains(" Ready "), "the node is lost:\n{nodes}");
    // the first server is gone for good, and the node starts again with nothing but its name on the command line
    survivor.orlop(&stage, &["server", "remove", &id], "")?;
    stage.cluster.power_off(0)?;
    stage.cluster.power_on(0)?;
    survivor.orlop(&stage, &["apply", "-f", "-"], &manifest::pod("two", &["sleep", "3600"], ""))?;
    runs(&stage, "two")?;
    drop(others);
    stage.strike()
}

#[test]
fn a_node_renews_its_certificates_while_its_connections_go_on() -> Result<()> {
    let mut stage = Stage::raise(1, &["--cluster-signing-duration", "40s"])?;
    let path = stage.folder().join("data/node-1/pki/credentials.json");
    let held = || -> Result<Validity> {
        let text = std::fs::read(&path).context("read the node's credentials")?;
        let identity: Identity = serde_json::from_slice(&text).context("understand the node's credentials")?;
        validity(&identity.credentials.certificate).context("the node holds no certificate")
    };
    let first = held()?;
    // prints without end
    stage.apply(&manifest::pod("counter", &["print", "100000", "100"], ""))?;
    stage.until("it prints", PATIENCE, |s| Ok(!s.try_kubectl(&["logs", "counter", "--tail=1"]).out.is_empty()))?;
    let log = Following::start(stage.command(&newest_kubectl()?).args(["logs", "-f", "counter", "--tail=1"]))?;
    stage.until("the node's first certificate has run out, and it has another", PATIENCE, |_| {
        Ok(first.has_ended(now()?) && held()?.from > first.from)
    })?;
    // the old connection goes on, and new ones are trusted: to the API by what the agent does, and to the node by exec
    drop(log.lines());
    log.line_with("", PATIENCE)?;
    ensure!(stage.kubectl(&["get", "nodes"])?.contains(" Ready "), "the node is lost");
    stage.kubectl(&["exec", "counter", "--", "/testapp", "resolve", "kubernetes.default.svc.cluster.local"])?;
    // an agent that starts again asks with what it was given last
    stage.cluster.power_off(0)?;
    stage.cluster.power_on(0)?;
    stage.apply(&manifest::pod("after", &["sleep", "3600"], ""))?;
    stage.until("a pod runs", PATIENCE, |s| Ok(s.field("pod/after", "{.status.phase}")? == "Running"))?;
    stage.strike()
}

/// Seconds since 1970.
fn now() -> Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?;
    i64::try_from(since.as_secs()).context("read the clock")
}

#[test]
fn a_join_that_never_starts_is_the_same_member_when_it_is_tried_again() -> Result<()> {
    let mut server = Server::start(&["--server-name", "a"])?;
    let (url, token, own) = (server.url(), server.server_token()?, server.peer_url());
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let join = |peer: &str| runtime.block_on(join_server(std::slice::from_ref(&url), &token, &[peer.to_owned()]));
    // nothing listens there, and nothing will
    let (one, again) = (join("https://127.0.0.1:1")?, join("https://127.0.0.1:1")?);
    ensure!(one.member == again.member && again.members.len() == 2, "a second try made a second member");
    let shown = line(&server.ask(&["server", "members"])?, "learner")?;
    ensure!(shown[1..4] == ["<none>", "NotStarted", "learner"], "{shown:?}");
    let Err(taken) = join(&own) else { bail!("a server took the place of one that lives") };
    ensure!(taken.to_string().contains("orlop server remove 1"), "{taken}");
    server.ask(&["server", "remove", &one.member])?;
    server.until("it is alone again", |server| Ok(server.ask(&["server", "members"])?.lines().count() == 2))
}

/// Runs `orlop server ARGS`, which must be refused; what it says.
fn refused(server: &Server, args: &[&str]) -> Result<String> {
    let said = server.try_ask(&[&["server"], args].concat())?;
    ensure!(!said.ok, "orlop server {} was done:\n{}", args.join(" "), said.out);
    Ok(said.err)
}

#[test]
fn a_dead_server_is_replaced_under_its_name_and_address() -> Result<()> {
    let mut servers = three()?;
    let mut dead = servers.pop().context("there are three")?;
    dead.kill()?;
    let members = servers[0].ask(&["server", "members"])?;
    let id = |name: &str| -> Result<String> { Ok(line(&members, name)?[0].clone()) };
    servers[0].until("the dead one is known for dead", |server| {
        Ok(line(&server.ask(&["server", "members"])?, "c")?[2] == "NotReady")
    })?;
    let why = refused(&servers[0], &["remove", &id("b")?])?;
    ensure!(why.contains("Conflict") && why.contains("no majority"), "{why}");
    servers[0].ask(&["server", "remove", &id("c")?])?;
    // with what it had it is nobody's member, and says what to do
    let (url, token) = (servers[0].url(), servers[0].server_token()?);
    // the one that it names first is dead, too: itself
    let urls = format!("{},{url}", dead.url());
    dead.use_args(&["--server-name", "c", "--join", &urls, "--token", &token]);
    let Err(why) = dead.resume() else { bail!("a server that was removed serves") };
    ensure!(format!("{why:#}").contains("to join again it needs an empty directory"), "{why:#}");
    dead.kill()?;
    dead.lose_everything()?;
    dead.resume()?;
    have_votes(&mut servers[0], 3)?;
    let new = line(&servers[0].ask(&["server", "members"])?, "c")?[0].clone();
    ensure!(new != id("c")?, "the id of a member that was removed was given again");
    dead.kubectl(&["create", "configmap", "through-the-new-one"])?;
    servers[0].kubectl(&["get", "configmap", "through-the-new-one"]).map(drop)
}

#[test]
fn a_leader_is_removed_after_it_has_handed_over_and_the_last_server_is_not() -> Result<()> {
    let mut servers = grown(Server::start(&["--server-name", "a"])?, &["b"])?;
    let members = servers[0].ask(&["server", "members"])?;
    let leader = line(&members, "leader")?;
    let place = if leader[1] == "a" { 0 } else { 1 };
    let mut leading = servers.remove(place);
    // asked through itself, which it answers before it ends
    let left = leading.ask(&["server", "remove", &leader[0]])?;
    let ids: Vec<_> = left.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(ids.len() == 1 && ids[0] != leader[0], "not only the other is left:\n{left}");
    leading.until("it ends", Server::has_ended)?;
    let last = line(&servers[0].ask(&["server", "members"])?, "leader")?;
    ensure!(last[0] != leader[0], "the lead was not handed over");
    let why = refused(&servers[0], &["remove", &last[0]])?;
    ensure!(why.contains("only member with a vote"), "{why}");
    let why = refused(&servers[0], &["remove", "77"])?;
    ensure!(why.starts_with("Error from server (Conflict): ") && why.contains("no member 77"), "{why}");
    servers[0].kubectl(&["create", "configmap", "alone"]).map(drop)
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

/// Lines of a container that ends.
const LINES: usize = 6_000;

/// Changes that are made while servers die.
const CHANGES: usize = 60;

fn change(number: usize) -> String {
    format!("change-{number}")
}

/// Makes them, one after the other.
fn make_changes(server: &Server) -> Result<()> {
    for number in 0..CHANGES {
        let name = change(number);
        let is_there = |server: &mut &Server| {
            // one that was not acknowledged may have been made
            Ok(server.try_kubectl(&["create", "configmap", &name], "").ok
                || server.try_kubectl(&["get", "configmap", &name], "").ok)
        };
        e2e::wait::until(&mut &*server, "a change is made", PATIENCE, is_there, |server| server.log())?;
    }
    Ok(())
}

#[test]
fn what_changes_is_shown_once_and_in_order_while_servers_die() -> Result<()> {
    let mut servers = three()?;
    know_each_other(&mut servers)?;
    let last = servers.pop().context("there are three")?;
    let watch = ["get", "configmaps", "--watch", "--no-headers", "--field-selector=metadata.name!=kube-root-ca.crt"];
    let watching = Following::start(&mut servers[0].orlop(&watch)?)?;
    let name = change(CHANGES - 1);
    let awaited = format!("configmap/{name}");
    let waiting = Following::start(&mut servers[0].orlop(&["wait", &awaited, "--for=create"])?)?;
    let shown = std::thread::scope(|scope| -> Result<Vec<String>> {
        let changes = scope.spawn(|| make_changes(&last));
        let mut shown = Vec::new();
        for number in 0..CHANGES {
            // it hangs on the first, and then on the second
            match number {
                15 => servers[0].kill()?,
                30 => servers[0].resume()?,
                45 => servers[1].kill()?,
                _ => {}
            }
            shown.push(watching.next(PATIENCE)?);
        }
        changes.join().map_err(|_| anyhow::anyhow!("the changes panicked"))??;
        Ok(shown)
    })?;
    let names: Vec<_> = shown.iter().filter_map(|line| line.split_whitespace().next()).collect();
    let made: Vec<_> = (0..CHANGES).map(change).collect();
    ensure!(names == made, "not all changes once and in order:\n{}", shown.join("\n"));
    let (code, said) = waiting.end(PATIENCE)?;
    ensure!(code == Some(0) && said == [format!("{awaited} condition met")], "{code:?}: {said:?}");
    // the last row of what is deleted is shown, and nothing else has come
    last.kubectl(&["delete", "configmap", &name])?;
    ensure!(watching.next(PATIENCE)?.starts_with(&name), "a change was shown twice");
    Ok(())
}

#[test]
fn what_changes_is_shown_past_a_machine_that_is_gone_without_a_word() -> Result<()> {
    // a rack needs a thread of its own
    std::thread::spawn(past_a_machine_that_is_gone).join().map_err(|_| anyhow::anyhow!("the story panicked"))?
}

fn past_a_machine_that_is_gone() -> Result<()> {
    let mut rack = Rack::raise(3)?;
    rack.until("the kubeconfig tells of all servers", |rack| {
        let text = std::fs::read_to_string(rack.machines()[0].kubeconfig()).context("read the kubeconfig")?;
        Ok(rack.machines().iter().all(|machine| text.contains(&format!("- {}", machine.url()))))
    })?;
    let create = |rack: &Rack, name: &str| {
        rack.kubectl(1, &["create", "configmap", name])?.must("kubectl", &["create", name]).map(drop)
    };
    let watching = rack.follow(0, &["get", "configmaps", "-w", "--no-headers"])?;
    let waiting = rack.follow(0, &["wait", "configmap/before", "configmap/after", "--for=create", "--timeout=60s"])?;
    create(&rack, "before")?;
    watching.line_with("before", PATIENCE)?;
    waiting.line_with("configmap/before", PATIENCE)?;
    rack.hide(0)?;
    create(&rack, "after")?;
    watching.line_with("after", PATIENCE)?;
    waiting.line_with("configmap/after", PATIENCE).map(drop)
}

#[test]
fn what_changed_while_nobody_looked_is_shown_when_history_is_gone() -> Result<()> {
    let mut server = Server::start(&[])?;
    let create = |server: &Server, name: &str| server.kubectl(&["create", "configmap", name]).map(drop);
    for name in ["stays", "goes"] {
        create(&server, name)?;
    }
    let watch = ["get", "configmaps", "-w", "--no-headers", "--field-selector=metadata.name!=kube-root-ca.crt"];
    let watching = Following::start(&mut server.orlop(&watch)?)?;
    let next = |name: &str| -> Result<()> {
        let line = watching.next(PATIENCE)?;
        ensure!(line.split_whitespace().next() == Some(name), "{line:?} instead of {name}");
        Ok(())
    };
    next("goes").and_then(|()| next("stays"))?;
    create(&server, "told")?;
    next("told")?;
    watching.signal(Signal::SIGSTOP)?;
    // its connection ends, and then there are changes that a server that starts again does not remember
    server.kill()?;
    server.resume()?;
    server.kubectl(&["delete", "configmap", "goes"])?;
    create(&server, "comes")?;
    let newest = server.kubectl(&["get", "configmap", "comes", "-o", "jsonpath={.metadata.resourceVersion}"])?;
    let compacted = server.shell(&format!(". ./etcd.env && etcdctl compact {newest}"));
    ensure!(compacted.ok, "{}{}", compacted.out, compacted.err);
    server.kill()?;
    server.resume()?;
    watching.signal(Signal::SIGCONT)?;
    // told one by one, they would come in the other order
    next("comes").and_then(|()| next("goes"))?;
    create(&server, "after")?;
    next("after")
}

#[test]
fn a_user_is_told_when_no_server_is_left() -> Result<()> {
    let mut server = Server::start(&[])?;
    server.kubectl(&["create", "configmap", "one"])?;
    let mut command = server.orlop(&["get", "configmap", "one", "-w"])?;
    let mut watching = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start orlop")?;
    let mut first = [0];
    watching.stdout.as_mut().context("a command without output")?.read_exact(&mut first).context("read a row")?;
    server.kill()?;
    let since = Instant::now();
    let said = watching.wait_with_output().context("wait for orlop")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(1), "{said:?}");
    ensure!(text.contains("error: no server has served for") && text.contains("reach the server"), "{text}");
    ensure!(since.elapsed() >= cli::follow::PATIENCE, "given up after {:?}", since.elapsed());
    Ok(())
}

#[test]
fn a_log_is_followed_past_the_server_that_it_comes_through() -> Result<()> {
    let mut stage = Stage::raise(1, &["--server-name", "first"])?;
    let mut others = [Joined::start(&stage, 1)?, Joined::start(&stage, 2)?];
    all_vote(&stage, &others)?;
    stage.until("all servers are known", PATIENCE, |_| {
        let text = std::fs::read_to_string(others[0].kubeconfig()).context("read the kubeconfig")?;
        Ok(text.matches("- https://172.30.0.1:").count() == 3)
    })?;
    stage.apply(&manifest::pod("endless", &["print", "10000000", "2"], ""))?;
    stage.apply(&manifest::pod("ends", &["print", &LINES.to_string(), "2"], ""))?;
    stage.until("they print", PATIENCE, |s| {
        Ok(["endless", "ends"].iter().all(|pod| !s.try_kubectl(&["logs", pod, "--tail=1"]).out.is_empty()))
    })?;
    let endless = others[0].follow(&stage, &["logs", "-f", "endless"])?;
    let ends = others[0].follow(&stage, &["logs", "-f", "ends", "--timestamps"])?;
    let mut expected = 1..;
    let mut lines = |count: usize| -> Result<()> {
        for number in expected.by_ref().take(count) {
            let line = endless.next(PATIENCE)?;
            ensure!(line == format!("line {number}"), "{line:?} instead of line {number}");
        }
        Ok(())
    };
    lines(1_000)?;
    others[0].kill()?;
    lines(1_000)?;
    others[0].resume(&stage)?;
    lines(500)?;
    stage.cluster.kill_server()?;
    lines(1_000)?;
    let (code, printed) = ends.end(PATIENCE)?;
    let texts: Vec<_> = printed.iter().filter_map(|line| line.split_once(' ')).map(|(_, text)| text).collect();
    let wrong = texts.iter().zip(1..).find(|(text, number)| **text != format!("line {number}"));
    ensure!(wrong.is_none(), "not every line once and in order: {wrong:?}");
    ensure!(code == Some(0) && texts.len() == LINES, "{code:?} after {} lines", texts.len());
    drop(endless);
    drop(others);
    stage.strike()
}

#[test]
fn a_log_goes_on_to_its_end_when_the_container_was_started_again_meanwhile() -> Result<()> {
    let mut stage = Stage::raise(1, &[])?;
    let restarted = manifest::pod("again", &["print", "2000", "5"], "").replace("Never", "Always");
    stage.apply(&restarted)?;
    stage.until("it prints", PATIENCE, |s| Ok(!s.try_kubectl(&["logs", "again", "--tail=1"]).out.is_empty()))?;
    let log = Following::start(stage.command(&stage::program()?).args(["logs", "-f", "again"]))?;
    ensure!(log.next(PATIENCE)? == "line 1", "the log does not begin with its first line");
    stage.cluster.kill_server()?;
    log.signal(Signal::SIGSTOP)?;
    stage.cluster.start_server()?;
    stage.until("it was started again", PATIENCE, |s| {
        let said =
            s.try_kubectl(&["get", "pod", "again", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]);
        Ok(said.ok && said.out == "1")
    })?;
    log.signal(Signal::SIGCONT)?;
    let (code, rest) = log.end(PATIENCE)?;
    let wrong = rest.iter().zip(2..).find(|(line, number)| **line != format!("line {number}"));
    ensure!(wrong.is_none(), "not every line once and in order: {wrong:?}");
    ensure!(code == Some(0) && rest.len() == 1_999, "{code:?} after {} lines", rest.len());
    stage.strike()
}
