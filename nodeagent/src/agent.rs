//! One node, from its settings to its pods.

use std::sync::Arc;

use client::{Caches, events::Recorder};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    field::Place,
    host::{Guests, Host},
    images::Images,
    machine,
    network::Network,
    node::{self, Lookout},
    pods::{self, Assigned},
    resident,
    runtime::Runtime,
    server,
    sources::Sources,
    storage::{Folder, Storage},
};

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its folder cannot be made.
    #[error("cannot make {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Its kubelet API cannot be served.
    #[error("cannot serve the kubelet API")]
    Server(#[source] server::Error),
}

/// Runs the pods of one node until shutdown. Containers go on when it ends; the next agent adopts them.
pub async fn run(
    config: Config,
    caches: Caches,
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    images: Arc<dyn Images>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    for name in ["pods", "logs"] {
        let path = config.data_dir.join(name);
        std::fs::create_dir_all(&path).map_err(|source| Error::Folder { path, source })?;
    }
    tokio::spawn(resident::keep_small(shutdown.clone()));
    let reader = caches.reader_of_fields::<Pod>(&format!("spec.nodeName={}", config.node));
    let sources = Arc::new(Sources::new(caches.client().clone()));
    let place = place(&config);
    let storage = Arc::new(Folder::new(
        config.data_dir.clone(),
        config.node.clone(),
        place.clone(),
        Arc::clone(&sources),
        Arc::clone(&network),
    ));
    let recorder = Recorder::new(caches.client(), "kubelet", &config.node);
    let services = caches.reader::<Service>();
    let parts = Parts { runtime, network, images, storage, sources, services, recorder };
    let host = host(config, caches.client(), place, parts);
    let assigned = async {
        reader.synced().await;
        Assigned { changes: reader.subscribe(), initial: reader.list() }
    };
    run_host(host, assigned, shutdown).await
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) services: client::Reader<Service>,
    pub(crate) recorder: Recorder,
}

/// What a node's pods are told of it.
pub(crate) fn place(config: &Config) -> Place {
    let offer = machine::offer(&config.capacity);
    Place {
        pod_ips: Vec::new(),
        host_ips: config.addresses.iter().map(ToString::to_string).collect(),
        cpu_millis: offer.cpu_millis,
        memory: offer.memory,
    }
}

pub(crate) fn host(config: Config, client: &kube::Client, place: Place, parts: Parts) -> Arc<Host> {
    let Parts { runtime, network, images, storage, sources, services, recorder } = parts;
    let (client, guests) = (client.clone(), Guests::default());
    Arc::new(Host { config, place, client, runtime, network, images, storage, sources, services, recorder, guests })
}

/// A node whose parts are there: its objects, its server, its pods, all at once.
pub(crate) async fn run_host(
    host: Arc<Host>,
    assigned: impl Future<Output = Assigned>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let config = Arc::new(host.config.clone());
    let offer = machine::offer(&config.capacity);
    let bound = match &config.serving {
        Some(serving) => Some(server::Server::bind(serving).await.map_err(Error::Server)?),
        None => None,
    };
    let port = bound.as_ref().map_or(0, server::Server::port);
    let serving = async {
        if let Some(server) = bound {
            server.run(Arc::clone(&host), shutdown.clone()).await;
        }
    };
    let objects = async {
        let lookout = Lookout { config: Arc::clone(&config), offer, port, network: host.network.state() };
        let facts = lookout.look();
        let uid = tokio::select! {
            uid = node::register(&host.client, &config, &facts) => uid,
            () = shutdown.cancelled() => return,
        };
        let report = node::report(host.client.clone(), lookout.clone(), shutdown.clone());
        let renew = node::renew(host.client.clone(), lookout, uid, shutdown.clone());
        tokio::join!(report, renew);
    };
    let pods = async {
        let assigned = tokio::select! {
            assigned = assigned => assigned,
            () = shutdown.cancelled() => return,
        };
        pods::run(Arc::clone(&host), offer, assigned, shutdown.clone()).await;
    };
    tokio::join!(serving, objects, pods);
    Ok(())
}
