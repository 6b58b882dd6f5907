//! The store in an etcd cluster, through `etcd-client`.
//!
//! Requests go to any member that can be reached. When one goes away, reads are tried with another; writes too where it is certain
//! that the one did not get them, else they end in [`Error::Uncertain`]. A watch ends with its member, and is to be opened again.
//!
//! # Caveats
//! * Watches tell progress with their events and every ten minutes. On request only where all members do that right: etcd before
//!   3.4.25 and 3.5.8 answers out of step with the events (etcd issue 15220), so there [`Backend::request_progress`] is
//!   refused.
//! * A watch from exactly the compacted revision may miss that revision's deletes (etcd issue 19179): start one later.
//! * [`Status::compacted`] is the newest compaction that this client knows of.
//! * An alarm of etcd's (its quota is used up, its members differ) is [`Error::Unavailable`], which says what to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, LeaseGrantOptions,
    LeaseTimeToLiveOptions, MaintenanceClient, TlsOptions, WatchClient, WatchOptions,
};
use futures::{StreamExt, stream};

use crate::backend::{Backend, Error, WatchStream};
use crate::image::ImageStream;
use crate::kv::{
    KvHash, LeaseId, LeaseInfo, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchBatch, WatchFrom,
};
use crate::mvcc::limits;

mod fault;
mod image;
mod translate;
mod version;
mod watch;

use fault::{reading, writing};
use version::Version;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may take to be made. Another member is tried then.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How often a silent connection is asked whether it is alive, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// Largest reply, bytes; what etcd's own client takes.
const MAX_REPLY: usize = (1 << 31) - 1;

/// How to speak TLS with etcd; all PEM.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Who signed the servers' certificates.
    pub ca: Vec<u8>,
    /// Our certificate.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// The store in an etcd cluster. See the module.
pub struct Etcd {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    maintenance: MaintenanceClient,
    compacted: Arc<AtomicU64>,
    /// Raised to have every watch ask how far it is.
    progress: tokio::sync::watch::Sender<u64>,
    /// The oldest version among the members that could be asked.
    version: Option<Version>,
}

impl Etcd {
    /// Connects to a cluster by its client URLs, and makes sure that it answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not.
    pub async fn connect(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, Error> {
        let options = options(tls);
        let client = reading("connect to etcd", || Client::connect(endpoints, Some(options.clone()))).await?;
        let etcd = Self {
            kv: client.kv_client().max_decoding_message_size(MAX_REPLY),
            watch: client.watch_client().max_decoding_message_size(MAX_REPLY),
            lease: client.lease_client(),
            maintenance: client.maintenance_client(),
            compacted: Arc::default(),
            progress: tokio::sync::watch::Sender::new(0),
            version: version::oldest(endpoints, &options).await,
        };
        etcd.revision().await?;
        Ok(etcd)
    }

    /// The newest revision, linearizable.
    async fn revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only();
        let read = || {
            let (mut kv, options) = (self.kv.clone(), options.clone());
            async move { kv.get("\0", Some(options)).await }
        };
        Ok(translate::revision(reading("read the revision", read).await?.header()))
    }

    /// Fills in what etcd's error did not say.
    async fn explain(&self, error: Error, asked: Revision) -> Error {
        match error {
            Error::Future { .. } => match self.revision().await {
                Ok(newest) => Error::Future { asked, newest },
                Err(error) => error,
            },
            Error::Compacted { .. } => match self.compacted_after(asked).await {
                Ok(oldest) => Error::Compacted { asked, oldest },
                Err(error) => error,
            },
            other => other,
        }
    }

    /// The compaction that took a revision away: only a watch from before it is told.
    async fn compacted_after(&self, gone: Revision) -> Result<Revision, Error> {
        let before = translate::signed(gone.saturating_sub(1).max(1));
        let options = WatchOptions::new().with_start_revision(before);
        let open = || {
            let (mut client, options) = (self.watch.clone(), options.clone());
            async move { client.watch("\0", Some(options)).await }
        };
        let mut stream = reading("ask for the compacted revision", open).await?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Ok(Ok(reply)) = tokio::time::timeout_at(end, stream.message()).await else {
                return Ok(self.compacted.load(Ordering::Relaxed));
            };
            match reply {
                Some(reply) if reply.compact_revision() > 0 => {
                    let compacted = translate::unsigned(reply.compact_revision());
                    self.compacted.fetch_max(compacted, Ordering::Relaxed);
                    return Ok(compacted);
                }
                Some(reply) if !reply.canceled() => {}
                Some(_) | None => return Ok(self.compacted.load(Ordering::Relaxed)),
            }
        }
    }
}

/// How to connect.
fn options(tls: Option<EtcdTls>) -> ConnectOptions {
    let options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_WITHIN)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let Some(tls) = tls else { return options };
    let identity = Identity::from_pem(tls.cert, tls.key);
    options.with_tls(TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca)).identity(identity))
}

/// Names the lease that etcd did not.
fn about(lease: LeaseId) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::LeaseNotFound(_) => Error::LeaseNotFound(lease),
        Error::LeaseExists(_) => Error::LeaseExists(lease),
        other => other,
    }
}

#[async_trait::async_trait]
impl Backend for Etcd {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        let read = || {
            let (mut kv, (key, options)) = (self.kv.clone(), translate::get(&range));
            async move { kv.get(key, Some(options)).await }
        };
        match reading("read a range", read).await {
            Ok(reply) => Ok(translate::range_reply(reply, range.count_all)),
            Err(error) => Err(self.explain(error, range.revision).await),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        limits::check(&txn)?;
        let send = || {
            let (mut kv, txn) = (self.kv.clone(), translate::txn(&txn));
            async move { kv.txn(txn).await }
        };
        match writing("a transaction", send).await {
            Ok(reply) => translate::txn_reply(&txn, &reply, translate::revision(reply.header())),
            Err(Error::LeaseNotFound(_)) => Err(Error::LeaseNotFound(translate::lease_named(&txn))),
            Err(error) => Err(self.explain(error, translate::asked_revision(&txn)).await),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        let progress = self.progress.subscribe();
        // What is now is for all members to say: one that lags would tell what happened before as news.
        let (asked, reached) = match from {
            WatchFrom::Now => {
                let newest = self.revision().await?;
                (newest + 1, Some(newest))
            }
            WatchFrom::Revision(revision) => (revision.max(1), None),
        };
        let opened = watch::open(self.watch.clone(), self.compacted.clone(), progress, &start, &end, asked).await?;
        let told = reached.map(|revision| Ok(WatchBatch { events: Vec::new(), revision }));
        Ok(stream::iter(told).chain(opened).boxed())
    }

    async fn request_progress(&self) -> Result<(), Error> {
        let why = match &self.version {
            Some(version) if version.tells_progress() => {
                self.progress.send_modify(|asked| *asked += 1);
                return Ok(());
            }
            Some(version) => {
                format!("etcd {version} answers it out of step with events; 3.4.25, 3.5.8 and later do not")
            }
            None => "no member has told its version".to_owned(),
        };
        Err(Error::Unavailable { operation: "request progress", why })
    }

    async fn grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error> {
        limits::check_ttl(ttl_seconds)?;
        let send = || {
            let (mut lease, options) = (self.lease.clone(), LeaseGrantOptions::new().with_id(id));
            async move { lease.grant(ttl_seconds, Some(options)).await }
        };
        writing("a grant", send).await.map(|reply| reply.id()).map_err(about(id))
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        let read = || {
            let (mut client, options) = (self.lease.clone(), LeaseTimeToLiveOptions::new().with_keys());
            async move { client.time_to_live(lease, Some(options)).await }
        };
        let reply = reading("read a lease", read).await.map_err(about(lease))?;
        if reply.ttl() < 0 {
            return Err(Error::LeaseNotFound(lease));
        }
        let mut keys: Vec<_> = reply.keys().iter().map(|key| Bytes::copy_from_slice(key)).collect();
        keys.sort_unstable();
        let (granted_seconds, remaining_seconds) = (reply.granted_ttl(), reply.ttl());
        Ok(LeaseInfo { id: lease, granted_seconds, remaining_seconds, keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        let read = || {
            let mut client = self.lease.clone();
            async move { client.leases().await }
        };
        let reply = reading("list leases", read).await?;
        Ok(reply.leases().iter().map(etcd_client::LeaseStatus::id).collect())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        // The first answer only says that the lease lives; the second says for how long.
        let send = || {
            let mut client = self.lease.clone();
            async move {
                let (mut keeper, mut answers) = client.keep_alive(lease).await?;
                keeper.keep_alive().await?;
                answers.message().await
            }
        };
        match writing("a keep-alive", send).await.map_err(about(lease))? {
            Some(answer) if answer.ttl() > 0 => Ok(answer.ttl()),
            Some(_) | None => Err(Error::LeaseNotFound(lease)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let send = || {
            let mut client = self.lease.clone();
            async move { client.revoke(lease).await }
        };
        writing("a revocation", send).await.map(drop).map_err(about(lease))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let send = || {
            let mut kv = self.kv.clone();
            async move { kv.compact(translate::signed(revision), None).await }
        };
        match writing("a compaction", send).await {
            Ok(_) => {
                self.compacted.fetch_max(revision, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(self.explain(error, revision).await),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let revision = self.revision().await?;
        let read = || {
            let mut maintenance = self.maintenance.clone();
            async move { maintenance.status().await }
        };
        let status = reading("read the status", read).await?;
        if !status.errors().is_empty() {
            tracing::warn!(errors = ?status.errors(), "etcd says that something is wrong with it");
        }
        Ok(Status {
            revision,
            compacted: self.compacted.load(Ordering::Relaxed),
            disk_bytes: translate::unsigned(status.db_size()),
            live_bytes: translate::unsigned(status.raft_used_db_size()),
            has_leader: status.leader() != 0,
        })
    }

    async fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        let asked = if revision == 0 { self.revision().await? } else { revision };
        let read = || {
            let mut maintenance = self.maintenance.clone();
            async move { maintenance.hash_kv(translate::signed(asked)).await }
        };
        let reply = match reading("hash", read).await {
            Ok(reply) => reply,
            Err(error) => return Err(self.explain(error, asked).await),
        };
        let (compacted, newest) = (translate::unsigned(reply.compact_version()), translate::revision(reply.header()));
        Ok(KvHash { hash: reply.hash(), revision: asked, compacted, newest })
    }

    async fn image(&self) -> Result<ImageStream, Error> {
        image::of(self.kv.clone(), self.lease.clone(), self.revision().await?).await
    }
}
