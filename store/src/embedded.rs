//! The store inside this process: a log on disk, the state in memory.
//!
//! # Guarantees
//! * A transaction is answered when it is on disk (with [`Options::sync`]) and visible to reads.
//! * Reads are served from memory and see every transaction that was answered before they began.
//! * After `kill -9` or loss of power the store opens with every answered transaction, or says [`Error::Corrupt`].
//! * A full disk refuses writes with [`Error::Unavailable`], whole; reads go on, and writes when there is space again.
//!
//! # Caveats
//! * The whole state is in memory: [`Options::max_bytes`].
//! * One process at a time: the directory is locked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::backend::{Backend, Error, WatchStream};
use crate::image::{self, ImageStream};
use crate::kv::{KvHash, LeaseId, LeaseInfo, Op, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchFrom};
use crate::mvcc::history::Window;
use crate::mvcc::watchers::WATCHER_LIMIT;
use crate::mvcc::{Action, Outcome, codec, limits};
use crate::replica::node::{Input, Node, Proposal, Shared};
use crate::replica::recovery;

/// Most memory for writes that wait to be written, bytes. Beyond it callers wait.
const WAITING_BYTES: usize = 64 << 20;

/// How a store on disk is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Make every write durable before it is answered. Without, a loss of power loses what the kernel had not written yet
    /// (a crash of the process still loses nothing).
    pub sync: bool,
    /// Size at which a file of the log is closed and the next begun, bytes.
    pub segment_bytes: u64,
    /// Bytes logged after which a snapshot is written, if the state is not larger than that.
    pub snapshot_bytes: u64,
    /// History kept for reads at a revision and watches from the past.
    pub window: Window,
    /// Events that a watcher may lag behind.
    pub watcher_limit: usize,
    /// Most bytes of keys and values. Beyond it puts are refused; deletes are not.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: true,
            segment_bytes: 16 << 20,
            snapshot_bytes: 32 << 20,
            window: Window::default(),
            watcher_limit: WATCHER_LIMIT,
            max_bytes: 4 << 30,
        }
    }
}

/// The store inside this process. See the module. Dropped without [`Embedded::close`] it loses nothing either, but its
/// directory is locked a moment longer.
pub struct Embedded {
    shared: Arc<Shared>,
    inbox: Sender<Input>,
    room: Arc<Semaphore>,
    max_bytes: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the store in `dir`, which is made when there is none. Blocks while it reads what is there: about a second
    /// for a gigabyte.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has it open; [`Error::Corrupt`] when what is there is not what was
    /// written; [`Error::Disk`] when it cannot be read or written.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let (inbox, inputs) = channel();
        let max_bytes = options.max_bytes;
        let recovered = recovery::recover(dir, &options)?;
        let node = Node::new(recovered, dir.to_owned(), options, inputs, inbox.clone())?;
        let shared = node.shared();
        let thread = std::thread::Builder::new().name("store-log".to_owned()).spawn(move || node.run());
        let thread =
            thread.map_err(|source| Error::Disk { operation: "start a thread for", path: dir.to_owned(), source })?;
        let room = Arc::new(Semaphore::new(WAITING_BYTES >> 10));
        Ok(Self { shared, inbox, room, max_bytes, thread: Mutex::new(Some(thread)) })
    }

    /// Stops: ends every watch, refuses what comes later, and waits until the directory is free again. What was answered
    /// was durable before; so there is nothing to flush.
    pub async fn close(&self) {
        let Some(thread) = self.stop() else { return };
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::error!("the store's thread panicked"),
        }
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        let thread = self.thread.lock().take()?;
        if self.inbox.send(Input::Close).is_err() {
            tracing::debug!("the store had stopped by itself");
        }
        Some(thread)
    }

    /// Has a command made durable and applied.
    async fn command(&self, operation: &'static str, action: Action) -> Result<Outcome, Error> {
        let command = codec::encode(&action);
        drop(action);
        let closed = || Error::Unavailable { operation, why: "it was closed".to_owned() };
        let share = u32::try_from((command.len() >> 10) + 1).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(share).await.map_err(|_| closed())?;
        let (reply, outcome) = oneshot::channel();
        self.inbox.send(Input::Propose(Proposal { command, reply, room })).map_err(|_| closed())?;
        let lost = |_| Error::Uncertain { operation, why: "the store stopped meanwhile".to_owned() };
        outcome.await.map_err(lost)?
    }

    fn check_room(&self, txn: &Txn) -> Result<(), Error> {
        let puts = txn.steps().any(|op| matches!(op, Op::Put { .. } | Op::Update { .. } | Op::Txn(_)));
        let held = self.shared.state.read().bytes();
        if puts && held >= self.max_bytes {
            let why = format!("it holds {held} bytes of at most {}; something must be deleted", self.max_bytes);
            return Err(Error::Unavailable { operation: "write", why });
        }
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

#[async_trait::async_trait]
impl Backend for Embedded {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        let state = self.shared.state.read();
        // A range may be long: it is walked beside the writer, not in its way.
        if range.end.is_empty() {
            return state.range(&range);
        }
        let snapshot = state.clone();
        drop(state);
        snapshot.range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        limits::check(&txn)?;
        if txn.reads_only() {
            let snapshot = self.shared.state.read().clone();
            return snapshot.read_txn(&txn);
        }
        self.check_room(&txn)?;
        match self.command("a transaction", Action::Txn(txn)).await? {
            Outcome::Txn(reply) => Ok(reply),
            other => unreachable!("a transaction's outcome is {other:?}"),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        // In this order everywhere; so nothing is published between what is read here and what the stream hears.
        let mut watchers = self.shared.watchers.lock();
        let state = self.shared.state.read();
        watchers.watch(&state, start, end, from)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.shared.watchers.lock().tell_progress();
        Ok(())
    }

    async fn grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error> {
        limits::check_ttl(ttl_seconds)?;
        match self.command("a grant", Action::Grant { ttl: ttl_seconds, id }).await? {
            Outcome::Granted(id) => Ok(id),
            other => unreachable!("a grant's outcome is {other:?}"),
        }
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        // What is left of it is known as of the newest command: so one is made.
        self.command("a look at a lease", Action::Tick).await?;
        self.shared.state.read().lease(lease)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Ok(self.shared.state.read().leases())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        match self.command("a keep-alive", Action::KeepAlive(lease)).await? {
            Outcome::KeptAlive(seconds) => Ok(seconds),
            other => unreachable!("a keep-alive's outcome is {other:?}"),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.command("a revocation", Action::Revoke(lease)).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.command("a compaction", Action::Compact(revision)).await.map(drop)
    }

    async fn status(&self) -> Result<Status, Error> {
        let state = self.shared.state.read();
        let (revision, compacted) = (state.revision(), state.compacted());
        let disk_bytes = self.shared.disk_bytes.load(Ordering::Relaxed);
        Ok(Status { revision, compacted, disk_bytes, live_bytes: state.bytes(), has_leader: true })
    }

    async fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        let state = self.shared.state.read().clone();
        let sum = tokio::task::spawn_blocking(move || state.hash(revision)).await;
        sum.map_err(|error| Error::Unavailable { operation: "hash", why: error.to_string() })?
    }

    async fn image(&self) -> Result<ImageStream, Error> {
        Ok(image::of(self.shared.state.read().clone()))
    }
}
