//! Rates of single-object reads, large lists and creates, at rising numbers of clients.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use http::Request;
use kube::Client;
use serde_json::json;

use super::{
    Figures, Subject,
    cost::{Cost, mebibytes},
    subject::NAMESPACE,
};

/// How many clients ask at once.
const CLIENTS: [usize; 3] = [1, 16, 64];

/// Pods that a LIST answers with.
const LISTED: usize = 1_000;

/// How long each rate is measured.
const SPAN: Duration = Duration::from_secs(5);

/// A pod that nothing will ever run, of the usual size.
pub fn idle_pod(name: &str, scheduler: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "load"}},
        "spec": {
            "schedulerName": scheduler,
            "containers": [{
                "name": "main", "image": "orlop.dev/testapp:1", "args": ["serve"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            }],
        },
    })
}

/// Runs the scenario.
pub async fn run(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("api")?;
    subject.prepare().await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let made = AtomicUsize::new(0);
    let creator = Arc::new(made);
    for clients in CLIENTS {
        let (path, counter) = (path.clone(), Arc::clone(&creator));
        rate(figures, subject, "create a pod", clients, move |_| {
            let name = format!("load-{}", counter.fetch_add(1, Ordering::Relaxed));
            let body = idle_pod(&name, "nobody").to_string().into_bytes();
            Request::post(&path).header("Content-Type", "application/json").body(body)
        })
        .await?;
    }
    for clients in CLIENTS {
        let path = path.clone();
        rate(figures, subject, "GET a pod", clients, move |turn| {
            Request::get(format!("{path}/load-{}", turn % 100)).body(Vec::new())
        })
        .await?;
    }
    for clients in CLIENTS {
        let path = path.clone();
        rate(figures, subject, &format!("LIST {LISTED} pods"), clients, move |_| {
            Request::get(format!("{path}?limit={LISTED}")).body(Vec::new())
        })
        .await?;
    }
    let cost = Cost::of(&subject.server_pids());
    figures.note("server's peak memory", mebibytes(cost.peak), "MiB")?;
    subject.tidy().await
}

/// Sends requests from so many clients, each with a connection of its own, for [`SPAN`].
async fn rate(
    figures: &mut Figures,
    subject: &Subject,
    name: &str,
    clients: usize,
    request: impl Fn(usize) -> Result<Request<Vec<u8>>, http::Error> + Send + Sync + 'static,
) -> Result<()> {
    let request = Arc::new(request);
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(subject.client().await?);
    }
    let before = Cost::of(&subject.server_pids());
    let end = Instant::now() + SPAN;
    let started = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(index, client)| tokio::spawn(ask_until(client, end, index, Arc::clone(&request))))
        .collect();
    let mut durations = Vec::new();
    for task in tasks {
        durations.extend(task.await.context("a client panicked")??);
    }
    let seconds = started.elapsed().as_secs_f64();
    let done = durations.len() as f64;
    let spent = Cost::of(&subject.server_pids()).cpu - before.cpu;
    figures.note(format!("{name}, {clients} clients"), done / seconds, "/s")?;
    durations.sort();
    figures.note("    p99", super::figure::millis(super::figure::quantile(&durations, 0.99)), "ms")?;
    if spent > 0.0 {
        figures.note("    per CPU second of the server", done / spent, "/s")?;
    }
    Ok(())
}

async fn ask_until(
    client: Client,
    end: Instant,
    first: usize,
    request: Arc<impl Fn(usize) -> Result<Request<Vec<u8>>, http::Error> + Send + Sync + 'static>,
) -> Result<Vec<Duration>> {
    let mut durations = Vec::new();
    let mut turn = first;
    while Instant::now() < end {
        let started = Instant::now();
        let request = request(turn).context("build a request")?;
        client.request_text(request).await.context("ask the server")?;
        durations.push(started.elapsed());
        turn += 1;
    }
    Ok(durations)
}
