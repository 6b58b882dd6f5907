//! Power cuts, crashes and broken cables: nothing acknowledged is lost, nothing that runs is disturbed without need.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    Stage, manifest,
    stage::{Following, PATIENCE},
    story::{Setting, Story, tell},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const STORIES: &[Story] = &[
    ("an_agent_is_killed_and_no_container_notices", an_agent_is_killed),
    ("a_supervisor_is_killed_and_no_container_notices", a_supervisor_is_killed),
    ("the_server_is_killed_in_a_rollout_and_loses_nothing", the_server_is_killed),
    ("a_node_loses_power_and_its_pods_move", a_node_loses_power),
    ("a_node_is_cut_off_and_comes_back", a_node_is_cut_off),
];

/// Long enough for a node to be found dead and its pods to run elsewhere.
const MOVED: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    tell(Setting { nodes: 3, server_args: &["--node-monitor-grace", "6"] }, STORIES)
}

/// Processes of the test application below a node's first process: when each started, by its pid.
fn containers(stage: &Stage, node: usize) -> Result<BTreeMap<u32, String>> {
    let mut found = BTreeMap::new();
    let init = stage.cluster.nodes()[node].init_pid().context("the node is off")?;
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry.context("list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(words) = fs::read_to_string(format!("/proc/{pid}/cmdline")) else { continue };
        if words.starts_with("/testapp\0") && descends(pid, init) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let started = stat.rsplit(')').next().and_then(|s| s.split(' ').nth(20)).unwrap_or_default().to_owned();
            found.insert(pid, started);
        }
    }
    Ok(found)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split(' ').nth(2)?.parse().ok()
}

fn descends(mut pid: u32, from: u32) -> bool {
    while pid > 1 {
        if pid == from {
            return true;
        }
        let Some(above) = parent(pid) else { return false };
        pid = above;
    }
    false
}

/// A component of a node: the process below its first one that runs that subcommand of `orlop`.
fn component(stage: &Stage, node: usize, subcommand: &str) -> Result<u32> {
    let init = stage.cluster.nodes()[node].init_pid().context("the node is off")?;
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry.context("list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.split('\0').nth(1) == Some(subcommand) && parent(pid) == Some(init) {
            return Ok(pid);
        }
    }
    anyhow::bail!("node {node} has no {subcommand}")
}

/// Kills it, and waits for the next one.
fn replace(stage: &Stage, node: usize, subcommand: &str) -> Result<()> {
    let old = component(stage, node, subcommand)?;
    kill(Pid::from_raw(old.cast_signed()), Signal::SIGKILL).with_context(|| format!("kill the {subcommand}"))?;
    stage.until(&format!("a new {subcommand} runs"), PATIENCE, |s| {
        Ok(component(s, node, subcommand).is_ok_and(|new| new != old))
    })
}

fn an_agent_is_killed(stage: &mut Stage) -> Result<()> {
    nothing_is_noticed(stage, "agent")
}

fn a_supervisor_is_killed(stage: &mut Stage) -> Result<()> {
    nothing_is_noticed(stage, "supervisor")
}

/// A component of a node is killed three times; its containers go on, with every line that they print.
fn nothing_is_noticed(stage: &mut Stage, subcommand: &str) -> Result<()> {
    // counts without end: a lost line would be a gap
    let more = "  nodeName: node-1\n";
    stage.apply(&manifest::pod("counter", &["print", "100000", "5"], more))?;
    stage.until("it counts", PATIENCE, |s| {
        Ok(s.try_kubectl(&["logs", "counter", "--tail=1"]).out.lines().count() == 1)
    })?;
    let before = containers(stage, 0)?;
    ensure!(!before.is_empty(), "no container runs on the node");
    let shown = "jsonpath={.status.podIP} {.status.conditions[?(@.type==\"Ready\")].status} \
                 {.status.containerStatuses[0].imageID}{\"\\n\"}";
    let kubectl = Path::new("kubectl");
    let watch = Following::start(stage.command(kubectl).args([
        "get",
        "pod",
        "counter",
        "--output-watch-events=false",
        "-w",
        "-o",
        shown,
    ]))?;
    let running = watch.line_with("True", PATIENCE)?;
    for _ in 0..3 {
        replace(stage, 0, subcommand)?;
        stage
            .until("the log can be read again", PATIENCE, |s| Ok(s.try_kubectl(&["logs", "counter", "--tail=1"]).ok))?;
    }
    let lines = stage.kubectl(&["logs", "counter"])?.lines().count();
    stage.until("it counts on", PATIENCE, |s| Ok(s.kubectl(&["logs", "counter"])?.lines().count() > lines + 20))?;
    let after = containers(stage, 0)?;
    ensure!(before == after, "containers changed: {before:?} became {after:?}");
    ensure!(stage.field("pod/counter", "{.status.containerStatuses[0].restartCount}")? == "0", "it was restarted");
    let log = stage.kubectl(&["logs", "counter"])?;
    for (index, line) in log.lines().enumerate() {
        ensure!(line == format!("line {}", index + 1), "line {} is {line:?}", index + 1);
    }
    ensure!(log.lines().count() > 100, "only {} lines", log.lines().count());
    let others: Vec<_> = watch.lines().into_iter().filter(|line| *line != running).collect();
    ensure!(others.is_empty(), "the pod was {running:?} and became {others:?}");
    Ok(())
}

fn the_server_is_killed(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 3, "one"))?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        stage.apply(&manifest::web("web", 3, &format!("v{round}")))?;
        for index in 0..20 {
            let name = format!("note-{round}-{index}");
            if stage.try_kubectl(&["create", "configmap", &name]).ok {
                acknowledged.push(name);
            }
        }
        stage.cluster.kill_server()?;
        stage.cluster.start_server()?;
    }
    let there = stage.kubectl(&["get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}"])?;
    for name in &acknowledged {
        ensure!(there.split(' ').any(|n| n == name), "{name} was acknowledged and is gone");
    }
    ensure!(acknowledged.len() == 60, "only {} of 60 were acknowledged", acknowledged.len());
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    stage.until("the last version runs alone", PATIENCE, |s| {
        Ok(s.field("pods", "{.items[*].spec.containers[0].env[0].value}")? == "v2 v2 v2")
    })
}

fn nodes_of(stage: &Stage) -> Result<Vec<String>> {
    let running = stage.kubectl(&[
        "get", "pods", "--field-selector=status.phase=Running", "-o",
        "jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.spec.nodeName} {.metadata.deletionTimestamp}{\"\\n\"}{end}",
    ])?;
    Ok(running.lines().filter(|l| !l.trim().contains(' ')).map(|l| l.trim().to_owned()).collect())
}

fn condition(stage: &Stage, node: &str) -> Result<String> {
    stage.field(&format!("node/{node}"), "{.status.conditions[?(@.type==\"Ready\")].status}")
}

fn a_node_loses_power(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 3, "one"))?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    stage.cluster.power_off(2)?;
    stage.until("the node is found dead", MOVED, |s| Ok(condition(s, "node-3")? == "Unknown"))?;
    let taints = stage.field("node/node-3", "{.spec.taints[*].key}")?;
    ensure!(taints.contains("node.kubernetes.io/unreachable"), "taints are {taints:?}");
    stage.until("three replicas run on the other nodes", MOVED, |s| {
        let nodes = nodes_of(s)?;
        Ok(nodes.len() == 3 && !nodes.contains(&"node-3".to_owned()))
    })?;
    stage.cluster.power_on(2)?;
    stage.until("the node is back", MOVED, |s| Ok(condition(s, "node-3")? == "True"))?;
    stage.until("its taints are gone", MOVED, |s| Ok(s.field("node/node-3", "{.spec.taints}")?.is_empty()))?;
    stage.until("its old pods are gone", MOVED, |s| Ok(s.kubectl(&["get", "pods", "-o", "name"])?.lines().count() == 3))
}

fn a_node_is_cut_off(stage: &mut Stage) -> Result<()> {
    stage.apply(&manifest::web("web", 3, "one"))?;
    stage.kubectl(&["rollout", "status", "deploy/web", "--timeout=90s"])?;
    stage.cluster.cable(1, false)?;
    stage.until("the node is found out of reach", MOVED, |s| Ok(condition(s, "node-2")? == "Unknown"))?;
    stage.until("three replicas run on the other nodes", MOVED, |s| {
        let nodes = nodes_of(s)?;
        Ok(nodes.len() == 3 && !nodes.contains(&"node-2".to_owned()))
    })?;
    stage.cluster.cable(1, true)?;
    stage.until("the node is back", MOVED, |s| Ok(condition(s, "node-2")? == "True"))?;
    stage.until("what it ran meanwhile is gone", MOVED, |s| {
        Ok(s.kubectl(&["get", "pods", "-o", "name"])?.lines().count() == 3 && containers(s, 1)?.len() <= 3)
    })
}
