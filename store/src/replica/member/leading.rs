//! A member and its leader: proposals on their way, and what a leader decides.

use bytes::Bytes;
use raft::{ProgressState, StateRole};

use super::{Clock, HEARTBEAT_TICKS, MESSAGE_BYTES, Member, TICK, chain, same};
use crate::backend::Error;
use crate::members::{self, MemberId};
use crate::mvcc::codec::{Reader, Writer};
use crate::mvcc::{Millis, codec};
use crate::replica::change::{self, View};
use crate::replica::entry::{Context, Tag};
use crate::replica::message::{self, Body, Forward, Refused, What};
use crate::replica::mix;
use crate::replica::proposals::{Held, Proposal};
use crate::replica::roster::Change;

/// Who has not been heard of for so long counts as dead when members are changed.
const ALIVE: Millis = 10 * TICK * HEARTBEAT_TICKS as Millis;

impl Member {
    pub(crate) fn leads(&self) -> bool {
        self.stopped.is_none() && self.raft.raft.state == StateRole::Leader
    }

    /// The store's clock, as its leader has it.
    pub(crate) fn clock(&self, now: Millis) -> Millis {
        self.clock.at(now)
    }

    /// The caller's time at which the store's clock will show so much.
    pub(crate) fn when(&self, clock: Millis) -> Millis {
        self.clock.since + clock.saturating_sub(self.clock.base)
    }

    /// Hands the lead to another voter, whoever has it now.
    pub(crate) fn transfer(&mut self, to: MemberId, now: Millis) {
        self.now = now;
        if self.stopped.is_none() {
            self.raft.transfer_leader(to);
        }
    }

    /// A connection to a member broke: what was sent is lost, maybe, and a leader finds out what it has. If it is the leader
    /// it may be dead, and waiting out the whole election timeout would help nobody; should it live, the others still hear
    /// it, and give no votes.
    pub(crate) fn unreachable(&mut self, id: MemberId, now: Millis) {
        self.now = now;
        if self.stopped.is_some() {
            return;
        }
        self.raft.report_unreachable(id);
        let raft = &mut self.raft.raft;
        if raft.leader_id == id && raft.state == StateRole::Follower {
            // Not all who see it at once shall ask for votes at once.
            let ticks = 1 + usize::try_from(mix(self.id ^ mix(raft.term)) % 4).unwrap_or(0);
            let elapsed = raft.randomized_election_timeout().saturating_sub(ticks);
            raft.election_elapsed = raft.election_elapsed.max(elapsed);
        }
    }

    /// The voter that is best prepared to lead in place of this one.
    pub(crate) fn successor(&self) -> Option<MemberId> {
        let others = self.roster.voters().filter(|id| *id != self.id && self.is_alive(*id));
        others.min_by_key(|id| (self.lag(*id), *id))
    }

    fn is_alive(&self, id: MemberId) -> bool {
        id == self.id || self.heard.get(&id).is_some_and(|at| at + ALIVE > self.now)
    }

    /// How many entries of the log a member lacks. One that has none yet, or waits for a snapshot, lacks everything.
    fn lag(&self, id: MemberId) -> u64 {
        let last = self.raft.raft.raft_log.last_index();
        let progress = self.raft.raft.prs().get(id);
        let progress = progress.filter(|progress| progress.matched > 0 && progress.state != ProgressState::Snapshot);
        progress.map_or(u64::MAX, |progress| last - progress.matched.min(last))
    }

    /// Reacts to another leader or term.
    pub(super) fn notice_leader(&mut self) {
        let led = (self.raft.raft.leader_id, self.raft.raft.term);
        if led == self.led {
            return;
        }
        self.led = led;
        self.reads.ask_anew();
        self.sending.clear();
        if led.0 == self.id {
            self.clock = Clock { base: self.state_now, since: self.now };
        }
    }

    /// Sends held proposals and new reads on their way.
    pub(super) fn pump(&mut self) {
        let leader = self.raft.raft.leader_id;
        if self.leads() {
            while self.raft.raft.lead_transferee.is_none()
                && let Some(held) = self.proposals.next_held()
            {
                self.propose_here(held);
            }
        } else if leader != raft::INVALID_ID && self.proposals.has_held() {
            let mut fresh = Vec::new();
            while let Some(held) = self.proposals.next_held() {
                fresh.push(self.proposals.forward(held, self.raft.raft.term, self.now));
            }
            self.send_forward(&fresh);
        }
        for context in self.reads.ask(self.now) {
            self.raft.read_index(context);
        }
    }

    fn propose_here(&mut self, held: Held) {
        if self.leaves_first(&held.proposal) {
            self.proposals.hold(held);
            return;
        }
        let Held { token, proposal, since } = held;
        match self.append(proposal, None) {
            Ok(index) => self.proposals.append(index, self.raft.raft.term, token, since),
            Err(why) => self.refuse(token, "write", &why),
        }
    }

    /// A leader that is to be removed hands over first, and the next one removes it. True when that was begun.
    fn leaves_first(&mut self, proposal: &Proposal) -> bool {
        let own = matches!(proposal, Proposal::Change(Change::Remove(id)) if *id == self.id);
        let successor = self.successor().filter(|_| own);
        if let Some(successor) = successor {
            self.raft.transfer_leader(successor);
        }
        successor.is_some()
    }

    /// Appends to the log, as leader; returns where. The error says why not, for certain.
    fn append(&mut self, proposal: Proposal, tag: Option<Tag>) -> Result<u64, String> {
        if let Some(why) = &self.full {
            return Err(why.clone());
        }
        let proposed = match proposal {
            Proposal::Command(mut command) => {
                codec::set_now(&mut command, self.clock.at(self.now));
                self.raft.propose(Context { tag, change: None }.encode(), command)
            }
            Proposal::Change(change) => {
                let change = self.judge(change)?;
                let configures = change.configures();
                let context = Context { tag, change: Some(change) }.encode();
                match configures {
                    Some(change) => self.raft.propose_conf_change(context, change),
                    None => self.raft.propose(context, Vec::new()),
                }
            }
        };
        proposed.map_err(|error| error.to_string())?;
        Ok(self.raft.raft.raft_log.last_index())
    }

    fn judge(&self, change: Change) -> Result<Change, String> {
        let view = View {
            leader: self.id,
            roster: &self.roster,
            alive: &|id| self.is_alive(id),
            lag: &|id| self.lag(id),
            pending: self.raft.raft.has_pending_conf(),
        };
        change::judge(change, &view)
    }

    /// Sends forwarded proposals to whom this member knows as leader, for the first time or again.
    pub(super) fn send_forward(&mut self, sequences: &[u64]) {
        let (leader, term) = (self.raft.raft.leader_id, self.raft.raft.term);
        if leader == raft::INVALID_ID {
            return;
        }
        let (life, floor) = (self.proposals.life(), self.proposals.floor());
        let mut sequences = sequences.iter().peekable();
        while sequences.peek().is_some() {
            let (mut proposals, mut bytes) = (Vec::new(), 0);
            while let Some(sequence) = sequences.next_if(|_| bytes < MESSAGE_BYTES) {
                let what = self.proposals.forwarded(*sequence).map(encode);
                bytes += what.as_ref().map_or(0, |what| what.encoded_len() as u64);
                proposals.extend(what.map(|what| message::Proposal { sequence: *sequence, what: Some(what) }));
            }
            self.post(leader, Body::Forward(Forward { term, life, floor, proposals }));
        }
    }

    /// Proposals of another member. What this one does not answer is sent again.
    pub(super) fn accept(&mut self, from: MemberId, forward: Forward) {
        let Forward { term, life, floor, proposals } = forward;
        for message::Proposal { sequence, what } in proposals {
            if !self.leads() || term != self.raft.raft.term || self.raft.raft.lead_transferee.is_some() {
                return;
            }
            let Some(proposal) = what.and_then(decode) else { continue };
            let tag = Tag { member: from, life, sequence };
            if self.leaves_first(&proposal) || !self.accepted.accept(term, tag, floor) {
                continue;
            }
            if let Err(why) = self.append(proposal, Some(tag)) {
                self.post(from, Body::Refused(Refused { life, sequence, why }));
            }
        }
    }

    /// A change of the members is in the log; returns whom it was about.
    pub(super) fn apply_change(&mut self, change: &Change) -> Result<Option<members::Member>, String> {
        self.changes += 1;
        if let Some(configures) = change.configures() {
            let raft = self.raft.apply_conf_change(&configures).map_err(|error| error.to_string())?;
            self.roster.apply(change);
            if !same(&raft, &self.roster.configuration()) {
                return Err("raft's members are not those of the roster".to_owned());
            }
            self.raft.mut_store().set_members(raft);
            self.raft.mut_store().forget_first();
            if let Change::Remove(id) = change {
                self.heard.remove(id);
                self.sending.remove(id);
            }
        } else {
            self.roster.apply(change);
        }
        Ok(self.roster.get(change.subject()).cloned())
    }

    /// The disk has no space. Who leads lets another do it.
    pub(super) fn out_of_space(&mut self, error: &Error) {
        let first = self.full.is_none();
        self.full = Some(chain(error));
        if first {
            tracing::warn!(member = self.id, error = chain(error), "nothing more is written until there is space");
            if let Some(successor) = self.successor().filter(|_| self.leads()) {
                self.raft.transfer_leader(successor);
            }
        }
    }
}

/// A proposal as it travels.
fn encode(proposal: &Proposal) -> What {
    match proposal {
        Proposal::Command(command) => What::Command(Bytes::copy_from_slice(command)),
        Proposal::Change(change) => {
            let mut out = Writer::default();
            change.encode(&mut out);
            What::Change(out.0.into())
        }
    }
}

/// What [`encode`] was given; none when it is something else.
fn decode(what: What) -> Option<Proposal> {
    match what {
        What::Command(command) => Some(Proposal::Command(command.into())),
        What::Change(bytes) => Change::decode(&mut Reader::new(bytes)).ok().map(Proposal::Change),
    }
}
