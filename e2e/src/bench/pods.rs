//! Starting pods: one from POST to Running, and a hundred of one Deployment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use super::{
    Figures, Subject,
    cost::{Cost, mebibytes},
    subject::NAMESPACE,
};

/// Single pods measured.
const SINGLES: usize = 20;

/// Pods of the Deployment.
const MANY: i32 = 100;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

fn pod(name: &str) -> Result<Pod> {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "orlop.dev/testapp:1", "args": ["serve"]}],
        },
    });
    serde_json::from_value(pod).context("write a pod")
}

/// One pod from POST to Running as a watcher sees it, one after the other.
pub async fn one(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("pod")?;
    let pods: Api<Pod> = Api::namespaced(subject.prepare().await?, NAMESPACE);
    let mut durations = Vec::new();
    for round in 0..=SINGLES {
        let name = format!("single-{round}");
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut seen = Box::pin(watcher(pods.clone(), only).applied_objects());
        let started = Instant::now();
        pods.create(&PostParams::default(), &pod(&name)?).await.context("create a pod")?;
        let running = async {
            while let Some(pod) = seen.try_next().await.context("watch a pod")? {
                if pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running") {
                    return Ok(());
                }
            }
            anyhow::bail!("the watch ended")
        };
        tokio::time::timeout(PATIENCE, running).await.context("wait for a pod to run")??;
        // the first one warms what later ones find warm
        if round > 0 {
            durations.push(started.elapsed());
        }
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await.context("delete a pod")?;
    }
    figures.spread("one pod, POST to Running", &mut durations)?;
    subject.tidy().await
}

/// A hundred pods of one Deployment, POST to all Ready, and deleted.
pub async fn many(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("pods-100")?;
    let client = subject.prepare().await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "many"},
        "spec": {
            "replicas": MANY, "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": pod("any")?.spec},
        },
    }))
    .context("write a deployment")?;
    let all = [subject.server_pids(), subject.node_pids("agent"), subject.node_pids("supervisor")].concat();
    let before = Cost::of(&all);
    let mut seen = Box::pin(watcher(deployments.clone(), watcher::Config::default()).applied_objects());
    let started = Instant::now();
    deployments.create(&PostParams::default(), &deployment).await.context("create a deployment")?;
    let ready = async {
        while let Some(one) = seen.next().await {
            if one.context("watch a deployment")?.status.and_then(|s| s.ready_replicas) == Some(MANY) {
                return Ok(());
            }
        }
        anyhow::bail!("the watch ended")
    };
    tokio::time::timeout(PATIENCE, ready).await.context("wait for the pods")??;
    figures.note(format!("{MANY} pods, POST to all Ready"), started.elapsed().as_secs_f64(), "s")?;
    let after = Cost::of(&all);
    figures.note("CPU of server, agents and supervisors meanwhile", after.cpu - before.cpu, "s")?;
    figures.note("their peak memory together", mebibytes(after.peak), "MiB")?;
    let started = Instant::now();
    deployments.delete("many", &DeleteParams::foreground()).await.context("delete a deployment")?;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        pause.tick().await;
        let left = pods.list(&ListParams::default()).await.context("list pods")?.items;
        if left.is_empty() {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "{} pods are left, such as {}", left.len(), left[0].name_any());
    }
    figures.note(format!("{MANY} pods, DELETE to all gone"), started.elapsed().as_secs_f64(), "s")?;
    subject.tidy().await
}
