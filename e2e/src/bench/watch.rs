//! How long a change takes to reach a hundred watchers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Figures, Subject, cost::Cost, subject::NAMESPACE};

/// Watchers.
const WATCHERS: usize = 100;

/// Connections that they share.
const CONNECTIONS: usize = 10;

/// Changes.
const CHANGES: usize = 100;

/// Between two changes.
const PACE: Duration = Duration::from_millis(20);

/// Runs the scenario.
pub async fn run(figures: &mut Figures, subject: &Subject) -> Result<()> {
    figures.scenario("watch")?;
    let maps: Api<ConfigMap> = Api::namespaced(subject.prepare().await?, NAMESPACE);
    let mut map = ConfigMap::default();
    map.metadata.name = Some("watched".into());
    let map = maps.create(&PostParams::default(), &map).await.context("create a config map")?;
    let revision = map.resource_version().unwrap_or_default();
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(subject.client().await?);
    }
    for index in 0..WATCHERS {
        let maps: Api<ConfigMap> = Api::namespaced(clients[index % CONNECTIONS].clone(), NAMESPACE);
        let stream = maps.watch(&WatchParams::default(), &revision).await.context("watch")?;
        tokio::spawn(follow(stream, seen.clone()));
    }
    let before = Cost::of(&subject.server_pids());
    let mut sent = Vec::with_capacity(CHANGES);
    let mut pace = tokio::time::interval(PACE);
    for turn in 0..CHANGES {
        pace.tick().await;
        sent.push(Instant::now());
        let patch = Patch::Merge(json!({"data": {"turn": turn.to_string()}}));
        maps.patch("watched", &PatchParams::default(), &patch).await.context("change a config map")?;
    }
    let mut durations = Vec::new();
    while durations.len() < WATCHERS * CHANGES {
        let next = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await;
        let (turn, at): (usize, Instant) = next.context("wait for the watchers")?.context("the watchers ended")?;
        durations.push(at.saturating_duration_since(sent[turn]));
    }
    figures.spread(&format!("PATCH sent to each of {WATCHERS} watchers"), &mut durations)?;
    let spent = Cost::of(&subject.server_pids()).cpu - before.cpu;
    figures.note("CPU of the server per event and watcher", spent * 1e6 / (WATCHERS * CHANGES) as f64, "us")?;
    subject.tidy().await
}

async fn follow(
    stream: impl futures::Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Send,
    seen: mpsc::UnboundedSender<(usize, Instant)>,
) {
    let mut stream = std::pin::pin!(stream);
    while let Ok(Some(event)) = stream.try_next().await {
        let WatchEvent::Modified(map) = event else { continue };
        let turn = map.data.and_then(|d| d.get("turn")?.parse().ok());
        if let Some(turn) = turn
            && seen.send((turn, Instant::now())).is_err()
        {
            return;
        }
    }
}
