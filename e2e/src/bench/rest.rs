//! Starting, and being at rest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cli::up::{Cluster, Spec};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};

use super::{
    Figures, Subject,
    cost::{Cost, mebibytes},
};
use crate::stage::program;

/// How long a cluster is watched at rest.
const REST: Duration = Duration::from_secs(20);

/// Nodes of the cluster whose start is measured.
const NODES: usize = 3;

/// Between two looks at a starting cluster.
const LOOK: Duration = Duration::from_millis(2);

/// Cold start: from nothing to an API that is ready, and to all nodes Ready.
pub async fn start(figures: &mut Figures) -> Result<()> {
    figures.scenario("start")?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let started = Instant::now();
    let mut cluster = Cluster::start(Spec {
        exe: program()?,
        data_dir: folder.path().to_owned(),
        nodes: NODES,
        listen: ([127, 0, 0, 1], 0).into(),
        server_args: Vec::new(),
        agent_args: Vec::new(),
    })?;
    let client = client::kubeconfig::client(&cluster.kubeconfig(), None).await.context("use the kubeconfig")?;
    let mut pause = tokio::time::interval(LOOK);
    while client.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_err() {
        pause.tick().await;
    }
    figures.note("orlop up to API ready", started.elapsed().as_secs_f64(), "s")?;
    cluster.start_nodes()?;
    let nodes: Api<Node> = Api::all(client);
    loop {
        pause.tick().await;
        let list = nodes.list(&ListParams::default()).await.context("list the nodes")?;
        if list.items.iter().filter(|n| ready(n)).count() == NODES {
            break;
        }
    }
    figures.note(format!("orlop up to {NODES} nodes Ready"), started.elapsed().as_secs_f64(), "s")?;
    cluster.stop()
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Memory and CPU of every process when nothing happens.
pub async fn rest(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("rest")?;
    // what a start leaves to be done is done
    tokio::time::sleep(REST / 2).await;
    let parts = [
        ("server", subject.server_pids()),
        ("agents", subject.node_pids("agent")),
        ("supervisors", subject.node_pids("supervisor")),
    ];
    let before: Vec<_> = parts.iter().map(|(_, pids)| Cost::of(pids)).collect();
    tokio::time::sleep(REST).await;
    for ((name, pids), before) in parts.iter().zip(before) {
        let after = Cost::of(pids);
        let each = pids.len().max(1) as u64;
        figures.note(format!("{name} ({}), resident each", pids.len()), mebibytes(after.resident / each), "MiB")?;
        let share = (after.cpu - before.cpu) / REST.as_secs_f64() / each as f64;
        figures.note(format!("{name}, CPU each"), share * 100.0, "% of a core")?;
    }
    Ok(())
}
