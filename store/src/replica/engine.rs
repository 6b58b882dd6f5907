//! A member beside its state: turns what the member says into what readers and watchers see.
//!
//! Both the real loop ([`super::node`]) and the simulation drive this; what differs between them is where time, messages
//! and the disk come from, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use raft::eraftpb::SnapshotMetadata;
use tokio::sync::watch;

use super::directory::Directory;
use super::disk::Disk;
use super::member::{Answer, Born, Config, Done, Job, Member, Ready, Token};
use super::message::Envelope;
use super::proposals::Proposal;
use super::recovery::Recovered;
use super::snapshot::Snapshot;
use crate::backend::Error;
use crate::embedded::Options;
use crate::members::{self, Standing};
use crate::mvcc::watchers::Watchers;
use crate::mvcc::{Action, Millis, Mvcc, codec};
use crate::planted::{self, Bug};

/// How long after a write the watchers that it did not concern hear how far the store is, if nobody asks before.
const PROGRESS: Millis = 500;

/// Nobody waits for it.
const NOBODY: Token = 0;

/// What readers and watchers see.
pub(crate) struct Shared {
    /// The applied state. Locked after `watchers` where both are.
    pub(crate) state: RwLock<Mvcc>,
    pub(crate) watchers: Mutex<Watchers>,
    pub(crate) disk_bytes: AtomicU64,
    /// The state is the newest there is, whatever others do: there are none who vote.
    pub(crate) alone: AtomicBool,
    /// How the member sees its cluster.
    pub(crate) standing: watch::Sender<Standing>,
    /// The members, as far as this one knows.
    pub(crate) members: RwLock<Vec<members::Member>>,
    /// Why the member takes no part any more.
    pub(crate) ended: watch::Sender<Option<String>>,
}

/// What is to be done.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) messages: Vec<Envelope>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) answers: Vec<Answer>,
}

/// A snapshot being written.
struct Writing {
    metadata: SnapshotMetadata,
    /// Bytes that the log held when it was begun.
    logged: u64,
}

/// See the module.
pub(crate) struct Engine {
    member: Member,
    shared: Arc<Shared>,
    options: Options,
    /// Bytes logged since the newest snapshot.
    logged: u64,
    /// Bytes of the log on disk, as far as is known.
    log_bytes: u64,
    writing: Option<Writing>,
    /// Since when watchers have not been told how far the store is.
    untold: Option<Millis>,
    /// What has been proposed to be forgotten or ended and has not been applied yet is not proposed again: until then.
    quiet: Millis,
    /// The members are shown as of this many changes.
    shown: u64,
}

impl Engine {
    /// Takes over what was recovered, and applies what the log holds.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        from: Recovered,
        options: Options,
        config: Config,
        now: Millis,
    ) -> Result<(Self, Directory), Error> {
        let Recovered { identity, log, wal, state, roster, applied, logged, snapshot_bytes } = from;
        let born = Born { identity, log, roster, applied, state_now: state.now(), snapshot_bytes };
        let path = disk.path("");
        let member = Member::new(born, config, now).map_err(|error| {
            let why = format!("raft does not start from it: {error}");
            Error::Corrupt { path: path.clone(), offset: 0, why }
        })?;
        let shared = Shared {
            state: RwLock::new(state),
            watchers: Mutex::new(Watchers::new(options.watcher_limit)),
            disk_bytes: AtomicU64::new(0),
            alone: AtomicBool::new(false),
            standing: watch::Sender::new(member.standing()),
            members: RwLock::new(member.contacts()),
            ended: watch::Sender::new(None),
        };
        let shared = Arc::new(shared);
        let directory = Directory::new(disk, wal);
        let log_bytes = directory.log_bytes();
        let (writing, untold) = (None, None);
        let engine = Self { member, shared, options, logged, log_bytes, writing, untold, quiet: 0, shown: 0 };
        Ok((engine, directory))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    pub(crate) fn member_mut(&mut self) -> &mut Member {
        &mut self.member
    }

    /// Time passed, in a cluster.
    pub(crate) fn tick(&mut self, now: Millis) {
        self.member.tick(now);
    }

    /// All that follows from what the member was told.
    pub(crate) fn turn(&mut self, now: Millis) -> Turn {
        let mut turn = Turn::default();
        loop {
            let Ready { messages, jobs, committed, restored, answers } = self.member.ready();
            turn.messages.extend(messages);
            turn.answers.extend(answers);
            self.logged += jobs.iter().map(logged).sum::<u64>();
            turn.jobs.extend(jobs);
            if let Some(state) = restored {
                self.restore(state, now);
            }
            if !committed.is_empty() {
                self.apply(committed, now);
            }
            if !self.member.is_ready() {
                break;
            }
        }
        self.show();
        turn
    }

    /// Applies committed entries, and shows what they did to readers and watchers before anyone is answered.
    fn apply(&mut self, committed: Vec<raft::eraftpb::Entry>, now: Millis) {
        let shared = self.shared.clone();
        let mut watchers = shared.watchers.lock();
        let mut state = shared.state.write();
        let applied = self.member.apply(&mut state, committed);
        let newest = state.revision();
        drop(state);
        match applied {
            Ok(fresh) if fresh.is_empty() => {}
            Ok(fresh) => {
                watchers.publish(&fresh, newest);
                self.untold.get_or_insert(now);
            }
            Err(why) => self.member.stop(&format!("the log makes no sense: {why}")),
        }
    }

    /// A state from another member takes the place of this one's.
    fn restore(&mut self, state: Mvcc, now: Millis) {
        let mut watchers = self.shared.watchers.lock();
        let mut current = self.shared.state.write();
        let seen = current.revision();
        if state.compacted() > seen {
            // What happened in between is not known any more: who watches must begin anew.
            watchers.close();
        } else {
            let skip = if planted::is(Bug::WatchSkipsSnapshot) { usize::MAX } else { 0 };
            let fresh: Vec<_> = state.changes_from(seen + 1).skip(skip).cloned().collect();
            watchers.publish(&fresh, state.revision());
        }
        *current = state;
        self.logged = 0;
        self.untold.get_or_insert(now);
    }

    /// A leader ends leases and forgets history, by commands that travel with whatever else is proposed now. To be called
    /// once before the turn in which something happened.
    pub(crate) fn keep_house(&mut self, now: Millis) {
        if self.untold.is_some_and(|since| now >= since + PROGRESS) {
            self.untold = None;
            self.shared.watchers.lock().tell_progress();
        }
        if !self.member.leads() || now < self.quiet {
            return;
        }
        let state = self.shared.state.read();
        let lease = state.next_deadline().filter(|deadline| *deadline <= self.member.clock(now));
        let forget = state.due_compaction(&self.options.window);
        drop(state);
        for action in lease.map(|_| Action::Tick).into_iter().chain(forget.map(Action::Compact)) {
            self.member.propose(NOBODY, Proposal::Command(codec::encode(&action)), now);
            // Once is enough, until it must have been applied or lost.
            self.quiet = now + if self.shared.alone.load(Ordering::Relaxed) { 0 } else { PROGRESS };
        }
    }

    /// When there will be something to do by itself; none for never.
    pub(crate) fn next_wake(&self) -> Option<Millis> {
        let leads = self.member.leads();
        let deadline = self.shared.state.read().next_deadline().filter(|_| leads);
        let lease = deadline.map(|deadline| self.member.when(deadline).max(self.quiet));
        let untold = self.untold.map(|since| since + PROGRESS);
        lease.into_iter().chain(untold).min()
    }

    fn show(&mut self) {
        self.shared.alone.store(self.member.is_alone(), Ordering::Release);
        let standing = self.member.standing();
        self.shared.standing.send_if_modified(|shown| {
            let changed = *shown != standing;
            *shown = standing;
            changed
        });
        if let Some(why) = self.member.stopped() {
            self.shared.ended.send_if_modified(|ended| {
                let first = ended.is_none();
                ended.get_or_insert_with(|| why.to_owned());
                first
            });
        }
        let disk_bytes = self.log_bytes + self.member.snapshot_bytes();
        self.shared.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        if self.shown != self.member.changes() {
            self.shown = self.member.changes();
            *self.shared.members.write() = self.member.contacts();
        }
    }

    /// A snapshot that is to be written now, beside everything else.
    pub(crate) fn due_snapshot(&mut self) -> Option<Snapshot> {
        // A state larger than the limit is not written again before as much has been logged: what is written stays
        // within twice what was asked for.
        let limit = self.options.snapshot_bytes.max(self.shared.state.read().bytes());
        let wanted = self.member.wants_snapshot();
        // While one is sent its file stays; unless that takes so long that the log grows out of bounds.
        let held = self.member.is_transferring() && self.logged < 4 * limit;
        let due = (wanted || self.logged >= limit) && !held;
        if !due || self.writing.is_some() || self.member.stopped().is_some() {
            return None;
        }
        let metadata = self.member.metadata();
        let (index, term) = (metadata.index, metadata.term);
        self.writing = Some(Writing { metadata, logged: self.logged });
        let state = self.shared.state.read().clone();
        Some(Snapshot { index, term, roster: self.member.roster().clone(), state })
    }

    /// The snapshot is written: its size; or is not.
    pub(crate) fn snapshotted(&mut self, result: Result<u64, Error>) {
        let Some(Writing { metadata, logged }) = self.writing.take() else { return };
        match result {
            Ok(bytes) => {
                self.logged = self.logged.saturating_sub(logged);
                self.member.snapshotted(metadata, bytes);
            }
            Err(error) => {
                let error = super::member::chain(&error);
                tracing::warn!(error, "no snapshot was made; the log grows until the next try");
                // Tries again when a quarter more has been logged.
                self.logged = self.logged.saturating_sub(logged / 4);
            }
        }
    }

    /// What a job came to, and how large the log is after it.
    pub(crate) fn done(&mut self, done: Done, log_bytes: u64, now: Millis) {
        self.log_bytes = log_bytes;
        self.member.done(done, now);
    }
}

fn logged(job: &Job) -> u64 {
    match job {
        Job::Append { record, .. } => record.len() as u64,
        Job::Install { .. } | Job::TakePart { .. } | Job::Check { .. } | Job::ReadPart { .. } | Job::Trim { .. } => 0,
    }
}
