//! One member of the replicated log, as a pure state machine: what it is told goes in by calls, what is to be done comes out
//! as data. No clock, disk, network, thread or random number is in here; a whole cluster of these runs in one thread under a
//! seed, and a seed replays bit for bit.
//!
//! ```text
//!   tick, receive, propose, read ─┐                 ┌─> messages   may leave at once
//!                                 ├─> [Member] ─> Ready ─> jobs    for the disk, in this order
//!        done (what a job came to)┘                 ├─> committed  for `apply`, with the state
//!                                                   └─> answers    for those who wait
//! ```
//!
//! What must be durable before it is said is kept back here until the disk has done its job: votes, and that entries were
//! taken. A leader's entries leave at once; it writes them while they travel.
//!
//! # Invariants
//! * Jobs are numbered as raft numbers what it wants written; a message that is kept back leaves when all jobs before it are done.
//! * Raft's configuration is the roster's, always.
//! * The election timeout is a function of life and term, not of raft's own random numbers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, SnapshotMetadata};
use raft::{RawNode, StateRole};

use super::entry::Context;
use super::identity::Identity;
use super::log::{Draft, Log};
use super::message::{self, Body, Envelope};
use super::mix;
use super::proposals::{Accepted, Held, Lost, Proposal, Proposals};
use super::reads::Reads;
use super::roster::Roster;
use super::snapshot::Snapshot;
use super::transfer::{Receiving, Sending};
use crate::backend::Error;
use crate::members::{self, MemberId, Standing};
use crate::mvcc::history::Revised;
use crate::mvcc::{Millis, Mvcc, Outcome, codec};
use crate::planted::{self, Bug};

mod installing;
mod leading;

/// Names one call that waits for an answer.
pub(crate) type Token = u64;

/// Why a member ends that is none any more, and what to do about it.
pub(crate) const REMOVED: &str = "it was removed from the cluster; to join again it needs an empty directory";

/// Time between two ticks.
pub(crate) const TICK: Millis = 50;

/// Ticks between two heartbeats of a leader.
const HEARTBEAT_TICKS: usize = 2;

/// Ticks without a leader after which an election begins: at least the first, less than the second. Short enough that a
/// new leader is found within a second of the old one's death.
const ELECTION_TICKS: std::ops::Range<usize> = 10..16;

/// Most bytes of entries in one message.
const MESSAGE_BYTES: u64 = 1 << 20;

/// Messages with entries sent ahead of answers, for each member.
const IN_FLIGHT: usize = 256;

/// Most bytes of committed entries handed out at once, so that a long log is applied piece by piece.
const COMMITTED_BYTES: u64 = 8 << 20;

/// Most bytes of entries that a leader appends before they are committed.
const UNCOMMITTED_BYTES: u64 = 256 << 20;

/// What a member is told at birth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Names this life of the member: random, another one at each start.
    pub(crate) life: u64,
    /// How long anything waits for an answer, when there are others to wait for.
    pub(crate) patience: Millis,
    /// Bytes of applied entries kept for members that are a little behind.
    pub(crate) log_bytes: u64,
    /// Bytes of a part of a snapshot.
    pub(crate) part_bytes: u64,
}

/// What a call is answered with.
#[derive(Debug)]
pub(crate) enum Reply {
    /// What a command did.
    Outcome(Outcome),
    /// All that was committed before the read began is in the state.
    Confirmed,
    /// The members are changed; the member that it was about, if it is one still.
    Changed(Option<members::Member>),
}

/// Whom, and what.
pub(crate) type Answer = (Token, Result<Reply, Error>);

/// Something for the disk. Jobs are done one after the other, in the order in which they came.
#[derive(Debug)]
pub(crate) enum Job {
    /// Append a record to the log.
    Append { number: u64, last_index: u64, record: Draft },
    /// Make what was received and checked the snapshot that the log goes on from; the record says so.
    Install { number: u64, index: u64, record: Draft },
    /// Write down a part of a snapshot from another member.
    TakePart { index: u64, offset: u64, bytes: Bytes },
    /// Read back what was received.
    Check { index: u64 },
    /// Read a part of the newest snapshot, for another member.
    ReadPart { to: MemberId, index: u64, offset: u64, length: usize },
    /// A snapshot holds everything up to here.
    Trim { index: u64 },
}

/// What a job came to.
pub(crate) enum Done {
    /// It is durable: so numbered.
    Written(u64),
    /// The snapshot is this member's own now: so numbered.
    Installed(u64),
    /// Written down up to this offset, or not.
    PartTaken { index: u64, end: Result<u64, Error> },
    /// What was received is whole; its size. Or is not.
    Checked { index: u64, found: Result<Box<(Snapshot, u64)>, Error> },
    /// A part, to be sent.
    PartRead { to: MemberId, index: u64, offset: u64, bytes: Result<Bytes, Error> },
    /// The log's front is gone, or is still there.
    Trimmed(Result<(), Error>),
    /// There is no space for it. Nothing has changed; the same job is to be tried again.
    Full(Error),
    /// The log is in an unknown state: nothing more may be written.
    Failed(Error),
}

/// What is to be done.
#[derive(Default)]
pub(crate) struct Ready {
    /// For others. They may leave at once; each may be lost.
    pub(crate) messages: Vec<Envelope>,
    pub(crate) jobs: Vec<Job>,
    /// For [`Member::apply`], which must come before the next `ready`.
    pub(crate) committed: Vec<Entry>,
    /// A state from another member, in place of the one there is.
    pub(crate) restored: Option<Mvcc>,
    pub(crate) answers: Vec<Answer>,
}

/// Messages kept back until a job is done.
struct Kept {
    /// The number of the job.
    job: u64,
    /// Raft is told that it has persisted what has this number: the job's, or that of something later with nothing to write.
    number: u64,
    /// It decides how this member votes.
    votes: bool,
    messages: Vec<Message>,
}

/// The store's clock: goes on from where the state left it.
#[derive(Default)]
struct Clock {
    base: Millis,
    since: Millis,
}

impl Clock {
    fn at(&self, now: Millis) -> Millis {
        self.base.saturating_add(now.saturating_sub(self.since))
    }
}

/// One member. See the module.
pub(crate) struct Member {
    id: MemberId,
    cluster: u64,
    config: Config,
    raft: RawNode<Log>,
    roster: Roster,
    /// How often the roster has changed in this life.
    changes: u64,
    /// Members as known when this one joined, until the log says more.
    contacts: Vec<members::Member>,
    proposals: Proposals,
    accepted: Accepted,
    reads: Reads,
    clock: Clock,
    /// The caller's clock, as of the newest call.
    now: Millis,
    /// The state's clock.
    state_now: Millis,
    applied: (u64, u64),
    /// Leader and term, as of the last turn.
    led: (MemberId, u64),
    kept: VecDeque<Kept>,
    outbox: Vec<Envelope>,
    jobs: Vec<Job>,
    answers: Vec<Answer>,
    /// When each other member was heard of last.
    heard: BTreeMap<MemberId, Millis>,
    /// Snapshots on their way to others.
    sending: BTreeMap<MemberId, Sending>,
    /// Bytes of the newest snapshot on disk.
    snapshot_bytes: u64,
    receiving: Option<Receiving>,
    /// What was received and is being made this member's own.
    arrived: Option<Box<(Snapshot, u64)>>,
    restored: Option<Mvcc>,
    /// The disk has no space.
    full: Option<String>,
    /// Why it takes no part any more.
    stopped: Option<String>,
}

/// What a member is made of.
pub(crate) struct Born {
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) roster: Roster,
    /// Index and term of the last entry in the state, and the state's clock.
    pub(crate) applied: (u64, u64),
    pub(crate) state_now: Millis,
    pub(crate) snapshot_bytes: u64,
}

impl Member {
    /// A member that goes on from what was recovered.
    pub(crate) fn new(born: Born, config: Config, now: Millis) -> raft::Result<Self> {
        let Born { identity, log, roster, applied, state_now, snapshot_bytes } = born;
        let id = identity.member;
        let raft_config = raft::Config {
            id,
            applied: applied.0,
            pre_vote: true,
            check_quorum: true,
            heartbeat_tick: HEARTBEAT_TICKS,
            election_tick: ELECTION_TICKS.start,
            min_election_tick: ELECTION_TICKS.start,
            max_election_tick: ELECTION_TICKS.end,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            max_committed_size_per_ready: COMMITTED_BYTES,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            // what is proposed in one turn travels together
            batch_append: true,
            ..raft::Config::default()
        };
        let raft = RawNode::new(&raft_config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
        let mut member = Self {
            id,
            cluster: identity.cluster,
            config,
            raft,
            roster,
            changes: 0,
            contacts: identity.known,
            proposals: Proposals::new(id, config.life),
            accepted: Accepted::default(),
            reads: Reads::new(id, config.life),
            clock: Clock { base: state_now, since: now },
            now,
            state_now,
            applied,
            led: (0, 0),
            kept: VecDeque::new(),
            outbox: Vec::new(),
            jobs: Vec::new(),
            answers: Vec::new(),
            heard: BTreeMap::new(),
            sending: BTreeMap::new(),
            snapshot_bytes,
            receiving: None,
            arrived: None,
            restored: None,
            full: None,
            stopped: None,
        };
        if member.roster.voters().eq([id]) {
            // Alone there is nobody to wait for.
            member.raft.campaign()?;
        }
        member.set_election_timeout();
        Ok(member)
    }

    /// Time passes. To be called every [`TICK`] by a member of several; one alone needs none.
    pub(crate) fn tick(&mut self, now: Millis) {
        self.now = now;
        if self.stopped.is_some() {
            return;
        }
        self.raft.tick();
        let overdue = self.proposals.overdue(self.raft.raft.term, now);
        self.send_forward(&overdue);
        if let Some(before) = now.checked_sub(self.config.patience) {
            let lost = self.proposals.expire(before);
            self.answer_lost(lost, "no leader was found in time", "no majority confirmed it in time");
            for token in self.reads.expire(before) {
                self.refuse(token, "read", "no majority confirmed in time what is newest");
            }
        }
        self.tick_transfers();
        self.set_election_timeout();
    }

    /// A message from another member came.
    pub(crate) fn receive(&mut self, envelope: Envelope, now: Millis) {
        self.now = now;
        let from = envelope.from;
        if self.stopped.is_some() || envelope.cluster != self.cluster || envelope.to != self.id {
            return;
        }
        if self.roster.was_removed(from) {
            self.post(from, Body::Removed(message::Removed {}));
            return;
        }
        self.heard.insert(from, now);
        match envelope.body {
            Some(Body::Raft(bytes)) => {
                if let Some(message) = message::decode(&bytes) {
                    self.step(message);
                }
            }
            Some(Body::Forward(forward)) => self.accept(from, forward),
            Some(Body::Refused(refused)) => {
                if let Some(token) = self.proposals.refused(refused.life, refused.sequence) {
                    self.refuse(token, "write", &refused.why);
                }
            }
            Some(Body::Part(part)) => self.take_part(from, part),
            Some(Body::Taken(taken)) => self.taken(from, &taken),
            Some(Body::Removed(_)) => self.stop(REMOVED),
            None => {}
        }
        self.set_election_timeout();
    }

    fn step(&mut self, message: Message) {
        let kind = message.get_msg_type();
        // A snapshot comes in parts; and without space entries are as good as lost: they are sent again.
        let dropped = kind == MessageType::MsgSnapshot || (self.full.is_some() && !message.entries.is_empty());
        if dropped {
            return;
        }
        if let Err(error) = self.raft.step(message) {
            tracing::trace!(%error, ?kind, "raft did not want a message");
        }
    }

    /// Takes a proposal. It is answered under its token.
    pub(crate) fn propose(&mut self, token: Token, proposal: Proposal, now: Millis) {
        self.now = now;
        match self.stopped.clone() {
            Some(why) => self.refuse(token, "write", &why),
            None => self.proposals.hold(Held { token, proposal, since: now }),
        }
    }

    /// A read wants to see everything that was committed until now. It is answered under its token when it may look.
    pub(crate) fn read(&mut self, token: Token, now: Millis) {
        self.now = now;
        match self.stopped.clone() {
            Some(why) => self.refuse(token, "read", &why),
            None if planted::is(Bug::ReadWithoutQuorum) && self.leads() => {
                self.answers.push((token, Ok(Reply::Confirmed)));
            }
            None => self.reads.add(token, now),
        }
    }

    /// What a job came to.
    pub(crate) fn done(&mut self, done: Done, now: Millis) {
        self.now = now;
        if self.stopped.is_some() {
            return;
        }
        match done {
            Done::Written(number) => {
                self.full = None;
                self.persisted(number);
            }
            Done::Installed(number) => {
                self.persisted(number);
                self.installed();
            }
            Done::PartTaken { index, end } => self.part_taken(index, end),
            Done::Checked { index, found } => self.checked(index, found),
            Done::PartRead { to, index, offset, bytes } => self.part_read(to, index, offset, bytes),
            Done::Trimmed(Ok(())) => {}
            Done::Trimmed(Err(error)) => tracing::warn!(error = chain(&error), "the log was not trimmed"),
            Done::Full(error) => self.out_of_space(&error),
            Done::Failed(error) => self.stop(&format!("an earlier write failed: {}", chain(&error))),
        }
        self.set_election_timeout();
    }

    fn persisted(&mut self, job: u64) {
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.job <= job) {
            self.raft.on_persist_ready(kept.number);
            kept.messages.into_iter().for_each(|message| self.send(message));
        }
    }

    /// Whether [`Member::ready`] has anything to say.
    pub(crate) fn is_ready(&self) -> bool {
        let told = !(self.outbox.is_empty() && self.jobs.is_empty() && self.answers.is_empty());
        let asks = || self.reads.may_ask(self.now) || self.raft.has_ready();
        told || self.restored.is_some() || (self.stopped.is_none() && asks())
    }

    /// All that follows from what it was told since the last call.
    pub(crate) fn ready(&mut self) -> Ready {
        let mut committed = Vec::new();
        if self.stopped.is_none() {
            self.notice_leader();
            self.pump();
            if self.raft.has_ready() {
                committed = self.turn();
            }
            self.set_election_timeout();
        }
        Ready {
            messages: std::mem::take(&mut self.outbox),
            jobs: std::mem::take(&mut self.jobs),
            committed,
            restored: self.restored.take(),
            answers: std::mem::take(&mut self.answers),
        }
    }

    /// Does what raft says is ready; returns what is committed.
    fn turn(&mut self) -> Vec<Entry> {
        let mut ready = self.raft.ready();
        let number = ready.number();
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index);
        }
        let (now, later) = (ready.take_messages(), ready.take_persisted_messages());
        let (committed, entries) = (ready.take_committed_entries(), ready.take_entries());
        let (must_sync, metadata) = (ready.must_sync(), ready.snapshot().metadata.clone().unwrap_or_default());
        let store = self.raft.mut_store();
        let voted = ready.hs().is_some_and(|hard| (hard.term, hard.vote) != (store.hard().term, store.hard().vote));
        if let Some(hard) = ready.hs() {
            store.set_hard(hard);
        }
        let mark = (metadata.index > 0).then_some((metadata.index, metadata.term));
        let writes = must_sync || !entries.is_empty() || mark.is_some();
        if writes {
            let record = Draft::new(store.hard(), mark, &entries);
            let last_index = entries.last().map_or(metadata.index, |entry| entry.index);
            if let Some((index, term)) = mark {
                store.restart(index, term);
            }
            // Raft hands out entries without gaps.
            store.append(entries).expect("invariant: entries follow each other");
            self.jobs.push(match mark {
                Some((index, _)) => Job::Install { number, index, record },
                None => Job::Append { number, last_index, record },
            });
        }
        self.raft.advance_append_async(ready);
        now.into_iter().for_each(|message| self.send(message));
        self.keep(number, writes, voted, later);
        // A read that is confirmed and needs nothing more applied.
        self.answer_reads();
        committed
    }

    /// Keeps messages back until what they rest on is durable.
    fn keep(&mut self, number: u64, writes: bool, votes: bool, messages: Vec<Message>) {
        // These say only that this member is there, and rest on nothing but its term.
        let settled = !votes && !self.kept.iter().any(|kept| kept.votes);
        let free = |message: &Message| {
            settled && matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex)
        };
        let (free, messages): (Vec<_>, Vec<_>) = messages.into_iter().partition(free);
        free.into_iter().for_each(|message| self.send(message));
        let writes = writes && !planted::is(Bug::FollowerAcksBeforeSync);
        match self.kept.back_mut() {
            Some(kept) if !writes => {
                kept.number = number;
                kept.messages.extend(messages);
            }
            None if !writes => {
                self.raft.on_persist_ready(number);
                messages.into_iter().for_each(|message| self.send(message));
            }
            _ => self.kept.push_back(Kept { job: number, number, votes, messages }),
        }
    }

    /// Applies committed entries; returns what each revision changed. An error is a log that makes no sense.
    pub(crate) fn apply(&mut self, state: &mut Mvcc, committed: Vec<Entry>) -> Result<Vec<Arc<Revised>>, String> {
        let mut fresh = Vec::new();
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(fresh) };
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            self.applied = (index, term);
            let nonsense = |why: &str| format!("entry {index}: {why}");
            let context = Context::decode(&entry.context).map_err(|why| nonsense(why.0))?;
            let configures = entry.get_entry_type() != EntryType::EntryNormal;
            let outcome = match &context.change {
                Some(change) if configures == change.configures().is_some() => {
                    let changed = self.apply_change(change).map_err(|error| nonsense(&error))?;
                    Some(Ok(Reply::Changed(changed)))
                }
                Some(_) => return Err(nonsense("it does not change the members as it says")),
                None if configures => return Err(nonsense("it changes the members and does not say how")),
                // Raft's own: the first of a term.
                None if entry.data.is_empty() => None,
                None => {
                    let command = codec::decode(&Bytes::from(entry.data)).map_err(|why| nonsense(why.0))?;
                    Some(state.apply_collecting(&command, &mut fresh).map(Reply::Outcome))
                }
            };
            let (token, never) = self.proposals.applied(index, term, context.tag);
            never.into_iter().for_each(|token| self.refuse(token, "write", "another leader was elected"));
            self.answers.extend(token.zip(outcome));
        }
        self.raft.advance_apply_to(last);
        self.state_now = state.now();
        if self.state_now > self.clock.at(self.now) {
            self.clock = Clock { base: self.state_now, since: self.now };
        }
        let keep = if self.roster.len() > 1 { self.config.log_bytes } else { 0 };
        self.raft.mut_store().forget(last, keep);
        self.answer_reads();
        if self.roster.was_removed(self.id) {
            self.stop(REMOVED);
        }
        Ok(fresh)
    }

    fn answer_reads(&mut self) {
        let reached = self.reads.reached(self.applied.0);
        self.answers.extend(reached.into_iter().map(|token| (token, Ok(Reply::Confirmed))));
    }

    /// Takes no part any more. Who waits is told what is certain and what is not.
    pub(crate) fn stop(&mut self, why: &str) {
        if self.stopped.is_some() {
            return;
        }
        tracing::error!(member = self.id, why, "this member takes no part any more");
        if let Some(successor) = self.successor().filter(|_| self.leads()) {
            let mut go = Message { to: successor, from: self.id, term: self.raft.raft.term, ..Message::default() };
            go.set_msg_type(MessageType::MsgTimeoutNow);
            self.post(successor, Body::Raft(message::encode(&go)));
        }
        let lost = self.proposals.expire(Millis::MAX);
        self.answer_lost(lost, why, why);
        for token in self.reads.drain() {
            self.refuse(token, "read", why);
        }
        self.stopped = Some(why.to_owned());
    }

    fn answer_lost(&mut self, lost: Lost, never: &str, unknown: &str) {
        lost.never.into_iter().for_each(|token| self.refuse(token, "write", never));
        for token in lost.unknown {
            self.answers.push((token, Err(Error::Uncertain { operation: "a write", why: unknown.to_owned() })));
        }
    }

    fn refuse(&mut self, token: Token, operation: &'static str, why: &str) {
        self.answers.push((token, Err(Error::Unavailable { operation, why: why.to_owned() })));
    }

    /// Sends a message of raft's.
    fn send(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.begin_sending(message);
        } else {
            for part in message::parts(message, MESSAGE_BYTES) {
                self.post(part.to, Body::Raft(message::encode(&part)));
            }
        }
    }

    fn post(&mut self, to: MemberId, body: Body) {
        self.outbox.push(Envelope { cluster: self.cluster, from: self.id, to, body: Some(body) });
    }

    /// Raft draws a random number whenever it begins a term anew; this takes its place.
    fn set_election_timeout(&mut self) {
        let spread = (ELECTION_TICKS.end - ELECTION_TICKS.start) as u64;
        let bits = mix(self.config.life ^ mix(self.id ^ mix(self.raft.raft.term)));
        let ticks = ELECTION_TICKS.start + usize::try_from(bits % spread).unwrap_or(0);
        self.raft.raft.set_randomized_election_timeout(ticks);
    }

    /// Everyone's addresses: as the log says, or as it was told when it joined.
    pub(crate) fn contacts(&self) -> Vec<members::Member> {
        if self.roster.len() == 0 { self.contacts.clone() } else { self.roster.members().cloned().collect() }
    }

    /// How often what [`Member::contacts`] says has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Index and term of the last entry applied.
    #[cfg(feature = "testing")]
    pub(crate) fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// What it is at, for who has to find out why.
    #[cfg(feature = "testing")]
    pub(crate) fn describe(&self) -> String {
        let raft = &self.raft.raft;
        let kept: Vec<_> = self.kept.iter().map(|kept| (kept.job, kept.number, kept.messages.len())).collect();
        let moving = (self.sending.keys().collect::<Vec<_>>(), self.receiving.is_some(), self.arrived.is_some());
        let progress: BTreeMap<_, _> = raft.prs().iter().map(|(id, it)| (id, (it.state, it.matched))).collect();
        format!(
            "{:?}, log {:?}..{} persisted {}, kept {kept:?}, snapshots {moving:?}, {progress:?}, promotable {}, {:?}",
            raft.state,
            self.raft.store().base(),
            raft.raft_log.last_index(),
            raft.raft_log.persisted,
            raft.promotable(),
            self.full,
        )
    }

    /// Why it takes no part any more.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Whether it is the only one who votes, leads, and has applied everything from before: its state is the newest there is.
    pub(crate) fn is_alone(&self) -> bool {
        let raft = &self.raft.raft;
        raft.state == StateRole::Leader && raft.prs().is_singleton() && raft.apply_to_current_term()
    }

    /// Whether there are others, so that time must pass.
    pub(crate) fn ticks(&self) -> bool {
        self.stopped.is_none() && !(self.roster.len() == 1 && self.roster.get(self.id).is_some())
    }

    /// How it sees its cluster.
    pub(crate) fn standing(&self) -> Standing {
        let raft = &self.raft.raft;
        Standing {
            cluster: self.cluster,
            member: self.id,
            leader: if self.stopped.is_some() { 0 } else { raft.leader_id },
            term: raft.term,
            committed: raft.raft_log.committed,
            applied: self.applied.0,
            learner: self.roster.get(self.id).is_none_or(|member| member.learner),
        }
    }

    /// Bytes of the newest snapshot on disk.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// What a snapshot of the state as applied is called.
    pub(crate) fn metadata(&self) -> SnapshotMetadata {
        let (index, term) = self.applied;
        SnapshotMetadata { index, term, conf_state: Some(self.roster.configuration()) }
    }
}

fn same(left: &ConfState, right: &ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&left.voters) == sorted(&right.voters) && sorted(&left.learners) == sorted(&right.learners)
}

/// An error with its causes, for where it goes on as text.
pub(crate) fn chain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
