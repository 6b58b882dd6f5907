//! `upstream FILE`: tells stories of upstream's kube-apiserver (the program FILE, which `scripts/kube-apiserver` builds) with
//! three of our servers in the place of etcd.

#![allow(clippy::print_stdout, reason = "what a test runner is for")]

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::{
    Server,
    stage::PATIENCE,
    upstream::{COMPACT_EVERY, EVENT_TTL, KubeApiserver},
};

/// Tells stories of upstream's kube-apiserver on our store.
#[derive(Debug, Parser)]
struct Args {
    /// The kube-apiserver program
    file: PathBuf,
    /// Tell only stories whose names contain one of these
    words: Vec<String>,
}

/// How long writes may fail when a server is killed: upstream must notice, and connect to another.
const GAP: Duration = Duration::from_secs(10);

/// Where the stories happen.
struct Scene {
    servers: Vec<Server>,
    upstream: KubeApiserver,
}

type Story = (&'static str, fn(&mut Scene) -> Result<()>);

const STORIES: &[Story] = &[
    ("upstream_is_healthy", is_healthy),
    ("upstream_keeps_objects_and_kinds", keeps_objects_and_kinds),
    ("upstream_lists_in_pages", lists_in_pages),
    ("upstream_deletes_a_namespace_of_objects", deletes_collections),
    ("upstream_lets_the_past_be_forgotten", forgets),
    ("upstream_lets_events_expire", events_expire),
    ("upstream_goes_on_when_the_leader_is_killed", leader_is_killed),
    ("upstream_goes_on_when_all_servers_are_killed_and_come_back", all_are_killed),
    ("upstream_and_we_do_not_see_each_other", both_in_one_store),
];

fn main() -> ExitCode {
    let Args { file, words } = Args::parse();
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut scene = match set(&file) {
        Ok(scene) => scene,
        Err(error) => {
            println!("test upstream_starts ... FAILED\n{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, story) in STORIES.iter().filter(|(name, _)| chosen(name)) {
        let started = Instant::now();
        let told = story(&mut scene);
        let seconds = started.elapsed().as_secs_f64();
        match told {
            Ok(()) => {
                println!("test {name} ... ok ({seconds:.1} s)");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s)\n{error:#}");
                failed += 1;
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn set(file: &std::path::Path) -> Result<Scene> {
    let mut servers = vec![Server::start(&["--server-name", "a"])?];
    for name in ["b", "c"] {
        let (url, token) = (servers[0].url(), servers[0].server_token()?);
        servers.push(Server::start(&["--server-name", name, "--join", &url, "--token", &token])?);
        let voters = servers.len();
        servers[0].until("the server has a vote", |server| {
            Ok(server.ask(&["server", "members"])?.matches("follower").count() == voters - 1)
        })?;
    }
    let upstream = KubeApiserver::start(file, &servers)?;
    upstream.kubectl(&["create", "namespace", "stories"])?;
    Ok(Scene { servers, upstream })
}

fn is_healthy(scene: &mut Scene) -> Result<()> {
    let said = scene.upstream.kubectl(&["get", "--raw", "/readyz?verbose"])?;
    ensure!(said.contains("[+]etcd ok") && said.contains("readyz check passed"), "{said}");
    let said = scene.upstream.kubectl(&["get", "--raw", "/livez/etcd"])?;
    ensure!(said == "ok", "{said}");
    Ok(())
}

const KIND: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: voyages.orlop.test}
spec:
  group: orlop.test
  scope: Namespaced
  names: {plural: voyages, singular: voyage, kind: Voyage}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

const OBJECT: &str = r"
apiVersion: orlop.test/v1
kind: Voyage
metadata: {name: first, namespace: stories}
spec: {to: Tortuga}
";

fn keeps_objects_and_kinds(scene: &mut Scene) -> Result<()> {
    let upstream = &mut scene.upstream;
    upstream.kubectl(&["-n", "stories", "create", "deployment", "web", "--image=example.invalid/web"])?;
    upstream.kubectl(&["-n", "stories", "scale", "deployment", "web", "--replicas=3"])?;
    upstream.kubectl(&["-n", "stories", "label", "deployment", "web", "crew=small"])?;
    let read = |path| upstream.kubectl(&["-n", "stories", "get", "deployment", "web", "-o", path]);
    ensure!(read("jsonpath={.spec.replicas} {.metadata.labels.crew}")? == "3 small", "it is as it was changed");
    let stale = read("json")?;
    upstream.kubectl(&["-n", "stories", "scale", "deployment", "web", "--replicas=4"])?;
    let said = upstream.try_kubectl(&["replace", "-f", "-"], &stale);
    ensure!(!said.ok && said.err.contains("the object has been modified"), "a stale write: {}", said.err);
    upstream.kubectl_with_input(&["apply", "-f", "-"], KIND)?;
    upstream.until("the kind is served", |upstream| Ok(upstream.try_kubectl(&["apply", "-f", "-"], OBJECT).ok))?;
    let said = upstream.kubectl(&["-n", "stories", "get", "voyage", "first", "-o", "jsonpath={.spec.to}"])?;
    ensure!(said == "Tortuga", "{said}");
    upstream.kubectl(&["delete", "crd", "voyages.orlop.test"])?;
    upstream.kubectl(&["-n", "stories", "delete", "deployment", "web"]).map(drop)
}

/// Makes so many ConfigMaps.
fn make(upstream: &KubeApiserver, name: &str, count: usize) -> Result<()> {
    let map = |number| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}-{number:03}, labels: {{of: {name}}}}}\n"
        )
    };
    let all: String = (0..count).map(map).collect();
    upstream.kubectl_with_input(&["-n", "stories", "create", "-f", "-"], &all).map(drop)
}

fn lists_in_pages(scene: &mut Scene) -> Result<()> {
    let upstream = &scene.upstream;
    make(upstream, "page", 25)?;
    let all = upstream.kubectl(&["-n", "stories", "get", "configmaps", "-l", "of=page", "-o", "name"])?;
    ensure!(all.lines().count() == 25, "{all}");
    let pages =
        upstream.kubectl(&["-n", "stories", "get", "configmaps", "-l", "of=page", "-o", "name", "--chunk-size=4"])?;
    ensure!(pages == all, "in pages:\n{pages}at once:\n{all}");
    let first = upstream.kubectl(&["get", "--raw", "/api/v1/namespaces/stories/configmaps?limit=10"])?;
    ensure!(first.contains(r#""continue":""#) && first.contains(r#""remainingItemCount":"#), "{first}");
    Ok(())
}

fn deletes_collections(scene: &mut Scene) -> Result<()> {
    let upstream = &mut scene.upstream;
    make(upstream, "many", 25)?;
    let names = ["-n", "stories", "get", "configmaps", "-o", "name", "-l", "of=many"];
    let watch = upstream.follow(&[&names[..], &["--watch", "--output-watch-events"]].concat())?;
    watch.line_with("many-024", PATIENCE)?;
    let path = "/api/v1/namespaces/stories/configmaps?labelSelector=of%3Dmany";
    upstream.kubectl(&["delete", "--raw", path])?;
    ensure!(upstream.kubectl(&names)?.is_empty(), "some are left");
    // once more: its deletion
    watch.line_with("many-024", PATIENCE)?;
    let others = upstream.kubectl(&["-n", "stories", "get", "configmaps", "-o", "name", "-l", "of=page"])?;
    ensure!(others.lines().count() == 25, "what was not meant is gone:\n{others}");
    Ok(())
}

/// A list exactly as of a revision that upstream has had compacted away is refused, as etcd refuses it.
fn forgets(scene: &mut Scene) -> Result<()> {
    let list = scene.upstream.kubectl(&["-n", "stories", "get", "configmap", "-o", "json", "page-000"])?;
    let revision = list.split(r#""resourceVersion": ""#).nth(1).and_then(|rest| rest.split('"').next());
    let revision = revision.context("an object has a revision")?;
    let path =
        format!("/api/v1/namespaces/stories/configmaps?resourceVersion={revision}&resourceVersionMatch=Exact&limit=1");
    let mut number = 0;
    scene.upstream.until("the past is forgotten", |upstream| {
        // only what was superseded is forgotten
        number += 1;
        upstream.kubectl(&[
            "-n",
            "stories",
            "annotate",
            "--overwrite",
            "configmap",
            "page-000",
            &format!("n={number}"),
        ])?;
        let said = upstream.try_kubectl(&["get", "--raw", &path], "");
        ensure!(said.ok || said.err.contains("too old"), "{}", said.err);
        Ok(!said.ok)
    })?;
    ensure!(number > 1, "it was forgotten before {COMPACT_EVERY:?}");
    Ok(())
}

const EVENT: &str = r#"
apiVersion: v1
kind: Event
metadata: {name: sighted, namespace: stories}
involvedObject: {kind: ConfigMap, name: page-000, namespace: stories}
type: Normal
reason: Sighted
message: "land, ahoy"
"#;

fn events_expire(scene: &mut Scene) -> Result<()> {
    let since = Instant::now();
    scene.upstream.kubectl_with_input(&["create", "-f", "-"], EVENT)?;
    scene.upstream.kubectl(&["-n", "stories", "get", "event", "sighted"])?;
    scene.upstream.until("the Event has expired", |upstream| {
        Ok(!upstream.try_kubectl(&["-n", "stories", "get", "event", "sighted"], "").ok)
    })?;
    ensure!(since.elapsed() >= EVENT_TTL, "it lived for {:?}", since.elapsed());
    Ok(())
}

/// Writes until one is acknowledged; what was acknowledged before and after a fault must all be there.
fn write_through_a_fault(
    scene: &mut Scene,
    name: &str,
    fault: impl FnOnce(&mut [Server]) -> Result<()>,
) -> Result<Duration> {
    make(&scene.upstream, &format!("{name}-before"), 10)?;
    let watch = scene.upstream.follow(&["-n", "stories", "get", "configmaps", "-o", "name", "--watch"])?;
    watch.line_with(&format!("{name}-before-009"), PATIENCE)?;
    let since = Instant::now();
    fault(&mut scene.servers)?;
    let after = format!("{name}-after");
    scene.upstream.until("writes go on", |upstream| {
        // a write whose answer was lost is there already
        let said = upstream.try_kubectl(&["-n", "stories", "create", "configmap", &after], "");
        Ok(said.ok || said.err.contains("already exists"))
    })?;
    let gap = since.elapsed();
    watch.line_with(&after, PATIENCE).context("a watch that began before goes on")?;
    let names = scene.upstream.kubectl(&["-n", "stories", "get", "configmaps", "-o", "name"])?;
    ensure!(names.matches(&format!("{name}-before-")).count() == 10, "acknowledged, and lost:\n{names}");
    Ok(gap)
}

fn leader_is_killed(scene: &mut Scene) -> Result<()> {
    let members = scene.servers[0].ask(&["server", "members"])?;
    let leader = members.lines().find(|line| line.contains("leader")).and_then(|line| line.split_whitespace().nth(1));
    let place = ["a", "b", "c"].iter().position(|name| Some(*name) == leader).context("a server leads")?;
    let gap = write_through_a_fault(scene, "leader", |servers| servers[place].kill())?;
    println!("     writes failed for {:.1} s", gap.as_secs_f64());
    ensure!(gap < GAP, "writes failed for {gap:?}");
    scene.servers[place].resume()?;
    is_healthy(scene)
}

fn all_are_killed(scene: &mut Scene) -> Result<()> {
    let gap = write_through_a_fault(scene, "all", |servers| {
        servers.iter_mut().try_for_each(Server::kill)?;
        // none is ready before another is there, too
        servers.iter_mut().try_for_each(Server::launch)?;
        servers.iter_mut().try_for_each(Server::wait_until_ready)
    })?;
    println!("     writes failed for {:.1} s", gap.as_secs_f64());
    scene
        .upstream
        .until("upstream is healthy", |upstream| Ok(upstream.try_kubectl(&["get", "--raw", "/readyz"], "").ok))
}

fn both_in_one_store(scene: &mut Scene) -> Result<()> {
    let ours = scene.servers[0].kubectl(&["get", "namespaces", "-o", "name"])?;
    ensure!(!ours.contains("stories") && ours.contains("namespace/default"), "{ours}");
    scene.servers[0].kubectl(&["create", "namespace", "of-ours"])?;
    let theirs = scene.upstream.kubectl(&["get", "namespaces", "-o", "name"])?;
    ensure!(!theirs.contains("of-ours") && theirs.contains("stories"), "{theirs}");
    Ok(())
}
