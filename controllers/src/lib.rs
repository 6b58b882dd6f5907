//! What keeps the cluster as its objects ask for: one controller a file, each a pure `plan` and a thin shell around it.
//!
//! ```text
//! caches ─> Observed ─> plan ─> Plan ─> requests to the API
//! ```
//!
//! # Invariants
//! * A plan is a function of what is seen and the time; it is made anew each time and nothing of it is remembered.
//! * What a controller wrote but does not see yet is awaited before it counts again ([`client::Expectations`]).
//!
//! # Absent
//! No loop (see [`client::controller`]), no state that a restart would lose, no other way to the objects than the API.

pub mod deployment;
pub mod endpointslice;
pub mod eviction;
pub mod garbage;
mod kind;
pub mod namespace;
pub mod node;
pub mod nodeipam;
mod pod;
pub mod podgc;
pub mod replicaset;
pub mod serviceaccount;

use std::{future::Future, pin::Pin, time::Duration};

use client::Caches;
use ipnet::Ipv4Net;
use tokio_util::sync::CancellationToken;

/// Seconds that a Pod which says nothing itself stays on a Node that is silent or not ready. Upstream's default is 300; a
/// service should be whole again sooner. Admission gives new Pods tolerations of the same length.
pub const TOLERATION_SECONDS: u64 = 30;

/// How the controllers work.
#[derive(Clone, Debug)]
pub struct Config {
    /// The certificate of the cluster's authority, PEM: Pods find it in every namespace.
    pub ca: String,
    /// Addresses of all Pods.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of one Node's part of them.
    pub node_cidr_bits: u8,
    /// How long a Node may be silent.
    pub node_monitor_grace: Duration,
    /// How long a Pod that says nothing itself stays on a silent Node.
    pub toleration: Duration,
    /// How long a Node must be gone until its Pods are removed.
    pub node_gone_grace: Duration,
    /// Pods that have ended and are kept.
    pub ended_pods: usize,
}

impl Config {
    /// The defaults of an Orlop cluster with this authority.
    pub fn new(ca: impl Into<String>) -> Self {
        let all = std::net::Ipv4Addr::new(10, 42, 0, 0);
        Self {
            ca: ca.into(),
            cluster_cidr: Ipv4Net::new_assert(all, 16),
            node_cidr_bits: 24,
            node_monitor_grace: Duration::from_secs(10),
            toleration: Duration::from_secs(TOLERATION_SECONDS),
            node_gone_grace: Duration::from_secs(10),
            ended_pods: 12_500,
        }
    }
}

/// Runs all controllers until `shutdown`.
pub async fn run(caches: Caches, config: Config, shutdown: CancellationToken) {
    let c = || caches.clone();
    let s = || shutdown.clone();
    let all: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = vec![
        Box::pin(deployment::run(c(), s())),
        Box::pin(replicaset::run(c(), s())),
        Box::pin(endpointslice::run(c(), s())),
        Box::pin(namespace::run(c(), s())),
        Box::pin(serviceaccount::run(c(), config.ca, s())),
        Box::pin(garbage::run(c(), s())),
        Box::pin(node::run(c(), config.node_monitor_grace, s())),
        Box::pin(nodeipam::run(c(), config.cluster_cidr, config.node_cidr_bits, s())),
        Box::pin(eviction::run(c(), config.toleration, s())),
        Box::pin(podgc::run(c(), config.node_gone_grace, config.ended_pods, s())),
    ];
    let tasks: Vec<_> = all.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a controller ended");
        }
    }
}
