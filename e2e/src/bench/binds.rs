//! Binds per second: many pods onto many hollow nodes.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};

use super::{
    Figures, Subject,
    api::idle_pod,
    cost::{Cost, mebibytes},
    subject::NAMESPACE,
};
use crate::stage::program;

/// Hollow nodes.
const NODES: usize = 1_000;

/// Pods.
const PODS: usize = 5_000;

/// Creates under way at once.
const CREATORS: usize = 64;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process that plays nodes; it ends with this.
struct Hollow(Child);

impl Drop for Hollow {
    fn drop(&mut self) {
        // it may have ended by itself
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs the scenario.
pub async fn run(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("binds")?;
    let client = subject.prepare().await?;
    let mut command = Command::new(program()?);
    command.args(["--die-with-parent", "hollow", "--nodes", &NODES.to_string(), "--kubeconfig"]);
    let log = std::fs::File::create(std::env::temp_dir().join("orlop-hollow.log")).context("open a log")?;
    let hollow = command.arg(subject.kubeconfig()).stdin(Stdio::null()).stderr(log).spawn();
    let hollow = Hollow(hollow.context("start the hollow nodes")?);
    let started = Instant::now();
    wait_for_nodes(&Api::all(client.clone())).await?;
    figures.note(format!("{NODES} hollow nodes Ready"), started.elapsed().as_secs_f64(), "s")?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let revision = pods.list(&ListParams::default().limit(1)).await.context("list pods")?.metadata.resource_version;
    let params = WatchParams::default().timeout(290);
    let events = pods.watch(&params, revision.as_deref().unwrap_or("0")).await.context("watch pods")?;
    let before = Cost::of(&subject.server_pids());
    let started = Instant::now();
    let creating = tokio::spawn(create_all(client));
    let (first, last) = tokio::time::timeout(PATIENCE, bound(events)).await.context("wait for binds")??;
    creating.await.context("a creator panicked")??;
    figures.note(format!("{PODS} pods, first POST to all bound"), (last - started).as_secs_f64(), "s")?;
    let seconds = (last - first).as_secs_f64();
    figures.note("binds, from the first to the last", PODS as f64 / seconds, "/s")?;
    let after = Cost::of(&subject.server_pids());
    figures.note("server's CPU per pod created and bound", (after.cpu - before.cpu) * 1e6 / PODS as f64, "us")?;
    figures.note("server's peak memory", mebibytes(after.peak), "MiB")?;
    figures.note("hollow nodes' memory", mebibytes(Cost::of(&[hollow.0.id()]).resident), "MiB")?;
    drop(hollow);
    subject.tidy().await
}

async fn wait_for_nodes(nodes: &Api<Node>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    loop {
        pause.tick().await;
        let list = nodes.list(&ListParams::default()).await.context("list nodes")?.items;
        let ready = |n: &&Node| {
            let conditions = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        let count = list.iter().filter(ready).count();
        if count >= NODES {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {count} of {NODES} hollow nodes are Ready");
    }
}

async fn create_all(client: kube::Client) -> Result<()> {
    stream::iter(0..PODS)
        .map(|index| {
            let client = client.clone();
            async move {
                let body = idle_pod(&format!("bind-{index}"), "default-scheduler").to_string().into_bytes();
                let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
                let request = Request::post(path).header("Content-Type", "application/json").body(body);
                client.request_text(request.context("build a request")?).await.context("create a pod").map(drop)
            }
        })
        .buffer_unordered(CREATORS)
        .try_collect()
        .await
}

/// When the first and the last of the pods were seen bound.
async fn bound(events: impl futures::Stream<Item = kube::Result<WatchEvent<Pod>>>) -> Result<(Instant, Instant)> {
    let mut events = std::pin::pin!(events);
    let mut first = None;
    let mut seen = std::collections::HashSet::new();
    while let Some(event) = events.try_next().await.context("watch pods")? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) && seen.insert(pod.name_any()) {
            let now = Instant::now();
            let first = *first.get_or_insert(now);
            if seen.len() == PODS {
                return Ok((first, now));
            }
        }
    }
    anyhow::bail!("the watch ended after {} of {PODS} binds", seen.len())
}
