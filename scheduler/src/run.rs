//! The shell: takes changes from the caches, has decisions made, and writes them with many writes under way at once.

use std::{sync::Arc, time::Instant};

use client::{Caches, Change, Client, Recorder, error::chain, events::Type};
use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod},
    jiff::Timestamp,
};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    bind,
    cluster::{Cluster, Order},
    cycle,
};

/// Conditions being written at once; what is beyond is left to the pod's next refusal.
const EXPLANATIONS: usize = 32;
/// Decisions made before changes are looked at again.
const BATCH: usize = 64;

/// How to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name that pods ask for in `spec.schedulerName`.
    pub name: String,
    /// Bindings under way at once.
    pub binds: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "default-scheduler".into(), binds: 64 }
    }
}

/// Why the scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A cache went away: the process is ending, or its watch panicked.
    #[error("the cache of {0} ended")]
    CacheEnded(&'static str),
}

type Bound = (Arc<Pod>, String, Result<(), bind::Error>);

struct Shell {
    cluster: Cluster,
    client: Client,
    recorder: Recorder,
    config: Config,
    binding: JoinSet<Bound>,
    explaining: JoinSet<()>,
}

/// Runs until `shutdown`. Bindings under way are waited for.
///
/// # Errors
/// When a cache ends by itself.
pub async fn run(caches: Caches, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let (nodes, pods, namespaces) = (caches.reader::<Node>(), caches.reader::<Pod>(), caches.reader::<Namespace>());
    let synced = async { tokio::join!(nodes.synced(), pods.synced(), namespaces.synced()) };
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return Ok(());
    }
    let (mut nodes, mut pods, mut namespaces) = (nodes.subscribe(), pods.subscribe(), namespaces.subscribe());
    let mut shell = Shell {
        cluster: Cluster::new(&config.name),
        client: caches.client().clone(),
        recorder: Recorder::new(caches.client(), &config.name, ""),
        config,
        binding: JoinSet::new(),
        explaining: JoinSet::new(),
    };
    loop {
        let now = Instant::now();
        drain(&mut namespaces, |change| shell.cluster.namespace(&change, now));
        drain(&mut nodes, |change| shell.cluster.node(&change, now));
        drain(&mut pods, |change| shell.cluster.pod(&change, now));
        while let Some(Ok(bound)) = shell.binding.try_join_next() {
            shell.written(bound);
        }
        while shell.explaining.try_join_next().is_some() {}
        if shell.decide(now) {
            tokio::task::yield_now().await;
            continue;
        }
        let due = shell.cluster.queue.next_due();
        tokio::select! {
            () = shutdown.cancelled() => break,
            change = namespaces.recv() => {
                shell.cluster.namespace(&change.ok_or(Error::CacheEnded("namespaces"))?, Instant::now());
            }
            change = nodes.recv() => shell.cluster.node(&change.ok_or(Error::CacheEnded("nodes"))?, Instant::now()),
            change = pods.recv() => shell.cluster.pod(&change.ok_or(Error::CacheEnded("pods"))?, Instant::now()),
            Some(Ok(bound)) = shell.binding.join_next() => shell.written(bound),
            () = sleep(due) => {}
        }
    }
    while let Some(Ok(bound)) = shell.binding.join_next().await {
        shell.written(bound);
    }
    Ok(())
}

fn drain<K>(changes: &mut UnboundedReceiver<Change<K>>, mut take: impl FnMut(Change<K>)) {
    while let Ok(change) = changes.try_recv() {
        take(change);
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

impl Shell {
    /// Makes some decisions; tells whether there may be more to make at once.
    fn decide(&mut self, now: Instant) -> bool {
        for _ in 0..BATCH {
            if self.binding.len() >= self.config.binds {
                return false;
            }
            match self.cluster.decide(now) {
                None => return false,
                Some(Order::Bind { pod, node }) => {
                    let client = self.client.clone();
                    self.binding.spawn(async move {
                        let done = bind::bind(&client, &pod, &node).await;
                        (pod, node, done)
                    });
                }
                Some(Order::Explain { pod, rejections }) => self.explain(pod, cycle::message(&rejections)),
            }
        }
        true
    }

    fn written(&mut self, (pod, node, done): Bound) {
        match done {
            Ok(()) => {
                self.cluster.bound(&pod);
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.event(&*pod, Type::Normal, "Scheduled", message);
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "binding will be retried");
                self.cluster.unbound(&pod, Instant::now());
                self.recorder.event(&*pod, Type::Warning, "FailedScheduling", chain(&error));
            }
        }
    }

    fn explain(&mut self, pod: Arc<Pod>, message: String) {
        self.recorder.event(&*pod, Type::Warning, "FailedScheduling", message.clone());
        if bind::told(&pod, &message) || self.explaining.len() >= EXPLANATIONS {
            return;
        }
        let client = self.client.clone();
        self.explaining.spawn(async move {
            if let Err(error) = bind::explain(&client, &pod, &message, Timestamp::now()).await {
                tracing::debug!(error = %chain(&error), "the pod does not say why it waits");
            }
        });
    }
}
