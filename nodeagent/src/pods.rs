//! The pods of this node: one worker each.
//!
//! # Guarantees
//! * What the runtime runs for a known pod is adopted; what it runs for none is removed, before anything is started.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ahash::AHashMap;
use client::Change;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{self, Offer},
    adopt::adopt,
    host::Host,
    launch::chain,
    runtime::ContainerState,
    worker::{Message, Worker},
};

/// Between tries to learn what runs.
const RETRY: Duration = Duration::from_millis(200);

/// The pods that are bound to a node: as they are, and as they change. Changes may repeat what is known.
pub struct Assigned {
    /// All there were at one moment.
    pub initial: Vec<Arc<Pod>>,
    /// Everything since.
    pub changes: mpsc::UnboundedReceiver<Change<Pod>>,
}

struct Pods {
    host: Arc<Host>,
    offer: Offer,
    workers: AHashMap<String, mpsc::UnboundedSender<Message>>,
    tasks: JoinSet<String>,
}

/// Runs them until shutdown. Containers go on when this ends.
pub async fn run(host: Arc<Host>, offer: Offer, mut assigned: Assigned, shutdown: CancellationToken) {
    let mut exits = host.runtime.exits();
    let running = tokio::select! {
        running = listed(&host) => running,
        () = shutdown.cancelled() => return,
    };
    sweep(&host, &assigned.initial).await;
    let mut pods = Pods { host, offer, workers: AHashMap::new(), tasks: JoinSet::new() };
    for pod in &assigned.initial {
        pods.apply(pod, &running);
    }
    let mut refresh = tokio::time::interval(pods.host.config.volume_refresh);
    refresh.reset();
    loop {
        tokio::select! {
            change = assigned.changes.recv() => match change {
                Some(Change::Applied { new, .. }) => pods.apply(&new, &BTreeMap::new()),
                Some(Change::Deleted(pod)) => pods.tell(&pod.uid().unwrap_or_default(), Message::Removed),
                None => break,
            },
            exit = exits.recv() => match exit {
                Ok(state) => pods.tell(&state.sandbox.clone(), Message::Exit(state)),
                Err(RecvError::Lagged(_)) => pods.tell_all_exits().await,
                Err(RecvError::Closed) => break,
            },
            Some(done) = pods.tasks.join_next() => if let Ok(uid) = done { pods.workers.remove(&uid); },
            _ = refresh.tick() => for worker in pods.workers.values() {
                // a worker that is gone refreshes nothing
                drop(worker.send(Message::Refresh));
            },
            () = shutdown.cancelled() => break,
        }
    }
    pods.tasks.shutdown().await;
}

/// What the runtime runs, by pod. Tried until it answers: without it nothing can be decided.
async fn listed(host: &Host) -> BTreeMap<String, Vec<ContainerState>> {
    loop {
        match host.runtime.list().await {
            Ok(states) => {
                let mut by_pod = BTreeMap::<_, Vec<_>>::new();
                for state in states {
                    by_pod.entry(state.sandbox.clone()).or_default().push(state);
                }
                return by_pod;
            }
            Err(error) => tracing::warn!(error = chain(&error), "containers were not listed, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Removes what belongs to no pod.
async fn sweep(host: &Host, pods: &[Arc<Pod>]) {
    let live: HashSet<_> = pods.iter().filter_map(|p| p.uid()).collect();
    let sandboxes = host.runtime.sandboxes().await.unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "sandboxes were not listed, orphans stay");
        Vec::new()
    });
    let orphans = sandboxes.into_iter().filter(|uid| !live.contains(uid));
    let removed = join_all(orphans.map(async |uid| (host.runtime.remove_sandbox(&uid).await, uid))).await;
    for (result, uid) in removed {
        match result {
            Ok(()) => tracing::info!(pod = uid, "removed a sandbox of no pod"),
            Err(error) => tracing::warn!(pod = uid, error = chain(&error), "sandbox of no pod stays"),
        }
    }
    let (network, storage) = tokio::join!(host.network.retain(&live), host.storage.retain(&live));
    if let Err(error) = network {
        tracing::warn!(error = chain(&error), "network of removed pods stays");
    }
    if let Err(error) = storage {
        tracing::warn!(error = chain(&error), "files of removed pods stay");
    }
}

impl Pods {
    fn apply(&mut self, pod: &Arc<Pod>, running: &BTreeMap<String, Vec<ContainerState>>) {
        let uid = pod.uid().unwrap_or_default();
        if uid.is_empty() || self.workers.contains_key(&uid) {
            self.tell(&uid, Message::Pod(Arc::clone(pod)));
            return;
        }
        let states = running.get(&uid).map(Vec::as_slice).unwrap_or_default();
        let (mut seen, phase) = adopt(pod, states, Timestamp::now());
        let fresh = states.is_empty() && pod.status.as_ref().is_none_or(|s| s.start_time.is_none());
        if fresh && pod.metadata.deletion_timestamp.is_none() {
            seen.refused = admission::refuse(pod, &self.taken(), &self.offer);
        }
        let worker = Worker::new(Arc::clone(&self.host), pod, seen, phase);
        let sender = worker.sender();
        for state in states.iter().filter(|s| s.exit.is_some()) {
            // invariant: the worker holds the receiver
            sender.send(Message::Exit(state.clone())).expect("a new worker listens");
        }
        self.workers.insert(uid, sender);
        self.tasks.spawn(worker.run());
    }

    /// Pods that still hold resources of the node.
    fn taken(&self) -> Vec<Arc<Pod>> {
        let over = |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        self.host.guests.list().into_iter().map(|g| g.pod).filter(|p| !over(p)).collect()
    }

    fn tell(&self, uid: &str, message: Message) {
        if let Some(worker) = self.workers.get(uid) {
            // a worker that is gone needs no facts
            drop(worker.send(message));
        }
    }

    /// Exits came faster than they were read: all that have exited are told again.
    async fn tell_all_exits(&self) {
        for state in listed(&self.host).await.into_values().flatten().filter(|s| s.exit.is_some()) {
            self.tell(&state.sandbox.clone(), Message::Exit(state));
        }
    }
}
