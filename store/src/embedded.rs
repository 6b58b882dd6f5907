//! The store inside this process: a log on disk, the state in memory; alone, or as one of three or five members.
//!
//! # Guarantees
//! * A transaction is answered when it is on disk (with [`Options::sync`]), on those of a majority, and visible to reads
//!   through the member that answered.
//! * Reads are served from memory, by any member, and see every transaction that was answered anywhere before they began. A
//!   member alone knows that; others have it confirmed by a majority, without going to disk. A read at a revision that this
//!   member has needs no confirmation.
//! * After `kill -9` or loss of power the store opens with every answered transaction, or says [`Error::Corrupt`].
//! * A full disk refuses writes with [`Error::Unavailable`], whole; reads go on, and writes when there is space again. In a
//!   cluster another member leads meanwhile.
//! * [`Error::Uncertain`] is said only when nobody can know: no answer within [`Options::patience`], or a disk that failed.
//!
//! # Caveats
//! * The whole state is in memory: [`Options::max_bytes`].
//! * One process at a time: the directory is locked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::backend::{Backend, Error, WatchStream};
use crate::image::{self, ImageStream};
use crate::kv::{KvHash, LeaseId, LeaseInfo, Op, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchFrom};
use crate::members::Member;
use crate::mvcc::history::Window;
use crate::mvcc::watchers::WATCHER_LIMIT;
use crate::mvcc::{Action, Outcome, codec, limits};
use crate::replica::directory::Directory;
use crate::replica::disk::{Disk, Folder, LOCK};
use crate::replica::engine::{Engine, Shared};
use crate::replica::identity::{self, Identity};
use crate::replica::member::{Config, Reply};
use crate::replica::node::{Call, Input, Node, Nowhere, Post};
use crate::replica::peer::Peers;
use crate::replica::proposals::Proposal;
use crate::replica::wal::Layout;
use crate::replica::{mix, recovery};

pub mod cluster;
mod membership;

use cluster::{Cluster, Start};
use membership::Presenting;

/// Most memory for writes that wait to be written, bytes. Beyond it callers wait.
const WAITING_BYTES: usize = 64 << 20;

/// How far zeros are written ahead of the log, bytes.
const AHEAD: u64 = 1 << 20;

/// Bytes of a part of a snapshot on its way to another member.
const PART_BYTES: u64 = 128 << 10;

/// How a store on disk is kept.
#[derive(Clone, Copy, Debug)]
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
    /// How long a call waits for a leader and a majority. A member alone waits for nobody.
    pub patience: Duration,
    /// Bytes of the log kept in memory for members that are a little behind; others are sent a snapshot.
    pub log_bytes: u64,
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
            patience: Duration::from_secs(5),
            log_bytes: 32 << 20,
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
    patience: Duration,
    /// It has a way to reach other members.
    reaches: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Whether `dir` holds a member. A start that was cut off before it had written down who it is leaves none.
    ///
    /// # Errors
    /// [`Error::Disk`] when it cannot be read.
    pub fn is_in(dir: &Path) -> Result<bool, Error> {
        let failed = |source| Error::Disk { operation: "list", path: dir.to_owned(), source };
        let files = match std::fs::read_dir(dir) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        for file in files {
            let name = file.map_err(failed)?.file_name();
            if name != LOCK && name != identity::TEMPORARY {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the store in `dir`, which is made when there is none, as a member alone. Blocks while it reads what is there:
    /// about a second for a gigabyte.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another process has it open; [`Error::Corrupt`] when what is there is not what was
    /// written; [`Error::Disk`] when it cannot be read or written.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        let life = random();
        let (inbox, inputs) = channel();
        let recovered = recover(dir, found(life, Member::default()), options, life)?;
        Self::start(recovered, options, (inbox, inputs), Box::new(Nowhere), false)
    }

    /// Opens the store in `dir` as a member of a cluster, in a tokio runtime, on which it talks to the other members. A store
    /// that was alone goes on as the first member; others are [added](crate::Membership::add_member) to it and join.
    ///
    /// # Errors
    /// As [`Embedded::open`]. A member whose directory is corrupt is to be removed from the cluster, and added again with an
    /// empty directory. [`Error::Unavailable`] also when the member was removed; [`Error::Invalid`] when it is to join as
    /// another than the directory says.
    pub fn open_member(dir: &Path, options: Options, cluster: Cluster) -> Result<Self, Error> {
        let Cluster { name, listener, peer_urls, client_urls, tls, start } = cluster;
        let life = random();
        let birth = match start {
            Start::Found => {
                let (name, peer_urls, client_urls) = (name.clone(), peer_urls.clone(), client_urls.clone());
                found(life, Member { name, peer_urls, client_urls, ..Member::default() })
            }
            Start::Join { cluster, member, members } => Identity { cluster, member, founder: false, known: members },
        };
        let recovered = recover(dir, birth, options, life).map_err(advise)?;
        let (inbox, inputs) = channel();
        let standing = recovered.engine.member().standing();
        let peers = Peers::start((standing.cluster, standing.member), listener, tls, inbox.clone());
        let peers =
            peers.map_err(|error| Error::Unavailable { operation: "listen to members", why: error.to_string() })?;
        let store = Self::start(recovered, options, (inbox, inputs), Box::new(peers), true)?;
        let (shared, inbox, room) = (store.shared.clone(), store.inbox.clone(), store.room.clone());
        tokio::spawn(membership::present(Presenting { shared, inbox, room, name, peer_urls, client_urls }));
        Ok(store)
    }

    /// Lets a member's loop run.
    fn start(
        Ready { engine, directory, disk }: Ready,
        options: Options,
        (inbox, inputs): (Sender<Input>, Receiver<Input>),
        post: Box<dyn Post>,
        reaches: bool,
    ) -> Result<Self, Error> {
        let path = disk.path("");
        let node = Node::new((engine, directory), disk, (inputs, inbox.clone()), post);
        let shared = node.shared();
        let thread = std::thread::Builder::new().name("store-log".to_owned()).spawn(move || node.run());
        let thread = thread.map_err(|source| Error::Disk { operation: "start a thread for", path, source })?;
        let room = Arc::new(Semaphore::new(WAITING_BYTES >> 10));
        let (max_bytes, patience) = (options.max_bytes, options.patience);
        Ok(Self { shared, inbox, room, max_bytes, patience, reaches, thread: Mutex::new(Some(thread)) })
    }

    /// Stops: lets another member lead, ends every watch, refuses what comes later, and waits until the directory is free
    /// again. What was answered was durable before; so there is nothing to flush.
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
        let bytes = command.len();
        match self.propose(operation, Proposal::Command(command), bytes).await? {
            Reply::Outcome(outcome) => Ok(outcome),
            other => unreachable!("a command's answer is {other:?}"),
        }
    }

    async fn propose(&self, operation: &'static str, proposal: Proposal, bytes: usize) -> Result<Reply, Error> {
        let closed = || Error::Unavailable { operation, why: "it was closed".to_owned() };
        let share = u32::try_from((bytes >> 10) + 1).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(share).await.map_err(|_| closed())?;
        let (reply, answered) = oneshot::channel();
        self.inbox.send(Input::Propose(Call { proposal, reply, room })).map_err(|_| closed())?;
        let lost = |_| Error::Uncertain { operation, why: "the store stopped meanwhile".to_owned() };
        answered.await.map_err(lost)?
    }

    /// Waits until the state holds all that was committed, on whichever member, before this was called.
    async fn confirm(&self) -> Result<(), Error> {
        if self.shared.alone.load(Ordering::Acquire) {
            return Ok(());
        }
        let closed = || Error::Unavailable { operation: "read", why: "it was closed".to_owned() };
        let (reply, answered) = oneshot::channel();
        self.inbox.send(Input::Read(reply)).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?.map(drop)
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

/// A member that is the first of its cluster.
fn found(life: u64, member: Member) -> Identity {
    Identity { cluster: mix(life).max(1), member: 1, founder: true, known: vec![Member { id: 1, ..member }] }
}

/// A member that is recovered and does not run yet.
struct Ready {
    engine: Engine,
    directory: Directory,
    disk: Arc<dyn Disk>,
}

fn recover(dir: &Path, birth: Identity, options: Options, life: u64) -> Result<Ready, Error> {
    let disk: Arc<dyn Disk> = Arc::new(Folder::open(dir)?);
    let layout = Layout { segment_bytes: options.segment_bytes, ahead: AHEAD, sync: options.sync, seed: life };
    let patience = u64::try_from(options.patience.as_millis()).unwrap_or(u64::MAX);
    let config = Config { life, patience, log_bytes: options.log_bytes, part_bytes: PART_BYTES };
    let recovered = recovery::recover(&disk, layout, birth, options.log_bytes)?;
    let (engine, directory) = Engine::new(disk.clone(), recovered, options, config, 0)?;
    Ok(Ready { engine, directory, disk })
}

/// What to do about a member that is corrupt: the others have what it had.
fn advise(error: Error) -> Error {
    match error {
        Error::Corrupt { path, offset, why } => {
            let why = format!("{why}; remove this member from its cluster, empty its directory and add it again");
            Error::Corrupt { path, offset, why }
        }
        other => other,
    }
}

/// Another number at each call. Nothing secret hangs on it: the keys of the standard library's hasher are random.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[async_trait::async_trait]
impl Backend for Embedded {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        // What this member has of the past is the past; anything else it must be sure of first.
        let unsure = range.revision == 0 || range.revision > self.shared.state.read().revision();
        if unsure && !range.serializable {
            self.confirm().await?;
        }
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
            // It changes nothing: what it would say is read off the state, and nothing is written.
            self.confirm().await?;
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
        if from == WatchFrom::Now {
            self.confirm().await?;
        }
        // In this order everywhere; so nothing is published between what is read here and what the stream hears.
        let mut watchers = self.shared.watchers.lock();
        let state = self.shared.state.read();
        watchers.watch(&state, start, end, from)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.confirm().await?;
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
        let has_leader = self.shared.standing.borrow().leader != 0;
        Ok(Status { revision, compacted, disk_bytes, live_bytes: state.bytes(), has_leader })
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
