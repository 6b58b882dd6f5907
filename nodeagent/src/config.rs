//! What an agent is told when it starts.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use client::shown::Shown;

/// One node's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, a DNS label.
    pub node: String,
    /// Everything that the agent keeps lies below: `pods/`, `logs/`.
    pub data_dir: PathBuf,
    /// The node's addresses, primary first.
    pub addresses: Vec<IpAddr>,
    /// Labels beside the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// What the node claims to have instead of what the machine has.
    pub capacity: Capacity,
    /// Where the kubelet API listens; `None` serves none.
    pub serving: Option<Serving>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// A container's log file is rotated when it is larger, bytes.
    pub log_max_bytes: u64,
    /// Log files kept per container.
    pub log_max_files: u32,
    /// How often the node's lease is renewed.
    pub lease_renewal: Duration,
    /// How long the node counts as alive after a renewal.
    pub lease_duration: Duration,
    /// How often an unchanged node status is repeated.
    pub status_period: Duration,
    /// How often volumes are compared with the objects that they show.
    pub volume_refresh: Duration,
}

/// What a node claims to have; `None` asks the machine.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Pods at most.
    pub pods: Option<u32>,
}

/// Most pods of a node, unless it says otherwise.
pub const PODS: u32 = 110;

/// The kubelet API's door.
#[derive(Clone)]
pub struct Serving {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0 takes a free one, which the Node object then names.
    pub port: u16,
    /// The server's certificate, which may be exchanged while it serves.
    pub certificate: Shown,
    /// Who signs the clients that may ask, PEM.
    pub client_ca: String,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("address", &self.address).field("port", &self.port).finish_non_exhaustive()
    }
}

/// The port of upstream's kubelet.
pub const KUBELET_PORT: u16 = 10250;

impl Config {
    /// The settings of a node of that name with everything else as usual.
    pub fn new(node: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: node.into(),
            data_dir: data_dir.into(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            capacity: Capacity::default(),
            serving: None,
            cluster_domain: "cluster.local".into(),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            lease_renewal: Duration::from_secs(3),
            lease_duration: Duration::from_secs(10),
            status_period: Duration::from_secs(300),
            volume_refresh: Duration::from_secs(60),
        }
    }
}
