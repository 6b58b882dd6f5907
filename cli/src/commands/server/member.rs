//! The store of a server, as a member among those of the other servers.
//!
//! Every server listens to others from its first start, so that a cluster of one grows without a restart. One that joins is
//! added as a learner, is sent everything, and gets its vote when it has caught up.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use apiserver::{
    members::KEYS,
    pki::{self, store::StorePki},
};
use store::{
    Embedded, Member, Membership,
    embedded::cluster::{Cluster, Start},
    grpc,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::args::Server;

/// The ports that etcd has.
const ETCD_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// Between two looks whether a member that joined has caught up.
const PROMOTE_EVERY: Duration = Duration::from_millis(250);

/// An open store, and how it is reached.
pub struct Opened {
    /// The store.
    pub store: Arc<Embedded>,
    pki: Arc<StorePki>,
    etcd: TcpListener,
    etcd_url: String,
    names: Vec<String>,
}

/// Opens the server's store; joins a cluster first, where the command line says so and the folder belongs to none.
pub async fn open(args: &Server, advertise: SocketAddr) -> Result<Opened> {
    let listen = |asked: Option<SocketAddr>, port: u16, what: &'static str, flag: &'static str| {
        let address = asked.unwrap_or(SocketAddr::new(args.bind.ip(), port));
        let taken =
            format!("listen on {address} for {what} (is another server or etcd running? {flag} chooses another)");
        StdListener::bind(address).context(taken)
    };
    let peers = listen(args.peer_bind, PEER_PORT, "other servers", "--peer-bind")?;
    let etcd = listen(args.etcd_bind, ETCD_PORT, "etcd's clients", "--etcd-bind")?;
    etcd.set_nonblocking(true).context("use the socket for etcd's clients")?;
    let url = |listener: &StdListener| -> Result<String> {
        let port = listener.local_addr().context("ask a socket for its port")?.port();
        Ok(format!("https://{}", SocketAddr::new(advertise.ip(), port)))
    };
    let (peer_url, etcd_url) = (url(&peers)?, url(&etcd)?);
    let dir = args.data_dir.join("store");
    let start = match args.join.is_empty() || Embedded::is_in(&dir).context("look for a store")? {
        // what is in the folder goes on as whoever it is
        true => Start::Found,
        false => join(args, &peer_url).await?,
    };
    let pki = Arc::new(StorePki::open(&args.data_dir.join("pki")).context("prepare the store's keys")?);
    let certificates = Arc::clone(&pki);
    let cluster = Cluster {
        name: args.server_name.clone().map_or_else(host_name, Ok)?,
        listener: peers,
        peer_urls: vec![peer_url],
        client_urls: vec![etcd_url.clone()],
        tls: Arc::new(move || certificates.member().map_err(std::io::Error::other)),
        start,
    };
    let mut options = store::Options::default();
    options.window.bytes = args.history_size;
    options.window.age = args.history.unwrap_or(options.window.age);
    let (handle, opening) = (tokio::runtime::Handle::current(), dir.clone());
    // reading back the log blocks
    let opened = tokio::task::spawn_blocking(move || {
        let _runtime = handle.enter();
        Embedded::open_member(&opening, options, cluster)
    });
    let opened = opened.await.context("open the store")?;
    let store = Arc::new(opened.with_context(|| format!("open the store in {}", dir.display()))?);
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).into_iter();
    let names = names.chain([advertise.ip().to_string()]).chain(args.tls_sans.iter().cloned()).collect();
    let etcd = TcpListener::from_std(etcd).context("use the socket for etcd's clients")?;
    Ok(Opened { store, pki, etcd, etcd_url, names })
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("ask for the host's name")?;
    Ok(name.to_string_lossy().into_owned())
}

/// Asks the servers to be taken in: stores the cluster's keys and returns how the store is to start.
async fn join(args: &Server, peer_url: &str) -> Result<Start> {
    let token = args.token.as_deref().context("--join needs --token: the others keep it in <data-dir>/server-token")?;
    let enlisted = client::join::join_server(&args.join, token, &[peer_url.to_owned()]).await;
    let enlisted = enlisted.with_context(|| format!("join the servers at {}", args.join.join(", ")))?;
    let dir = args.data_dir.join("pki");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for name in KEYS {
        let Some(text) = enlisted.keys.get(name) else { bail!("the servers did not hand over {name}") };
        store_key(&dir.join(name), text)?;
    }
    let id = |text: &str| u64::from_str_radix(text, 16).with_context(|| format!("understand the id {text:?}"));
    let members = enlisted.members.into_iter().map(|peer| {
        Ok(Member {
            id: id(&peer.id)?,
            name: peer.name,
            peer_urls: peer.peer_urls,
            client_urls: peer.client_urls,
            learner: peer.learner,
        })
    });
    Ok(Start::Join {
        cluster: id(&enlisted.cluster)?,
        member: id(&enlisted.member)?,
        members: members.collect::<Result<_>>()?,
    })
}

fn store_key(path: &Path, text: &str) -> Result<()> {
    pki::write(path, text).with_context(|| format!("store {}", path.display()))
}

impl Opened {
    /// Serves etcd's API, and sees to this member's vote, until the shutdown. A member that takes part no longer (it was
    /// removed, or its disk failed) begins the shutdown itself, by `fatal`.
    pub fn start(self, data_dir: &Path, fatal: &Fatal, shutdown: &CancellationToken) -> Result<Vec<JoinHandle<()>>> {
        self.pki.write_client(data_dir, &self.etcd_url).context("write etcd.env")?;
        let tls = grpc::Tls {
            certificate: self.pki.serving(self.names).context("make the certificate of etcd's API")?,
            clients: Arc::new(self.pki.clients()),
        };
        let api = grpc::Server::new(Arc::clone(&self.store) as _, Arc::clone(&self.store) as _);
        let (etcd, stop) = (self.etcd, shutdown.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = api.serve(etcd, tls, stop.cancelled_owned()).await {
                tracing::error!("etcd's API ended: {:#}", anyhow::Error::from(error));
            }
        });
        let mut tasks = vec![serving, tokio::spawn(promote(Arc::clone(&self.store), shutdown.clone()))];
        let (store, fatal, stop) = (self.store, fatal.clone(), shutdown.clone());
        let dir = data_dir.join("store").display().to_string();
        tasks.push(tokio::spawn(async move {
            if let Some(why) = stop.run_until_cancelled(store.ended()).await
                && !stop.is_cancelled()
            {
                fatal.end(format!("the store in {dir} takes part no longer: {why}"));
                stop.cancel();
            }
        }));
        Ok(tasks)
    }
}

/// Asks for a vote until there is one: it is refused as long as this member has not caught up.
async fn promote(store: Arc<Embedded>, shutdown: CancellationToken) {
    let own = store.standing().member;
    let mut again = tokio::time::interval(PROMOTE_EVERY);
    while shutdown.run_until_cancelled(again.tick()).await.is_some() {
        // as this member knows; one that has just joined knows nobody yet
        if store.members(false).await.is_ok_and(|all| all.iter().any(|member| member.id == own && !member.learner)) {
            return;
        }
        match store.promote_member(own).await {
            Ok(()) => {
                tracing::info!(member = format!("{own:x}"), "caught up, and has a vote");
                return;
            }
            Err(error) => tracing::debug!(%error, "no vote yet"),
        }
    }
}

/// Why the server ends by itself, if it does.
#[derive(Clone, Default)]
pub struct Fatal(Arc<parking_lot::Mutex<Option<String>>>);

impl Fatal {
    fn end(&self, why: String) {
        *self.0.lock() = Some(why);
    }

    /// An error, if there is a reason.
    pub fn result(&self) -> Result<()> {
        match self.0.lock().take() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}
