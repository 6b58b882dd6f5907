//! The network of one node: pods' interfaces and addresses, tunnels to other nodes, services, names.
//!
//! ```text
//!  pod eth0 ── veth ── bridge orlop0 ── routing, nf_tables ──┬── orlop.vx (VXLAN) ── other nodes' pods
//!  pod eth0 ── veth ──┘      └ cluster DNS                    └── underlay ────────── everything else
//! ```
//!
//! A pod's address is a /32 and its gateway the bridge, so that every packet is routed by its node: services work the same for
//! pods of the same and of other nodes, and a pod can neither see nor take a neighbour's traffic by ARP alone.
//!
//! # Invariants
//! * The kernel is the record. After a restart the state is read back; what belongs to no attachment is swept.
//! * Packet filter and tunnels follow from the API's objects and the attachments alone; the packet filter changes in transactions.
//! * No thread of the runtime ever changes its namespace: that is what throw-away threads are for.
//! * Nothing is torn down at shutdown: connections and services outlive the agent; questions for names wait for the next one.
//!
//! # Absent
//! No program is started (`nft`, `ip`, `iptables`, CNI plugins). Nothing is written to the API. No IPv6, no NetworkPolicy, no external
//! addresses of services, and, as with upstream's nftables mode, no node ports on 127.0.0.1.

pub mod attach;
pub mod conntrack;
pub mod dataplane;
pub mod dns;
pub mod ipam;
pub mod link;
pub mod netns;
pub mod nft;
pub mod overlay;
pub mod route;
pub mod ruleset;
pub mod service;
pub mod socket;
pub mod sysctl;
pub mod underlay;

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
pub use attach::{Attachment, HostPort, PodId};
use client::{Caches, Key};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    attach::Attachments,
    dns::{Listeners, server::Responder},
    nft::Nets,
    socket::Socket,
};

/// How long the API may take to tell this node's CIDR before the one of the last run is used.
const CIDR_PATIENCE: Duration = Duration::from_secs(2);
/// The port of the name server.
pub const DNS_PORT: u16 = 53;
/// How long questions wait until services are known. After that, those about the cluster are answered with a failure, and
/// the others as always.
const NAMES_PATIENCE: Duration = Duration::from_secs(3);
/// The largest packet that is assumed where the underlay is the loopback interface, in bytes.
const LOOPBACK_MTU: u32 = 1500;

/// What a node must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of its Node object.
    pub node: String,
    /// A directory of its own, where attachments are recorded and namespaces are mounted.
    pub data_dir: PathBuf,
    /// The address by which other nodes reach it.
    pub address: Ipv4Addr,
    /// The interface that has this address; found by itself if not given.
    pub device: Option<String>,
    /// The addresses of all pods of all nodes.
    pub cluster_cidr: Ipv4Net,
    /// The addresses of services.
    pub service_cidr: Ipv4Net,
    /// The address of the cluster's name server: one of the services' that no service has.
    pub dns_address: Ipv4Addr,
    /// The cluster's domain.
    pub domain: String,
    /// Who is asked for names that are not the cluster's. See [`dns::system_resolvers`].
    pub upstream: Vec<SocketAddr>,
}

/// What goes into a pod's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
}

/// Why the node's network could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shutdown was asked for before the node had a CIDR.
    #[error("shutdown before node {0} was given a pod CIDR")]
    Shutdown(String),
    /// The CIDR of the last run could not be remembered.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Nothing here has the node's address.
    #[error("no interface has the node's address {0}")]
    Underlay(Ipv4Addr),
    /// There is no such interface.
    #[error("no interface {0}")]
    Device(String),
    /// The kernel refused an interface or a route.
    #[error("cannot set up the node's interfaces")]
    Netlink(#[from] socket::Error),
    /// The kernel refused a parameter.
    #[error("cannot set up the node's kernel parameters")]
    Sysctl(#[from] sysctl::Error),
    /// What was attached could not be read back.
    #[error("cannot read back the attachments")]
    Attachments(#[source] attach::Error),
    /// The name server's sockets cannot be used.
    #[error("cannot start the name server")]
    Dns(#[from] dns::server::Error),
    /// The forwarder could not be made.
    #[error("cannot set up forwarding to upstream resolvers")]
    Upstream(#[source] hickory_resolver::net::NetError),
    /// The set-up panicked.
    #[error("the set-up of the network did not end")]
    Task(#[from] tokio::task::JoinError),
}

/// The network of this node, running.
pub struct Netd {
    attachments: Arc<Attachments>,
    dns: Dns,
    applied: watch::Receiver<u64>,
}

/// What the set-up found and made.
struct Devices {
    bridge: u32,
    tunnel: u32,
    mtu: u32,
}

impl Netd {
    /// Brings the network up: waits for the node's pod CIDR, makes bridge and tunnel, reads attachments back, and answers DNS
    /// on `listeners`. From then on it follows the API until shutdown, which leaves everything in place. Must be called in
    /// the node's own network and mount namespace.
    pub async fn start(
        config: Config,
        listeners: Listeners,
        caches: &Caches,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        fs::create_dir_all(&config.data_dir).map_err(|source| Error::File {
            operation: "create",
            path: config.data_dir.clone(),
            source,
        })?;
        let node = pod_cidr(&config, caches, &shutdown).await?;
        let nets = Nets { cluster: config.cluster_cidr, node, services: config.service_cidr, dns: config.dns_address };
        let set_up = config.clone();
        let devices = tokio::task::spawn_blocking(move || prepare(&set_up, nets)).await??;
        let attachments = Attachments::load(&config.data_dir, node, devices.bridge, devices.mtu);
        let attachments = Arc::new(attachments.map_err(Error::Attachments)?);
        // all that can fail comes before what goes on by itself: whoever tries again finds nothing in the way
        let (filter, routes) = (Socket::netfilter()?, Socket::route()?);

        let zone = Arc::new(ArcSwapOption::empty());
        let forwarder = dns::forward::Forwarder::new(&config.upstream).map_err(Error::Upstream)?;
        let records = attachments.records();
        let namespaces = move |address| {
            let IpAddr::V4(address) = address else { return None };
            let records = records.borrow();
            records.values().find(|record| record.address == address).map(|record| record.pod.namespace.clone())
        };
        let responder = Responder::new(listeners, &config.domain, Arc::clone(&zone), forwarder, Box::new(namespaces))?;
        let (applied, generation) = watch::channel(0);
        tokio::spawn(answer(responder, generation.clone(), shutdown.clone()));
        let outputs = dataplane::Outputs { socket: filter, zone, applied };
        let names = dns::Zone::new(&config.domain, nets.cluster, nets.services, nets.dns);
        let (caches, name) = (caches.clone(), config.node.clone());
        let records = attachments.records();
        tokio::spawn(dataplane::services(
            caches.clone(),
            name.clone(),
            nets,
            names,
            records,
            outputs,
            shutdown.clone(),
        ));
        tokio::spawn(dataplane::tunnels(caches, name, nets, routes, devices.tunnel, shutdown));
        let dns = Dns { servers: vec![config.dns_address.into()], domain: config.domain };
        Ok(Arc::new(Self { attachments, dns, applied: generation }))
    }

    /// Gives the pod a namespace, an address and its routes. Idempotent: the same uid gets what it has, also after a
    /// restart. When it fails, nothing is left behind.
    pub async fn attach(&self, pod: &PodId, host_ports: &[HostPort]) -> Result<Attachment, attach::Error> {
        self.attachments.attach(pod, host_ports).await
    }

    /// Takes it all back. Idempotent; goes on after a failed step and reports the first.
    pub async fn detach(&self, uid: &str) -> Result<(), attach::Error> {
        self.attachments.detach(uid).await
    }

    /// Detaches whatever belongs to no pod in `live`: called once after a restart, when the pods are known.
    pub async fn retain(&self, live: &HashSet<String>) -> Result<(), attach::Error> {
        self.attachments.retain(live).await
    }

    /// Name server and domain for pods with `dnsPolicy: ClusterFirst`.
    pub fn dns(&self) -> Dns {
        self.dns.clone()
    }

    /// Counts the states of services and attachments that the kernel has taken. Zero: not one yet.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }
}

/// Answers questions for names as soon as services are known. Until then they wait in the sockets: after a restart of the
/// agent, what was asked meanwhile is answered then.
async fn answer(responder: Responder, mut applied: watch::Receiver<u64>, shutdown: CancellationToken) {
    let answered = async {
        // either way it is time: known or not
        drop(tokio::time::timeout(NAMES_PATIENCE, applied.wait_for(|generation| *generation > 0)).await);
        responder.run().await
    };
    tokio::select! {
        ended = answered => tracing::error!(?ended, "the name server ended"),
        () = shutdown.cancelled() => {}
    }
}

/// This node's pod CIDR: from the API, or from the last run if the API does not answer.
async fn pod_cidr(config: &Config, caches: &Caches, shutdown: &CancellationToken) -> Result<Ipv4Net, Error> {
    let path = config.data_dir.join("pod-cidr");
    let remembered = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<Ipv4Net>().ok());
    let reader = caches.reader::<Node>();
    let mut changes = reader.subscribe();
    let key = Key::new("", config.node.clone());
    let told = async {
        loop {
            if let Some(cidr) = reader.get(&key).and_then(|node| overlay::pod_cidr(&node)) {
                return cidr;
            }
            changes.recv().await;
        }
    };
    let patience = async {
        tokio::time::sleep(CIDR_PATIENCE).await;
        match remembered {
            Some(cidr) => cidr,
            None => std::future::pending().await,
        }
    };
    let cidr = tokio::select! {
        cidr = told => cidr,
        cidr = patience => {
            tracing::warn!(%cidr, "the API does not tell this node's pod CIDR; the one of the last run is used");
            cidr
        }
        () = shutdown.cancelled() => return Err(Error::Shutdown(config.node.clone())),
    };
    fs::write(&path, cidr.to_string()).map_err(|source| Error::File { operation: "write", path, source })?;
    Ok(cidr)
}

/// Makes bridge, tunnel and routes, or brings existing ones into the wanted state.
fn prepare(config: &Config, nets: Nets) -> Result<Devices, Error> {
    let socket = Socket::route()?;
    let underlay = match &config.device {
        Some(name) => link::find(&socket, name)?.ok_or_else(|| Error::Device(name.clone()))?,
        None => {
            let index = route::device_of(&socket, config.address)?.ok_or(Error::Underlay(config.address))?;
            let mut links = link::list(&socket)?.into_iter();
            links.find(|link| link.index == index).ok_or(Error::Underlay(config.address))?
        }
    };
    let mtu = if underlay.name == "lo" { LOOPBACK_MTU } else { underlay.mtu } - link::VXLAN_OVERHEAD;
    let gateway = ipam::gateway(nets.node);
    let base = nets.node.network();
    let bridge = link::ensure_bridge(&socket, link::mac_of(gateway), mtu)?;
    let tunnel = link::ensure_vxlan(&socket, config.address, underlay.index, link::tunnel_mac(base), mtu)?;
    let address = Ipv4Net::new_assert(gateway, nets.node.prefix_len());
    let wanted = [(bridge, address), (bridge, nets.dns.into()), (tunnel, base.into())];
    let mut requests = Vec::new();
    for device in [bridge, tunnel] {
        // of an earlier CIDR
        let have = route::addresses(&socket, device)?;
        let stale = have.into_iter().filter(|address| !wanted.contains(&(device, *address)));
        requests.extend(stale.map(|address| route::delete_address(device, address)));
    }
    requests.extend(wanted.map(|(device, address)| route::add_address(device, address)));
    // so that the node itself finds a way, and a source address, before its packets are redirected
    requests.push(route::add_direct(bridge, nets.services, Some(gateway)));
    socket.apply(requests)?;
    sysctl::prepare_node(link::BRIDGE, link::VXLAN)?;
    Ok(Devices { bridge, tunnel, mtu })
}
