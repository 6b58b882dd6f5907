//! Nodes without containers: many agents in one process, the same code over a fake runtime, network and disk. For load.
//!
//! All share one watch of pods and one recorder, so that a thousand of them cost little more than their leases.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use client::{Caches, Change, events::Recorder};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    agent::{self, Error, Parts},
    config,
    images::fake::Fake as Images,
    network::{self, Attachment, Dns, HostPort, Network, PodId},
    pods::Assigned,
    runtime::fake::Fake as Runtime,
    sources::Sources,
    storage::Nowhere,
};

/// How many hollow nodes, and what they are.
#[derive(Clone, Debug)]
pub struct Hollow {
    /// How many.
    pub count: u32,
    /// Their names are this and a number from 0.
    pub prefix: String,
    /// What each claims to have.
    pub capacity: config::Capacity,
    /// How often each renews its lease: a thousand nodes every 3 s would be a load of their own.
    pub lease_renewal: Duration,
}

impl Hollow {
    /// That many nodes of 8 CPUs and 32 GiB.
    pub fn new(count: u32, prefix: impl Into<String>) -> Self {
        let capacity = config::Capacity { cpu_millis: Some(8000), memory: Some(32 << 30), pods: None };
        Self { count, prefix: prefix.into(), capacity, lease_renewal: Duration::from_secs(10) }
    }

    fn name(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    fn config(&self, number: u32) -> Config {
        let mut config = Config::new(self.name(number), "/nonexistent");
        let [a, b, c, d] = (0x0a80_0001 + number).to_be_bytes();
        config.addresses = vec![IpAddr::V4(Ipv4Addr::new(a, b, c, d))];
        config.capacity = self.capacity.clone();
        config.lease_renewal = self.lease_renewal;
        config.lease_duration = self.lease_renewal * 4;
        config
    }
}

/// Gives addresses that lead nowhere.
#[derive(Debug, Default)]
pub(crate) struct Unconnected {
    given: AtomicU32,
}

#[async_trait::async_trait]
impl Network for Unconnected {
    fn state(&self) -> watch::Receiver<network::State> {
        watch::channel(network::State::Up).1
    }

    async fn attach(&self, _: &PodId, _: &[HostPort]) -> Result<Attachment, network::Error> {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let [_, b, c, d] = number.to_be_bytes();
        Ok(Attachment { netns: "/nonexistent".into(), addresses: vec![IpAddr::V4(Ipv4Addr::new(11, b, c, d))] })
    }

    async fn detach(&self, _: &str) -> Result<(), network::Error> {
        Ok(())
    }

    async fn retain(&self, _: &HashSet<String>) -> Result<(), network::Error> {
        Ok(())
    }

    fn dns(&self) -> Dns {
        Dns::default()
    }
}

/// Runs them until shutdown.
pub async fn run(hollow: Hollow, caches: Caches, shutdown: CancellationToken) -> Result<(), Error> {
    let reader = caches.reader_of_fields::<Pod>("spec.nodeName!=");
    let services = caches.reader::<Service>();
    let recorder = Recorder::new(caches.client(), "kubelet", "");
    let sources = Arc::new(Sources::new(caches.client().clone()));
    let network: Arc<dyn Network> = Arc::new(Unconnected::default());
    let images: Arc<dyn crate::images::Images> = Arc::new(Images::default());
    reader.synced().await;
    let mut nodes = JoinSet::new();
    let mut routes = AHashMap::new();
    for number in 0..hollow.count {
        let (sender, changes) = mpsc::unbounded_channel();
        routes.insert(hollow.name(number), sender);
        let config = hollow.config(number);
        let place = agent::place(&config);
        let parts = Parts {
            runtime: Arc::new(Runtime::new()),
            network: Arc::clone(&network),
            images: Arc::clone(&images),
            storage: Arc::new(Nowhere),
            sources: Arc::clone(&sources),
            services: services.clone(),
            recorder: recorder.clone(),
        };
        let host = agent::host(config, caches.client(), place, parts);
        let assigned = async { Assigned { initial: Vec::new(), changes } };
        nodes.spawn(agent::run_host(host, assigned, shutdown.clone()));
    }
    let mut changes = reader.subscribe();
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => route(&routes, change),
                None => break,
            },
            () = shutdown.cancelled() => break,
        }
    }
    while let Some(ended) = nodes.join_next().await {
        if let Ok(result) = ended {
            result?;
        }
    }
    Ok(())
}

fn route(routes: &AHashMap<String, mpsc::UnboundedSender<Change<Pod>>>, change: Change<Pod>) {
    let node = change.object().spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    if let Some(sender) = routes.get(&node) {
        // a node that is shutting down takes no more pods
        drop(sender.send(change));
    }
}
