//! What the agent needs of the node's network. `netd` keeps this contract; the wiring hands it in.

use std::{collections::HashSet, net::IpAddr, path::PathBuf};

use tokio::sync::watch;

/// The pod that is to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: names the attachment.
    pub uid: String,
}

/// A container's port that is published on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address on the node; unspecified for all.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// A file that is the pod's network namespace (a bind mount of nsfs).
    pub netns: PathBuf,
    /// The pod's addresses, primary first.
    pub addresses: Vec<IpAddr>,
}

/// Why the network could not do it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} pod {pod}")]
pub struct Error {
    /// `attach` or `detach`.
    pub operation: &'static str,
    /// `namespace/name`, or the uid.
    pub pod: String,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// How far the node's network is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It is being brought up. What an earlier agent left in the kernel works meanwhile.
    #[default]
    Starting,
    /// Pods can be connected.
    Up,
    /// It could not be brought up, and is tried again: why.
    Failed(String),
}

/// The node's network.
#[async_trait::async_trait]
pub trait Network: Send + Sync + 'static {
    /// How far it is, and what becomes of it.
    fn state(&self) -> watch::Receiver<State>;

    /// Gives the pod a namespace, an address and its routes. Idempotent: the same uid gets what it has, also after a
    /// restart. When it fails, nothing is left behind.
    async fn attach(&self, pod: &PodId, host_ports: &[HostPort]) -> Result<Attachment, Error>;

    /// Takes it all back. Idempotent; goes on after a failed step and reports the first.
    async fn detach(&self, uid: &str) -> Result<(), Error>;

    /// Detaches whatever belongs to no pod in `live`: called once after a restart, when the pods are known.
    async fn retain(&self, live: &HashSet<String>) -> Result<(), Error>;

    /// Name servers and search domains for `resolv.conf` of pods with `dnsPolicy: ClusterFirst`.
    fn dns(&self) -> Dns;
}

/// What goes into a pod's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
}
