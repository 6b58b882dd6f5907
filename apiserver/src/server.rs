//! The server: opened once on a data directory and a store, then served on listeners and called in this process.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use store::{Backend, Membership};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    allocate,
    authz::Authz,
    backup::schedule::{self, Schedule},
    bootstrap,
    cache::Cache,
    clock,
    connect::{self, Nodes},
    discovery::Discovery,
    expiry::Expiry,
    kubeconfig, listen,
    parts::Parts,
    pki::{self, Pki},
    presence,
    registry::Registry,
    service::Local,
    services::Allocation,
    strategies,
    token::{self, Tokens},
    user::User,
};

/// Between two compactions of a store that does not forget by itself.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

/// Names that the serving certificate always has.
const NAMES: [&str; 6] = [
    "localhost",
    "127.0.0.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// What a server is given.
pub struct Config {
    /// Where `pki/` and `kubeconfig` lie.
    pub data_dir: PathBuf,
    /// The store.
    pub store: Arc<dyn Backend>,
    /// The store's members, when it is the embedded one: other servers may join.
    pub members: Option<Arc<dyn Membership>>,
    /// How long what was superseded can still be read, in a store that forgets nothing by itself (etcd). None for the
    /// embedded one, which keeps its own window.
    pub history: Option<Duration>,
    /// Where this server can be reached from nodes and pods, at one port: its endpoints of Service `default/kubernetes`.
    pub advertise: Vec<SocketAddr>,
    /// Further names and addresses for the serving certificate.
    pub names: Vec<String>,
    /// How long nodes' certificates hold; nodes renew them by themselves.
    pub signing_duration: Duration,
    /// The server's address in the kubeconfig, `https://127.0.0.1:6443`.
    pub url: String,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys and certificates.
    #[error("cannot prepare the cluster's keys")]
    Pki(#[from] pki::Error),
    /// Tokens.
    #[error("cannot prepare the signing of tokens")]
    Tokens(#[from] token::Error),
    /// TLS for clients.
    #[error("cannot prepare the listener")]
    Listen(#[from] listen::Error),
    /// TLS towards nodes.
    #[error("cannot prepare connections to nodes")]
    Connect(#[from] connect::Error),
}

/// An API server.
pub struct Server {
    parts: Arc<Parts>,
    tls: tokio_rustls::TlsAcceptor,
    advertise: Vec<SocketAddr>,
    history: Option<Duration>,
    kubeconfig: kubeconfig::File,
}

impl Server {
    /// Prepares everything: makes keys, certificates and the kubeconfig on the first start. Nothing is read from the store
    /// before [`Server::serve`].
    ///
    /// # Errors
    /// When the data directory cannot be written, or what it holds is no key.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut names: Vec<_> = NAMES.iter().map(|n| (*n).to_owned()).collect();
        names.push(allocate::KUBERNETES.to_string());
        names.extend(config.advertise.iter().map(|a| a.ip().to_string()));
        names.extend(config.names);
        names.sort();
        names.dedup();
        let pki = Pki::open(&config.data_dir.join("pki"), &names, config.signing_duration)?;
        let kubeconfig = kubeconfig::File::create(config.data_dir.join("kubeconfig"), &pki, config.url)?;
        let mut registry = Registry::default();
        strategies::register(&mut registry);
        let parts = Parts {
            cache: Cache::new(&registry, Arc::clone(&config.store)),
            authz: Authz::default(),
            tokens: Arc::new(Tokens::new(&pki)?),
            discovery: Arc::new(Discovery::new(&registry)),
            nodes: Arc::new(Nodes::new(&pki)?),
            expiry: Arc::new(Expiry::default()),
            bootstrapped: AtomicBool::default(),
            backups: Arc::default(),
            allocation: Allocation::default(),
            backend: config.store,
            members: config.members,
            registry,
            pki: Arc::new(pki),
        };
        let tls = listen::tls(&parts.pki)?;
        let (advertise, history) = (config.advertise, config.history);
        Ok(Self { parts: Arc::new(parts), tls, advertise, history, kubeconfig })
    }

    /// What a node must know to join: `orlop1.<hash>.<secret>`.
    pub fn join_token(&self) -> String {
        self.parts.pki.join_token()
    }

    /// What another server must know to join, and to be handed every key of the cluster.
    pub fn server_token(&self) -> String {
        self.parts.pki.server_token()
    }

    /// The API as a service of this process; every request comes from this user.
    pub fn local(&self, user: User) -> Local {
        Local::new(Arc::clone(&self.parts), Some(Arc::new(user)))
    }

    /// Makes backups when they are due, until the shutdown; while it [serves](Self::serve).
    pub async fn back_up(&self, schedule: Schedule, shutdown: CancellationToken) {
        schedule::run(Arc::clone(&self.parts), schedule, shutdown).await;
    }

    /// Serves on these listeners (may be none) until the shutdown; then open requests are given a few seconds to end.
    pub async fn serve(&self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let parts = &self.parts;
        let ended = shutdown.child_token();
        tokio::join!(
            parts.cache.run(ended.clone()),
            clock::run(Arc::clone(&parts.backend), parts.cache.progress(), ended.clone()),
            compact(Arc::clone(&parts.backend), self.history, ended.clone()),
            bootstrap::run(Arc::clone(parts), self.advertise.clone(), ended.clone()),
            presence::run(Arc::clone(parts), &self.advertise, &self.kubeconfig, ended.clone()),
            listen::serve(Arc::clone(parts), self.tls.clone(), listeners, ended),
        );
    }
}

/// Forgets what was superseded longer ago than `history`, every minute. Several servers may: what one has done, the others
/// find done.
async fn compact(backend: Arc<dyn Backend>, history: Option<Duration>, shutdown: CancellationToken) {
    let Some(history) = history else { return };
    while shutdown.run_until_cancelled(tokio::time::sleep(COMPACT_EVERY)).await.is_some() {
        let mark = match clock::before(&*backend, jiff::Timestamp::now() - history).await {
            Ok(Some(mark)) => mark,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot ask the store how old its history is");
                continue;
            }
        };
        if let Err(error) = backend.compact(mark.revision).await {
            tracing::debug!(%error, revision = mark.revision, "store was not compacted");
        }
    }
}
