//! Makes the cluster's NodePorts answer on this machine's loopback: what a load balancer in front of the nodes would do.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use client::{Caches, Change};
use k8s_openapi::api::core::v1::Service;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};

use super::{cluster::Node, host::Host};

/// The nodes, and whose turn it is.
pub struct Backends {
    nodes: Vec<(Arc<Host>, Ipv4Addr)>,
    next: AtomicUsize,
}

impl Backends {
    /// All these nodes in turn.
    pub fn new(nodes: &[Node]) -> Arc<Self> {
        let nodes = nodes.iter().map(|n| (n.shared_host(), n.address)).collect();
        Arc::new(Self { nodes, next: AtomicUsize::new(0) })
    }

    /// A connection to the port, made on the next node that accepts it.
    async fn connect(&self, port: u16) -> Result<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut failed = None;
        for turn in 0..self.nodes.len() {
            let (host, address) = &self.nodes[(first + turn) % self.nodes.len()];
            match connect_on(host, SocketAddrV4::new(*address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("the cluster has no node")))
    }
}

/// Opens a socket in the host's network and connects it from here.
async fn connect_on(host: &Host, to: SocketAddrV4) -> Result<TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = move || socket(AddressFamily::Inet, SockType::Stream, flags, None);
    let fd = host.run(open)?.with_context(|| format!("open a socket on {}", host.name()))?;
    let socket = TcpSocket::from_std_stream(StdStream::from(fd));
    socket.connect(to.into()).await.with_context(|| format!("connect to {to} on {}", host.name()))
}

/// Follows the Services and keeps one listener per NodePort until dropped.
pub async fn run(caches: Caches, backends: Arc<Backends>) {
    let mut changes = caches.reader::<Service>().subscribe();
    let mut listeners: BTreeMap<u16, JoinHandle<()>> = BTreeMap::new();
    let mut wanted: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    while let Some(change) = changes.recv().await {
        let service = change.object();
        let key = client::Key::of(service.as_ref()).to_string();
        match &change {
            Change::Applied { new, .. } => wanted.insert(key, node_ports(new)),
            Change::Deleted(_) => wanted.remove(&key),
        };
        let ports: Vec<u16> = wanted.values().flatten().copied().collect();
        listeners.retain(|port, task| {
            ports.contains(port) || {
                task.abort();
                false
            }
        });
        for port in ports {
            listeners.entry(port).or_insert_with(|| tokio::spawn(listen(port, Arc::clone(&backends))));
        }
    }
}

/// The TCP ports that a Service opens on every node.
pub fn node_ports(service: &Service) -> Vec<u16> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let tcp = ports.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|p| p.node_port.and_then(|n| u16::try_from(n).ok())).collect()
}

async fn listen(port: u16, backends: Arc<Backends>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("node port {port} is not reachable from this machine: {error}"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(carry(stream, port, Arc::clone(&backends)))),
            Err(error) => tracing::debug!(port, %error, "a connection was not accepted"),
        }
    }
}

async fn carry(mut near: TcpStream, port: u16, backends: Arc<Backends>) {
    let copied = async {
        let mut far = backends.connect(port).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await.context("carry a connection")
    };
    if let Err(error) = copied.await {
        tracing::debug!(port, "{error:#}");
    }
}
