//! The loop that owns the log and the state: takes what waits, makes it durable at once, applies it, answers.
//!
//! It runs on a thread of its own, because its one slow step is `fdatasync`. Whatever arrives during one is proposed
//! together after it and shares the next: under load the batches grow by themselves, and alone a write waits for nobody.
//!
//! At rest nothing runs: without other members there are no ticks; the loop sleeps until a proposal or the next lease's end.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use raft::RawNode;
use raft::eraftpb::{Entry, EntryType};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::log::{self, Log};
use super::peer::Peers;
use super::recovery::Recovered;
use super::snapshot::{self, Snapshot};
use super::wal::Wal;
use crate::backend::Error;
use crate::embedded::Options;
use crate::kv::Revision;
use crate::mvcc::watchers::Watchers;
use crate::mvcc::{Action, Millis, Mvcc, Outcome, codec};

/// Most bytes of commands made durable at once.
const BATCH_BYTES: usize = 4 << 20;

/// How long after a write the watchers that it did not concern hear how far the store is, if nobody asks before.
const PROGRESS: Duration = Duration::from_millis(500);

/// What readers and watchers see.
pub(crate) struct Shared {
    /// The applied state. Locked after `watchers` where both are.
    pub(crate) state: RwLock<Mvcc>,
    pub(crate) watchers: Mutex<Watchers>,
    pub(crate) disk_bytes: AtomicU64,
}

/// What the loop is told.
pub(crate) enum Input {
    Propose(Proposal),
    /// The background writer is done: bytes on disk.
    Snapshotted(Result<u64, Error>),
    Close,
}

/// A command to be made durable and applied.
pub(crate) struct Proposal {
    /// Encoded, without its time.
    pub(crate) command: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Result<Outcome, Error>>,
    /// Its share of the memory for what waits.
    pub(crate) room: OwnedSemaphorePermit,
}

/// Who waits for an entry, with its room.
struct Waiting {
    index: u64,
    reply: oneshot::Sender<Result<Outcome, Error>>,
    _room: OwnedSemaphorePermit,
}

/// A snapshot being written.
struct Writing {
    index: u64,
    /// Bytes that the log held when it was begun.
    logged: u64,
    thread: Option<JoinHandle<()>>,
}

/// The store's clock: goes on from where the state left it.
struct Clock {
    base: Millis,
    started: Instant,
}

impl Clock {
    fn now(&self) -> Millis {
        self.base.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The loop. See the module.
pub(crate) struct Node {
    raft: RawNode<Log>,
    wal: Wal,
    shared: Arc<Shared>,
    inbox: Receiver<Input>,
    outbox: Sender<Input>,
    dir: PathBuf,
    options: Options,
    peers: Peers,
    clock: Clock,
    /// Proposals in the log, oldest first.
    waiting: VecDeque<Waiting>,
    applied: (u64, u64),
    writing: Option<Writing>,
    /// Bytes logged since the newest snapshot, and that one's size.
    logged: u64,
    snapshot_bytes: u64,
    /// History to forget, with the next write.
    forget: Option<Revision>,
    /// Since when watchers have not been told how far the store is.
    untold: Option<Instant>,
    /// Why the log cannot be appended to any more.
    broken: Option<String>,
    _lock: File,
}

impl Node {
    /// Takes over what was recovered, and applies what the log holds.
    pub(crate) fn new(
        from: Recovered,
        dir: PathBuf,
        options: Options,
        inbox: Receiver<Input>,
        outbox: Sender<Input>,
    ) -> Result<Self, Error> {
        let applied = from.raft.store().base();
        let clock = Clock { base: from.state.now(), started: Instant::now() };
        let shared = Shared {
            state: RwLock::new(from.state),
            watchers: Mutex::new(Watchers::new(options.watcher_limit)),
            disk_bytes: AtomicU64::new(0),
        };
        let mut node = Self {
            raft: from.raft,
            wal: from.wal,
            shared: Arc::new(shared),
            inbox,
            outbox,
            dir,
            options,
            peers: Peers::default(),
            clock,
            waiting: VecDeque::new(),
            applied,
            writing: None,
            logged: from.logged,
            snapshot_bytes: from.snapshot_bytes,
            forget: None,
            untold: None,
            broken: None,
            _lock: from.lock,
        };
        node.process()?;
        node.clock.base = node.shared.state.read().now();
        node.count_disk();
        Ok(node)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs until it is told to close.
    pub(crate) fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            let open = self.receive(&mut batch);
            if self.lease_is_due() {
                batch.push((codec::encode(&Action::Tick), None));
            }
            self.write(batch);
            if self.untold.is_some_and(|since| since.elapsed() >= PROGRESS) {
                self.untold = None;
                self.shared.watchers.lock().tell_progress();
            }
            if !open {
                return self.close();
            }
            self.snapshot_if_due();
        }
    }

    /// Waits for something to do, and takes all of it that fits a batch. False when told to close.
    fn receive(&mut self, batch: &mut Batch) -> bool {
        let first = match self.patience() {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => self.inbox.recv_timeout(patience),
        };
        let mut next = match first {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let mut bytes = 0;
        while let Some(input) = next {
            match input {
                Input::Propose(Proposal { command, reply, room }) => {
                    bytes += command.len();
                    batch.push((command, Some((reply, room))));
                }
                Input::Snapshotted(result) => self.snapshotted(result),
                Input::Close => return false,
            }
            if bytes >= BATCH_BYTES {
                break;
            }
            next = self.inbox.try_recv().ok();
        }
        true
    }

    /// How long nothing may happen; none for ever.
    fn patience(&self) -> Option<Duration> {
        let lease = self.shared.state.read().next_deadline().filter(|_| self.broken.is_none());
        let lease = lease.map(|deadline| Duration::from_millis(deadline.saturating_sub(self.clock.now())));
        let untold = self.untold.map(|since| PROGRESS.saturating_sub(since.elapsed()));
        lease.into_iter().chain(untold).min()
    }

    fn lease_is_due(&self) -> bool {
        let deadline = self.shared.state.read().next_deadline();
        self.broken.is_none() && deadline.is_some_and(|deadline| deadline <= self.clock.now())
    }

    /// Makes a batch durable, applies it and answers.
    fn write(&mut self, mut batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if let Some(revision) = self.forget.take() {
            batch.push((codec::encode(&Action::Compact(revision)), None));
        }
        let refused = match &self.broken {
            Some(why) => Some(why.clone()),
            // Each entry takes less than 64 bytes beside its command.
            None => self.wal.reserve(batch.iter().map(|(command, _)| command.len() + 64).sum()).err().map(|error| {
                tracing::warn!(error = chain(&error), "writes are refused");
                chain(&error)
            }),
        };
        if let Some(why) = refused {
            for (reply, _) in batch.into_iter().filter_map(|(_, reply)| reply) {
                answer(reply, Err(Error::Unavailable { operation: "write", why: why.clone() }));
            }
            return;
        }
        let now = self.clock.now();
        for (mut command, reply) in batch {
            codec::set_now(&mut command, now);
            self.logged += command.len() as u64;
            let proposed = self.raft.propose(Vec::new(), command);
            match (proposed, reply) {
                (Ok(()), Some((reply, room))) => {
                    let index = self.raft.raft.raft_log.last_index();
                    self.waiting.push_back(Waiting { index, reply, _room: room });
                }
                (Err(error), Some((reply, _))) => {
                    let why = error.to_string();
                    answer(reply, Err(Error::Unavailable { operation: "write", why }));
                }
                (Ok(()), None) => {}
                (Err(error), None) => tracing::warn!(%error, "a command of the store's own was not proposed"),
            }
        }
        if let Err(error) = self.process() {
            self.fail(&error);
        }
        self.count_disk();
    }

    /// Does what raft says is ready, until nothing is.
    fn process(&mut self) -> Result<(), Error> {
        while self.raft.has_ready() {
            let mut ready = self.raft.ready();
            self.peers.send(ready.take_messages());
            self.apply(ready.take_committed_entries())?;
            let entries = ready.take_entries();
            if let Some(hard) = ready.hs() {
                self.raft.mut_store().set_hard(hard);
            }
            if !entries.is_empty() || ready.must_sync() {
                let last = entries.last().map_or(0, |entry| entry.index);
                let hard = self.raft.store().hard();
                self.wal.append(last, |out| log::encode(out, hard, &entries))?;
                let appended = self.raft.mut_store().append(entries);
                appended.map_err(|why| self.nonsense(why))?;
            }
            self.peers.send(ready.take_persisted_messages());
            let mut light = self.raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raft.mut_store().set_commit(commit);
            }
            self.peers.send(light.take_messages());
            self.apply(light.take_committed_entries())?;
            self.raft.advance_apply();
            let applied = self.applied.0;
            if self.peers.is_empty() {
                self.raft.mut_store().forget(applied);
            }
        }
        Ok(())
    }

    /// Applies committed entries, shows what they did to readers and watchers, then answers.
    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut watchers = shared.watchers.lock();
        let mut state = shared.state.write();
        let mut answers = Vec::new();
        let mut fresh = Vec::new();
        for entry in entries {
            self.applied = (entry.index, entry.term);
            if entry.get_entry_type() != EntryType::EntryNormal {
                return Err(self.nonsense("an entry changes the members"));
            }
            // Raft's own: the first of a term.
            if entry.data.is_empty() {
                continue;
            }
            let command = codec::decode(&Bytes::from(entry.data)).map_err(|why| self.nonsense(why.0))?;
            let outcome = state.apply_collecting(&command, &mut fresh);
            if self.waiting.front().is_some_and(|waiting| waiting.index == entry.index) {
                answers.extend(self.waiting.pop_front().map(|waiting| (waiting.reply, outcome)));
            }
        }
        self.forget = state.due_compaction(&self.options.window);
        let newest = state.revision();
        drop(state);
        if !fresh.is_empty() {
            watchers.publish(&fresh, newest);
            self.untold.get_or_insert_with(Instant::now);
        }
        drop(watchers);
        answers.into_iter().for_each(|(reply, outcome)| answer(reply, outcome));
        Ok(())
    }

    /// The log is in an unknown state: nothing more is written until the store is opened again. Reads go on.
    fn fail(&mut self, error: &Error) {
        let why = chain(error);
        tracing::error!(error = why, "the store takes no more writes until it is opened again");
        for waiting in self.waiting.drain(..) {
            answer(waiting.reply, Err(Error::Uncertain { operation: "a write", why: why.clone() }));
        }
        self.broken = Some(format!("an earlier write failed: {why}"));
    }

    fn snapshot_if_due(&mut self) {
        // A state larger than the limit is not written again before as much has been logged: what is written stays
        // within twice what was asked for.
        let due = self.logged >= self.options.snapshot_bytes.max(self.shared.state.read().bytes());
        if !due || self.writing.is_some() || self.broken.is_some() {
            return;
        }
        let voters = self.raft.store().members().voters.clone();
        let state = self.shared.state.read().clone();
        let snapshot = Snapshot { index: self.applied.0, term: self.applied.1, voters, state };
        let (dir, outbox, index) = (self.dir.clone(), self.outbox.clone(), snapshot.index);
        let thread = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(move || {
            let result = snapshot::write(&dir, &snapshot);
            // The loop may be closing: it has joined this thread and listens no more.
            if outbox.send(Input::Snapshotted(result)).is_err() {
                tracing::debug!("a snapshot was written that nobody waited for");
            }
        });
        match thread {
            Ok(thread) => self.writing = Some(Writing { index, logged: self.logged, thread: Some(thread) }),
            Err(error) => tracing::warn!(%error, "no thread for a snapshot"),
        }
    }

    fn snapshotted(&mut self, result: Result<u64, Error>) {
        let Some(writing) = self.writing.take() else { return };
        let trimmed = result.and_then(|bytes| {
            self.snapshot_bytes = bytes;
            self.wal.trim(writing.index)
        });
        match trimmed {
            Ok(()) => self.logged -= writing.logged,
            Err(error) => {
                tracing::warn!(error = chain(&error), "no snapshot was made; the log grows until the next try");
                // Tries again when a quarter more has been logged.
                self.logged -= writing.logged / 4;
            }
        }
        self.count_disk();
    }

    fn count_disk(&self) {
        self.shared.disk_bytes.store(self.wal.disk_bytes() + self.snapshot_bytes, Ordering::Relaxed);
    }

    fn nonsense(&self, why: &str) -> Error {
        Error::Corrupt { path: self.dir.clone(), offset: 0, why: format!("entry {}: {why}", self.applied.0) }
    }

    fn close(mut self) {
        self.shared.watchers.lock().close();
        if let Some(writing) = &mut self.writing
            && let Some(thread) = writing.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that wrote a snapshot panicked");
        }
        while let Ok(input) = self.inbox.try_recv() {
            match input {
                Input::Propose(proposal) => {
                    let why = "it was closed".to_owned();
                    answer(proposal.reply, Err(Error::Unavailable { operation: "write", why }));
                }
                Input::Snapshotted(result) => self.snapshotted(result),
                Input::Close => {}
            }
        }
    }
}

/// Encoded commands, and who waits for each.
type Batch = Vec<(Vec<u8>, Option<(oneshot::Sender<Result<Outcome, Error>>, OwnedSemaphorePermit)>)>;

fn answer(reply: oneshot::Sender<Result<Outcome, Error>>, outcome: Result<Outcome, Error>) {
    if reply.send(outcome).is_err() {
        tracing::trace!("nobody waits for an outcome any more");
    }
}

/// An error with its causes, for where it goes on as text.
fn chain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Op, Range, Txn};
    use crate::replica::recovery::recover;
    use std::sync::mpsc::channel;
    use tokio::sync::Semaphore;

    fn propose(inbox: &Sender<Input>, key: &'static str) -> oneshot::Receiver<Result<Outcome, Error>> {
        let put = Op::Put { key: key.into(), value: "v".into(), lease: 0 };
        let command = codec::encode(&Action::Txn(Txn { success: vec![put], ..Txn::default() }));
        let (reply, outcome) = oneshot::channel();
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        inbox.send(Input::Propose(Proposal { command, reply, room })).unwrap();
        outcome
    }

    #[test]
    fn after_a_failed_write_nothing_is_written_and_all_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (inbox, inputs) = channel();
        let recovered = recover(dir.path(), &Options::default()).unwrap();
        let options = Options::default();
        let mut node = Node::new(recovered, dir.path().to_owned(), options, inputs, inbox.clone()).unwrap();
        let turn = |node: &mut Node, key| {
            let outcome = propose(&inbox, key);
            let mut batch = Batch::new();
            assert!(node.receive(&mut batch));
            node.write(batch);
            outcome.blocking_recv().unwrap()
        };
        turn(&mut node, "before").unwrap();
        node.wal.fail_from_now_on();
        let uncertain = turn(&mut node, "during");
        assert!(matches!(uncertain, Err(Error::Uncertain { .. })), "{uncertain:?}");
        let refused = turn(&mut node, "after");
        assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
        let shared = node.shared();
        let all = Range { start: Bytes::new(), end: Bytes::from_static(&[0]), ..Range::default() };
        assert_eq!(shared.state.read().range(&all).unwrap().count, 1, "what was written before is read");
        drop(node);
        assert!(recover(dir.path(), &Options::default()).unwrap().raft.store().base().0 > 0);
    }

    #[test]
    fn everything_that_waits_is_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let (inbox, inputs) = channel();
        let recovered = recover(dir.path(), &Options::default()).unwrap();
        let mut node = Node::new(recovered, dir.path().to_owned(), Options::default(), inputs, inbox.clone()).unwrap();
        let before = node.wal.records();
        let outcomes: Vec<_> = ["a", "b", "c", "d"].into_iter().map(|key| propose(&inbox, key)).collect();
        let mut batch = Batch::new();
        assert!(node.receive(&mut batch));
        node.write(batch);
        for outcome in outcomes {
            assert!(outcome.blocking_recv().unwrap().is_ok());
        }
        assert_eq!(node.wal.records() - before, 1);
        assert_eq!(node.shared().state.read().revision(), 5);
    }
}
