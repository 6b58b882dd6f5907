//! The contract that every backend keeps, held to it by one suite (`contract`, feature `testing`).
//!
//! # Guarantees
//! * A transaction that returned `Ok` is durable and seen by every later call.
//! * An `Err` other than [`Error::Uncertain`] means that nothing was written.
//! * A watch hands out every change of its range from its start on, once, in revision order, whole revisions at a time; or
//!   ends with [`Error::Compacted`] or [`Error::Slow`]. It never skips.
//!
//! # Caveats
//! * Values are at most [`MAX_VALUE`] bytes, a transaction at most [`MAX_TXN_OPS`] steps and [`MAX_TXN_BYTES`] bytes.
//! * A transaction writes a key at most once, inner transactions counted in.
//! * The empty key is no object's: etcd has none. Embedded, it holds the users and roles of the etcd API ([`crate::grpc`]).

use futures::stream::BoxStream;

use crate::image::ImageStream;
use crate::kv::{
    KvHash, LeaseId, LeaseInfo, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchBatch, WatchFrom,
};

/// Largest value, bytes. etcd's default request limit.
pub const MAX_VALUE: usize = 3 << 19;

/// Most steps in one branch of a transaction, with those of the branches of transactions inside it. etcd's default is 128; the embedded backend has the same so that both behave alike.
pub const MAX_TXN_OPS: usize = 128;

/// Largest sum of keys and values in one transaction, bytes: the same request limit.
pub const MAX_TXN_BYTES: usize = MAX_VALUE;

/// Largest key, bytes. etcd has no limit of its own; names in the API are far shorter.
pub const MAX_KEY: usize = 4 << 10;

/// Longest lease, seconds. etcd's limit.
pub const MAX_LEASE_SECONDS: i64 = 9_000_000_000;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision asked for is older than what is kept.
    #[error("revision {asked} has been compacted, oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be read.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} is in the future, newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest.
        newest: Revision,
    },
    /// The watcher fell too far behind.
    #[error("watcher fell behind by more than {limit} events")]
    Slow {
        /// How many events a watcher may lag.
        limit: usize,
    },
    /// No such lease.
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// There is such a lease already.
    #[error("lease {0} exists already")]
    LeaseExists(LeaseId),
    /// An update names a key that does not exist.
    #[error("key to be updated does not exist")]
    KeyNotFound,
    /// The value or transaction breaks a limit.
    #[error("{what} exceeds its limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The request makes no sense.
    #[error("request is invalid: {why}")]
    Invalid {
        /// Why not.
        why: &'static str,
    },
    /// Nothing was written: the store cannot serve now.
    #[error("store is unavailable while it tried to {operation}: {why}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        why: String,
    },
    /// It may or may not have been written.
    #[error("outcome of {operation} is not known: {why}")]
    Uncertain {
        /// What was tried.
        operation: &'static str,
        /// Why it is not known.
        why: String,
    },
    /// The disk failed, or what it holds is not what was written.
    #[error("cannot {operation} {path}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checksum does not match, or a record makes no sense, before the end of the log.
    #[error("{path} is corrupt at byte {offset}: {why}")]
    Corrupt {
        /// Which file.
        path: std::path::PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

/// Changes as they happen.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, Error>>;

/// A store. See the module for what it guarantees.
#[async_trait::async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Reads a range, linearizable when `range.revision` is 0.
    async fn range(&self, range: Range) -> Result<RangeReply, Error>;

    /// Does a transaction.
    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error>;

    /// Watches `start..end` (both as in [`Range`]).
    async fn watch(&self, start: bytes::Bytes, end: bytes::Bytes, from: WatchFrom) -> Result<WatchStream, Error>;

    /// Asks that every open watch soon hands out a batch which says that it has reached the newest revision, also where
    /// nothing happened to its range. Without it a watch tells progress with its next events, or seldom. A cache that must
    /// know that it has seen revision N calls this and waits.
    async fn request_progress(&self) -> Result<(), Error> {
        let why = "this backend does not tell progress on request".to_owned();
        Err(Error::Unavailable { operation: "request progress", why })
    }

    /// Grants a lease of so many seconds (at least 1), with an id that the store chooses.
    async fn grant(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        self.grant_as(0, ttl_seconds).await
    }

    /// Grants a lease with this id (0: the store chooses) of so many seconds (at least 1).
    ///
    /// # Errors
    /// [`Error::LeaseExists`].
    async fn grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error>;

    /// How a lease is now, with its keys.
    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error>;

    /// All leases, in no order that can be relied on.
    async fn leases(&self) -> Result<Vec<LeaseId>, Error>;

    /// Starts the lease's time anew; returns its seconds.
    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error>;

    /// Ends a lease and removes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Forgets what was superseded before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// How the store is.
    async fn status(&self) -> Result<Status, Error>;

    /// A checksum of what can be read as of `revision`; 0 for the newest.
    async fn hash(&self, revision: Revision) -> Result<KvHash, Error>;

    /// Everything that the store holds at this moment, to be kept elsewhere. See [`crate::image`].
    async fn image(&self) -> Result<ImageStream, Error>;
}
