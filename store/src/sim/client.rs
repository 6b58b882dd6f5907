//! Clients: what they ask for, of whichever member, and what they are told.
//!
//! The store's revisions say in which order everything happened; so every answer can be checked on its own. It must agree
//! with the [`truth`](super::truth) at the revision that it names, and that revision must not be older than what
//! anyone was told before the call began (newer, if the call wrote).

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::StreamExt;

use super::dice::Dice;
use super::witness;
use super::world::{Happening, Micros, World};
use crate::backend::{Error, WatchStream};
use crate::check::load::{self, Load};
use crate::check::{self, Request, Saw};
use crate::kv::{CompareTarget, Op, OpResult, Range, RangeReply, Revision, Txn, TxnReply, WatchFrom};
use crate::members::MemberId;
use crate::mvcc::{Action, Outcome, codec};
use crate::replica::member::Reply;
use crate::replica::proposals::Proposal;

/// How long a client waits for an answer.
const PATIENCE: Micros = 10_000_000;

/// One client. It does one thing after the other.
pub(crate) struct Client {
    load: Load,
    call: Option<Call>,
    /// Calls that were answered.
    pub(crate) done: u64,
    watch: Option<Watching>,
    /// Values of writes that certainly did not happen.
    never: BTreeSet<Bytes>,
}

struct Call {
    asked: Asked,
    /// What everyone had been told of when it began.
    floor: Revision,
    began: Micros,
    /// Its number in the history; none for one that is no part of it.
    number: Option<usize>,
}

#[derive(Clone, Debug)]
enum Asked {
    Txn(Txn),
    Range(Range),
    Grant,
    /// Something about leases or history.
    Other,
}

struct Watching {
    member: MemberId,
    stream: Option<WatchStream>,
    /// Its number in the history.
    number: usize,
    start: Bytes,
    end: Bytes,
    /// Everything up to here was handed out.
    after: Revision,
}

impl Client {
    pub(crate) fn new(id: usize, dice: Dice) -> Self {
        let load = Load::new(id as u64, dice);
        Self { load, call: None, done: 0, watch: None, never: BTreeSet::new() }
    }
}

/// How a client remembers what it asks for, and the command that it is; none for a read.
fn ask(request: &Request) -> (Asked, Option<Action>) {
    let other = |action| (Asked::Other, Some(action));
    match request {
        Request::Range(range) => (Asked::Range(range.clone()), None),
        Request::Txn(txn) => (Asked::Txn(txn.clone()), Some(Action::Txn(txn.clone()))),
        Request::Grant { id, ttl } => (Asked::Grant, Some(Action::Grant { id: *id, ttl: *ttl })),
        Request::KeepAlive(lease) => other(Action::KeepAlive(*lease)),
        Request::Revoke(lease) => other(Action::Revoke(*lease)),
        Request::Compact(revision) => other(Action::Compact(*revision)),
    }
}

impl World {
    /// A client's next step.
    pub(crate) fn client(&mut self, client: usize) {
        let now = self.now;
        let pause = self.clients[client].load.dice().within(1_000..60_000);
        if let Some(call) = &self.clients[client].call {
            if now < call.began + PATIENCE {
                return self.soon(500_000, Happening::Client(client));
            }
            // Its member never answers, though it lives: members answer within their own patience.
            let told = self.slots.values().map(super::slot::Slot::describe).collect::<Vec<_>>().join("\n  ");
            let asked = &call.asked;
            let why = format!("client {client} was not answered for 10 s: {asked:?}\n  {told}");
            return self.blame(why);
        }
        if now >= self.rest {
            return;
        }
        self.soon(pause, Happening::Client(client));
        let up = self.up();
        let Some(member) = self.clients[client].load.dice().pick(&up) else { return };
        self.watch(client, member);
        let newest = self.truth.newest();
        let request = self.clients[client].load.next(newest);
        let (asked, action) = ask(&request);
        let floor = self.told;
        let past = matches!(&request, Request::Range(range) if range.revision != 0);
        let number = (!past).then(|| self.witness.asked(now, client, request));
        self.clients[client].call = Some(Call { asked: asked.clone(), floor, began: now, number });
        if let Asked::Range(range) = &asked
            && range.revision != 0
        {
            return self.read_past(client, member, range);
        }
        self.with(member, |running, now| {
            running.token += 1;
            running.waiting.insert(running.token, client);
            match action {
                Some(action) => {
                    let proposal = Proposal::Command(codec::encode(&action));
                    running.engine.member_mut().propose(running.token, proposal, now);
                }
                None => running.engine.member_mut().read(running.token, now),
            }
        });
    }

    /// A read at a revision that the member has; what it has not it says that it has not.
    fn read_past(&mut self, client: usize, member: MemberId, range: &Range) {
        self.clients[client].call = None;
        let Some(running) = self.slots.get(&member).and_then(|slot| slot.running.as_ref()) else { return };
        let reply = running.engine.shared().state.read().range(range);
        if let Ok(reply) = reply {
            self.clients[client].done += 1;
            self.check_range(&range.start, range.revision, &reply);
        }
    }

    /// A client is told what became of its call.
    pub(crate) fn answered(&mut self, client: usize, member: MemberId, result: Result<Reply, Error>) {
        let Some(Call { asked, floor, number, .. }) = self.clients[client].call.take() else { return };
        self.clients[client].done += 1;
        if let Some(number) = number {
            let told = self.learns(member, &asked, &result);
            self.witness.told(self.now, number, told);
        }
        match (asked, result) {
            (Asked::Txn(txn), Ok(Reply::Outcome(Outcome::Txn(reply)))) => self.check_txn(&txn, floor, &reply),
            (Asked::Txn(txn), Err(error)) if !matches!(error, Error::Uncertain { .. }) => {
                let values = txn.success.into_iter().filter_map(|op| match op {
                    Op::Put { value, .. } => Some(value),
                    Op::Update { .. } | Op::Delete { .. } | Op::Range(_) | Op::Txn(_) => None,
                });
                self.clients[client].never.extend(values);
            }
            (Asked::Range(range), Ok(Reply::Confirmed)) => {
                let Some(running) = self.slots.get(&member).and_then(|slot| slot.running.as_ref()) else { return };
                let reply = running.engine.shared().state.read().range(&range);
                match reply {
                    Ok(reply) if reply.revision < floor => self.blame(format!(
                        "member {member} read revision {} though {floor} had been told of",
                        reply.revision
                    )),
                    Ok(reply) => {
                        self.told = self.told.max(reply.revision);
                        let key = if range.end.is_empty() { range.start } else { Bytes::from_static(b"k") };
                        self.check_range(&key, reply.revision, &reply);
                    }
                    Err(error) => self.blame(format!("a read of what is newest says: {error}")),
                }
            }
            (Asked::Grant, Ok(Reply::Outcome(Outcome::Granted(lease)))) => {
                self.clients[client].load.granted(lease);
            }
            (Asked::Other | Asked::Grant, Ok(Reply::Outcome(_))) | (_, Err(_)) => {}
            (_, Ok(reply)) => self.blame(format!("client {client} was answered with {reply:?}")),
        }
    }

    /// What a client knows after an answer.
    fn learns(&self, member: MemberId, asked: &Asked, result: &Result<Reply, Error>) -> check::Outcome {
        let state = self.slots.get(&member).and_then(|slot| slot.running.as_ref()).map(|r| r.engine.shared());
        match (asked, result) {
            (Asked::Range(range), Ok(_)) => match state.map(|shared| shared.state.read().range(range)) {
                Some(result) => check::Outcome::of(result.as_ref().map(|reply| check::Reply::Range(reply.clone()))),
                None => check::Outcome::Unknown,
            },
            (_, Ok(Reply::Outcome(outcome))) => check::Outcome::Ok(witness::reply(outcome)),
            (_, Ok(_)) => check::Outcome::Unknown,
            (_, Err(error)) => check::Outcome::of(Err(error)),
        }
    }

    fn check_txn(&mut self, txn: &Txn, floor: Revision, reply: &TxnReply) {
        let revision = reply.revision;
        let writes = reply.results.iter().any(|result| match result {
            OpResult::Put(_) => true,
            OpResult::Delete(gone) => !gone.is_empty(),
            OpResult::Range(_) | OpResult::Txn(_) => false,
        });
        if revision < floor || (writes && revision == floor) {
            self.blame(format!("a transaction happened at {revision} though {floor} had been told of before"));
        }
        let before = if writes { revision - 1 } else { revision };
        for compare in &txn.compare {
            let modified = self.truth.at(&compare.start, before).map_or(0, |entry| entry.mod_revision);
            let CompareTarget::ModRevision(asked) = compare.target else { continue };
            if reply.succeeded != (modified < asked) {
                self.blame(format!("{txn:?} said {} at {revision}, where {modified} is", reply.succeeded));
            }
        }
        let branch = if reply.succeeded { &txn.success } else { &txn.failure };
        for (op, result) in branch.iter().zip(&reply.results) {
            match (op, result) {
                (Op::Put { key, value, .. }, OpResult::Put(prev)) => {
                    if !self.truth.wrote(revision, key, value) || *prev != self.truth.at(key, before) {
                        self.blame(format!("{op:?} at {revision} said {result:?}, which is not what happened"));
                    }
                }
                (Op::Delete { start, .. }, OpResult::Delete(gone)) => {
                    if gone.first().cloned() != self.truth.at(start, before) {
                        self.blame(format!("{op:?} at {revision} said {result:?}, which is not what happened"));
                    }
                }
                (Op::Range(range), OpResult::Range(found)) => self.check_range(&range.start, revision, found),
                _ => self.blame(format!("{op:?} was answered with {result:?}")),
            }
        }
        self.told = self.told.max(revision);
    }

    /// A range of one key, or of all that begin with `k`.
    fn check_range(&mut self, start: &Bytes, revision: Revision, reply: &RangeReply) {
        let keys: Vec<Bytes> = if start.len() > 1 { vec![start.clone()] } else { load::keys().collect() };
        let expected: Vec<_> = keys.iter().filter_map(|key| self.truth.at(key, revision)).collect();
        if reply.entries != expected {
            let found = &reply.entries;
            self.blame(format!("{start:?} at {revision} was read as {found:?}, but it was {expected:?}"));
        }
    }

    /// Opens a watch, now and then somewhere else, from where the last one ended.
    fn watch(&mut self, client: usize, member: MemberId) {
        let newest = self.truth.newest();
        let it = &mut self.clients[client];
        let moves = it.watch.as_ref().is_none_or(|watch| watch.stream.is_none()) || it.load.dice().chance(30);
        if !moves {
            return;
        }
        let whole = it.load.dice().chance(500);
        let mut watch = it.watch.take().unwrap_or_else(|| Watching {
            member,
            stream: None,
            number: 0,
            start: Bytes::from_static(b"k"),
            end: if whole { Bytes::from_static(b"l") } else { Bytes::from_static(b"k4") },
            after: newest,
        });
        watch.member = member;
        let Some(running) = self.slots.get(&member).and_then(|slot| slot.running.as_ref()) else { return };
        let shared = running.engine.shared();
        let from = WatchFrom::Revision(watch.after + 1);
        let opened = shared.watchers.lock().watch(&shared.state.read(), watch.start.clone(), watch.end.clone(), from);
        let number = self.witness.watched(self.now, client, (watch.start.clone(), watch.end.clone()), from);
        match opened {
            Ok(stream) => (watch.number, watch.stream) = (number, Some(stream)),
            Err(error) => {
                self.witness.saw(self.now, number, Saw::end(&error));
                // What it has not seen is gone: it would have to list again.
                watch.after = newest;
            }
        }
        self.clients[client].watch = Some(watch);
        self.look_at_watches(member);
    }

    /// Takes what watches on a member hand out.
    pub(crate) fn look_at_watches(&mut self, member: MemberId) {
        let waker = futures::task::noop_waker();
        let mut context = std::task::Context::from_waker(&waker);
        for client in 0..self.clients.len() {
            let Some(mut watch) = self.clients[client].watch.take() else { continue };
            while watch.member == member
                && let Some(stream) = &mut watch.stream
                && let std::task::Poll::Ready(next) = stream.poll_next_unpin(&mut context)
            {
                let saw =
                    next.as_ref().map(|next| next.as_ref().map_or_else(Saw::end, |batch| Saw::Batch(batch.clone())));
                self.witness.saw(self.now, watch.number, saw.unwrap_or(Saw::Ended));
                match next {
                    // Opened at a revision that this member has not reached, it says how far the member is.
                    Some(Ok(batch)) if batch.events.is_empty() && batch.revision < watch.after => {}
                    Some(Ok(batch)) => {
                        if let Err(why) = self.truth.watched(&watch.start, &watch.end, watch.after, &batch) {
                            self.blame(why);
                        }
                        watch.after = batch.revision;
                    }
                    Some(Err(_)) | None => watch.stream = None,
                }
            }
            self.clients[client].watch = Some(watch);
        }
    }

    /// A member is gone, and the watches on it with it.
    pub(crate) fn lose_watches(&mut self, member: MemberId) {
        for watch in self.clients.iter_mut().filter_map(|client| client.watch.as_mut()) {
            if watch.member == member {
                watch.stream = None;
            }
        }
    }

    /// At the end: what was said never to have happened never did, and nothing happened twice.
    pub(crate) fn check_writes(&mut self) {
        let mut seen = BTreeSet::new();
        let written: Vec<(Revision, Bytes)> = self.truth.written().collect();
        for (revision, value) in written {
            if self.clients.iter().any(|client| client.never.contains(&value)) {
                self.blame(format!("{value:?} was said not to be written, but was at {revision}"));
            }
            if !seen.insert(value.clone()) {
                self.blame(format!("{value:?} was written a second time at {revision}"));
            }
        }
    }
}
