//! `orlop agent`: runs the pods of this machine. One process with the node's network; the containers belong to a
//! supervisor process that outlives it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use client::{
    Caches, Credentials,
    config::Link,
    join::{self, Identity},
    servers::Servers,
    shown::Shown,
};
use netd::Netd;
use nodeagent::{
    config::{Capacity, Config, Serving},
    runtime::builtin::{self, Builtin},
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::Agent,
    cluster,
    wiring::{
        identity::Keeper,
        names,
        network::{LateNetwork, Starter},
    },
};

/// Where this host says who resolves names for it.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the node's credentials are, below its folder.
const PKI: &str = "pki";
/// How long until a network that did not start is tried again.
const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or Ctrl-C. Containers go on.
pub async fn run(args: Agent) -> Result<()> {
    let node = node_name(&args)?;
    let address = node_address(&args)?;
    let identity = identity(&args, &node, address).await?;
    let (link, asking) = connect(&args, &identity)?;
    let caches = Caches::new(link.client);
    let serving =
        Shown::new(&identity.serving.certificate, &identity.serving.key).context("use the node's certificate")?;
    keep_identity(&args, (&node, address), &identity, &caches, link.servers, (asking, serving.clone()));
    let shutdown = super::server::until_terminated()?;
    let images = image::Store::open(image_dir(&args)).context("open the image store")?;
    let runtime = builtin::Config::new(args.data_dir.join("runtime"), format!("/{}", args.cgroup_root));
    let runtime = Builtin::connect(runtime).await.context("start the supervisor")?;
    let (network, starter) = LateNetwork::new(cluster::DNS.into(), cluster::DOMAIN);
    let start =
        Start { config: network_config(&args, &node, address)?, caches: caches.clone(), runtime: runtime.clone() };
    tokio::spawn(start.run(starter, shutdown.clone()));
    let config = config(&args, node, address, serving, &identity)?;
    let pull = image::PullOptions { insecure: args.insecure_registries.clone(), ..image::PullOptions::default() };
    let images = nodeagent::images::store::Store::new(images, pull);
    nodeagent::run(config, caches, Arc::new(runtime), Arc::new(network), Arc::new(images), shutdown)
        .await
        .context("run the node")
}

/// What netd is started with.
struct Start {
    config: netd::Config,
    caches: Caches,
    runtime: Builtin,
}

impl Start {
    /// Starts netd, as often as it takes; tells when it has. Pods that are to be connected wait for it.
    async fn run(self, starter: Starter, shutdown: CancellationToken) {
        loop {
            match self.once(&shutdown).await {
                Ok(Some(netd)) => {
                    starter.up(netd);
                    // whoever waits for the network learns of its end by the starter's
                    return shutdown.cancelled().await;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("the node's network does not start, it is tried again: {error:#}");
                    starter.failed(format!("{error:#}"));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(NETWORK_RETRY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// None at shutdown.
    async fn once(&self, shutdown: &CancellationToken) -> Result<Option<Arc<Netd>>> {
        let listeners = names::listeners(&self.runtime).await.context("open the name server's sockets")?;
        match Netd::start(self.config.clone(), listeners, &self.caches, shutdown.clone()).await {
            Ok(netd) => Ok(Some(netd)),
            Err(netd::Error::Shutdown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn node_name(args: &Agent) -> Result<String> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    let wrong = api::names::dns_subdomain(&name);
    match wrong.first() {
        Some(why) => bail!("{name:?} cannot be a node's name: {why}; choose one with --node-name"),
        None => Ok(name),
    }
}

/// The address that a packet to the server would leave from.
fn node_address(args: &Agent) -> Result<Ipv4Addr> {
    let address = match args.node_ip {
        Some(address) => address,
        None => {
            let url = args.server.first().context("--server names no server")?;
            let server: http::Uri = url.parse().with_context(|| format!("read --server {url}"))?;
            let host = server.host().with_context(|| format!("--server {url} names no host"))?;
            let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
            socket
                .connect((host, server.port_u16().unwrap_or(443)))
                .with_context(|| format!("find the way to {host}"))?;
            socket.local_addr().context("read the node's address")?.ip()
        }
    };
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("the node's address {address} is not IPv4: name another with --node-ip"),
    }
}

/// What the node holds from an earlier join, or joins now.
async fn identity(args: &Agent, node: &str, address: Ipv4Addr) -> Result<Identity> {
    let folder = args.data_dir.join(PKI);
    let known = join::load(&folder).context("read the node's credentials")?;
    let has_ended = |identity: &Identity| {
        let now = jiff::Timestamp::now().as_second();
        join::validity(&identity.credentials.certificate).is_none_or(|validity| validity.has_ended(now))
    };
    let why = match known {
        Some(identity) if !has_ended(&identity) => return Ok(identity),
        Some(_) => "this node's certificate has run out while it was off",
        None => "this node has not joined yet",
    };
    let Some(token) = &args.token else {
        bail!("{why}: give --token, which `orlop server` writes to <data-dir>/token");
    };
    let identity = join::join(&args.server, token, node, &[address.into()])
        .await
        .with_context(|| format!("join the cluster at {}", args.server.join(", ")))?;
    join::store(&folder, &identity).context("keep the node's credentials")?;
    Ok(identity)
}

/// Connects to the servers that the command line names; behind them are those that the cluster told of before.
fn connect(args: &Agent, identity: &Identity) -> Result<(Link, Shown)> {
    let credentials = Credentials { servers: args.server.clone(), ..identity.credentials.clone() };
    let (link, shown) = client::config::connect(&credentials).context("connect to the API server")?;
    link.servers.tell(&identity.credentials.servers);
    Ok((link, shown))
}

/// Follows the cluster's servers, and keeps the certificates good that the node asks and serves with.
fn keep_identity(
    args: &Agent,
    (node, address): (&str, Ipv4Addr),
    identity: &Identity,
    caches: &Caches,
    servers: Servers,
    (asking, serving): (Shown, Shown),
) {
    let keeper = Arc::new(Keeper::new(args.data_dir.join(PKI), identity.clone()));
    let (keeping, caches, node) = (Arc::clone(&keeper), caches.clone(), node.to_owned());
    let client = caches.client().clone();
    tokio::spawn(async move { client::servers::follow(&caches, &servers, |servers| keeping.remember(servers)).await });
    tokio::spawn(async move { keeper.renew(&client, &node, &[address.into()], &asking, &serving).await });
}

fn image_dir(args: &Agent) -> PathBuf {
    args.image_dir.clone().unwrap_or_else(|| args.data_dir.join("images"))
}

fn network_config(args: &Agent, node: &str, address: Ipv4Addr) -> Result<netd::Config> {
    let upstream = if args.upstream_dns.is_empty() {
        netd::dns::system_resolvers(Path::new(RESOLV_CONF), cluster::DNS.into())
    } else {
        args.upstream_dns.iter().map(|text| resolver(text)).collect::<Result<_>>()?
    };
    Ok(netd::Config {
        node: node.to_owned(),
        data_dir: args.data_dir.join("network"),
        address,
        device: None,
        cluster_cidr: cluster::pods(),
        service_cidr: cluster::services(),
        dns_address: cluster::DNS,
        domain: cluster::DOMAIN.into(),
        upstream,
    })
}

fn resolver(text: &str) -> Result<SocketAddr> {
    const PORT: u16 = 53;
    let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, PORT).into()));
    address.with_context(|| format!("--upstream-dns {text:?} is not IP or IP:PORT"))
}

fn config(args: &Agent, node: String, address: Ipv4Addr, certificate: Shown, identity: &Identity) -> Result<Config> {
    let labels = args.labels.iter().map(|label| {
        let (key, value) = label.split_once('=').with_context(|| format!("--node-label {label:?} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let labels = labels.collect::<Result<BTreeMap<_, _>>>()?;
    let serving =
        Serving { address: address.into(), port: args.port, certificate, client_ca: identity.credentials.ca.clone() };
    Ok(Config {
        addresses: vec![address.into()],
        labels,
        capacity: Capacity { pods: Some(args.max_pods), ..Capacity::default() },
        serving: Some(serving),
        cluster_domain: cluster::DOMAIN.into(),
        ..Config::new(node, args.data_dir.clone())
    })
}
