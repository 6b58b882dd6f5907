//! The store in an etcd cluster, through `etcd-client`.
//!
//! # Caveats
//! * Watches tell progress with their events and every ten minutes, not on request: etcd before 3.4.25 answers such a
//!   request out of step with the events (etcd issue 15220), so [`Backend::request_progress`] is refused.
//! * A watch from exactly the compacted revision may miss that revision's deletes (etcd issue 19179): start one later.
//! * [`Status::compacted`] is the newest compaction that this client knows of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, KvClient, LeaseClient, MaintenanceClient, TlsOptions,
    WatchClient, WatchOptions,
};

use crate::backend::{Backend, Error, WatchStream};
use crate::kv::{LeaseId, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchFrom};
use crate::mvcc::limits;

mod fault;
mod translate;
mod watch;

use fault::{reading, writing};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a silent connection is asked whether it is alive, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

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
}

impl Etcd {
    /// Connects to a cluster by its client URLs, and makes sure that it answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not.
    pub async fn connect(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if let Some(tls) = tls {
            let identity = Identity::from_pem(tls.cert, tls.key);
            options =
                options.with_tls(TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca)).identity(identity));
        }
        let client = reading("connect to etcd", Client::connect(endpoints, Some(options))).await?;
        let etcd = Self {
            kv: client.kv_client().max_decoding_message_size(MAX_REPLY),
            watch: client.watch_client().max_decoding_message_size(MAX_REPLY),
            lease: client.lease_client(),
            maintenance: client.maintenance_client(),
            compacted: Arc::default(),
        };
        etcd.revision().await?;
        Ok(etcd)
    }

    /// The newest revision, linearizable.
    async fn revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only();
        let mut kv = self.kv.clone();
        let reply = reading("read the revision", kv.get("\0", Some(options))).await?;
        Ok(translate::revision(reply.header()))
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

    /// The compaction that took a revision away: only a watch from there is told.
    async fn compacted_after(&self, gone: Revision) -> Result<Revision, Error> {
        let options = WatchOptions::new().with_start_revision(translate::signed(gone));
        let mut client = self.watch.clone();
        let mut stream = reading("ask for the compacted revision", client.watch("\0", Some(options))).await?;
        loop {
            let reply = reading("ask for the compacted revision", stream.message()).await?;
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

#[async_trait::async_trait]
impl Backend for Etcd {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        let (key, options) = translate::get(&range);
        match reading("read a range", self.kv.clone().get(key, Some(options))).await {
            Ok(reply) => Ok(translate::range_reply(reply)),
            Err(error) => Err(self.explain(error, range.revision).await),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        limits::check(&txn)?;
        let asked = txn.success.iter().chain(&txn.failure).filter_map(translate::asked_revision).max().unwrap_or(0);
        match writing("a transaction", self.kv.clone().txn(translate::txn(&txn))).await {
            Ok(reply) => translate::txn_reply(&reply),
            Err(Error::LeaseNotFound(_)) => Err(Error::LeaseNotFound(translate::lease_named(&txn))),
            Err(error) => Err(self.explain(error, asked).await),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        watch::open(self.watch.clone(), self.compacted.clone(), &start, &end, from).await
    }

    async fn grant(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        limits::check_ttl(ttl_seconds)?;
        writing("a grant", self.lease.clone().grant(ttl_seconds, None)).await.map(|reply| reply.id())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        let named = |error| if let Error::LeaseNotFound(_) = error { Error::LeaseNotFound(lease) } else { error };
        // The first answer only says that the lease lives; the second says for how long.
        let (mut keeper, mut answers) =
            writing("a keep-alive", self.lease.clone().keep_alive(lease)).await.map_err(named)?;
        writing("a keep-alive", keeper.keep_alive()).await?;
        match writing("a keep-alive", answers.message()).await? {
            Some(answer) if answer.ttl() > 0 => Ok(answer.ttl()),
            Some(_) | None => Err(Error::LeaseNotFound(lease)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let named = |error| if let Error::LeaseNotFound(_) = error { Error::LeaseNotFound(lease) } else { error };
        writing("a revocation", self.lease.clone().revoke(lease)).await.map(drop).map_err(named)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let asked = translate::signed(revision);
        match writing("a compaction", self.kv.clone().compact(asked, None)).await {
            Ok(_) => {
                self.compacted.fetch_max(revision, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(self.explain(error, revision).await),
        }
    }

    async fn status(&self) -> Result<Status, Error> {
        let revision = self.revision().await?;
        let status = reading("read the status", self.maintenance.clone().status()).await?;
        Ok(Status {
            revision,
            compacted: self.compacted.load(Ordering::Relaxed),
            disk_bytes: translate::unsigned(status.db_size()),
            has_leader: status.leader() != 0,
        })
    }
}
