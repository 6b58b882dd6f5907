//! Snapshots between members: sent in parts by who leads, taken and installed by who is too far behind.

use bytes::Bytes;
use raft::eraftpb::{Message, SnapshotMetadata};
use raft::{ProgressState, SnapshotStatus};

use super::{Clock, Job, Member, chain, same};
use crate::backend::Error;
use crate::members::MemberId;
use crate::replica::message::{self, Body, Part, Taken};
use crate::replica::snapshot::Snapshot;
use crate::replica::transfer::{Receiving, Sending, Taking};

impl Member {
    /// A snapshot of this member's own is on disk.
    pub(crate) fn snapshotted(&mut self, metadata: SnapshotMetadata, bytes: u64) {
        // One from another member may have come meanwhile.
        if metadata.index <= self.raft.store().on_disk().index || self.stopped.is_some() {
            return;
        }
        self.jobs.push(Job::Trim { index: metadata.index });
        self.raft.mut_store().set_snapshot(metadata);
        self.snapshot_bytes = bytes;
    }

    /// Another member cannot go on without a snapshot that is yet to be made.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.leads() && self.raft.store().is_wanted()
    }

    /// A snapshot is on its way to or from another member: the file is needed.
    pub(crate) fn is_transferring(&self) -> bool {
        !self.sending.is_empty() || self.receiving.is_some() || self.arrived.is_some()
    }

    pub(super) fn begin_sending(&mut self, message: Message) {
        let to = message.to;
        let index = message.get_snapshot().get_metadata().index;
        if index != self.raft.store().on_disk().index {
            self.raft.report_snapshot(to, SnapshotStatus::Failure);
            return;
        }
        tracing::info!(member = self.id, to, index, bytes = self.snapshot_bytes, "sending a snapshot");
        self.sending.insert(to, Sending::new(message, self.snapshot_bytes, self.now));
        self.send_parts(to);
    }

    fn send_parts(&mut self, to: MemberId) {
        let Some(sending) = self.sending.get_mut(&to) else { return };
        while let Some((offset, length)) = sending.next(self.config.part_bytes) {
            self.jobs.push(Job::ReadPart { to, index: sending.index(), offset, length });
        }
    }

    pub(super) fn part_read(&mut self, to: MemberId, index: u64, offset: u64, bytes: Result<Bytes, Error>) {
        let Some(sending) = self.sending.get(&to).filter(|sending| sending.index() == index) else { return };
        match bytes {
            Ok(bytes) => {
                let mut message = sending.message.clone();
                message.term = self.raft.raft.term;
                let part = Part { message: message::encode(&message), size: sending.size(), offset, bytes };
                self.post(to, Body::Part(part));
            }
            Err(error) => {
                tracing::warn!(to, index, error = chain(&error), "a snapshot cannot be sent");
                self.end_sending(to, SnapshotStatus::Failure);
            }
        }
    }

    pub(super) fn taken(&mut self, from: MemberId, taken: &Taken) {
        let Some(sending) = self.sending.get_mut(&from).filter(|sending| sending.index() == taken.index) else {
            return;
        };
        if taken.failed {
            self.end_sending(from, SnapshotStatus::Failure);
        } else {
            sending.taken(taken.offset, self.now);
            self.send_parts(from);
        }
    }

    fn end_sending(&mut self, to: MemberId, status: SnapshotStatus) {
        self.sending.remove(&to);
        self.raft.report_snapshot(to, status);
    }

    /// Sends again what got lost, and forgets what has arrived or never will.
    pub(super) fn tick_transfers(&mut self) {
        for to in self.sending.keys().copied().collect::<Vec<_>>() {
            let waits = self.raft.raft.prs().get(to).is_some_and(|progress| progress.state == ProgressState::Snapshot);
            let Some(sending) = self.sending.get_mut(&to) else { continue };
            if !waits {
                // It has told raft itself that it has it, or it is no member any more.
                self.sending.remove(&to);
            } else if sending.tick(self.now) {
                self.send_parts(to);
            } else {
                self.end_sending(to, SnapshotStatus::Failure);
            }
        }
    }

    pub(super) fn take_part(&mut self, from: MemberId, part: Part) {
        let Some(message) = message::decode(&part.message) else { return };
        let index = message.get_snapshot().get_metadata().index;
        // One that is being installed is not disturbed.
        if message.term < self.raft.raft.term || message.from != from || self.arrived.is_some() {
            return;
        }
        // It is here already, and the leader has not heard so: raft tells it, or it would send for ever.
        if index <= self.applied.0 {
            return self.hear_of(message);
        }
        let current = self.receiving.as_mut().filter(|receiving| receiving.is(from, &message, part.size));
        let receiving = match current {
            Some(receiving) => {
                receiving.message = message;
                receiving
            }
            None if part.offset > 0 => return self.tell(from, index, 0, false),
            None => self.receiving.insert(Receiving::new(from, message, part.size)),
        };
        match receiving.part(part.offset, part.bytes.len() as u64) {
            Taking::Write => self.jobs.push(Job::TakePart { index, offset: part.offset, bytes: part.bytes }),
            Taking::Tell(offset) => self.tell(from, index, offset, false),
        }
    }

    /// Raft hears of a snapshot that is here.
    fn hear_of(&mut self, message: Message) {
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(%error, "raft did not want a snapshot");
        }
    }

    fn tell(&mut self, to: MemberId, index: u64, offset: u64, failed: bool) {
        self.post(to, Body::Taken(Taken { index, offset, failed }));
    }

    pub(super) fn part_taken(&mut self, index: u64, end: Result<u64, Error>) {
        let Some(receiving) = self.receiving.as_mut().filter(|receiving| receiving.index() == index) else { return };
        let from = receiving.from;
        match end {
            Ok(end) => {
                if receiving.written(end) {
                    self.jobs.push(Job::Check { index });
                }
                self.tell(from, index, end, false);
            }
            Err(error) => {
                tracing::warn!(index, error = chain(&error), "a snapshot from another member cannot be written down");
                self.receiving = None;
                self.tell(from, index, 0, true);
            }
        }
    }

    /// What was received is read back: raft may hear of it.
    pub(super) fn checked(&mut self, index: u64, found: Result<Box<(Snapshot, u64)>, Error>) {
        let Some(receiving) = self.receiving.take_if(|receiving| receiving.index() == index) else { return };
        let metadata = receiving.message.get_snapshot().get_metadata().clone();
        let fits = |found: &(Snapshot, u64)| {
            let conf_state = metadata.conf_state.clone().unwrap_or_default();
            (found.0.index, found.0.term) == (metadata.index, metadata.term)
                && same(&found.0.roster.configuration(), &conf_state)
        };
        match found {
            Ok(found) if fits(&found) => {
                self.arrived = Some(found);
                self.hear_of(receiving.message);
                let wanted = self.raft.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index);
                if !wanted {
                    self.arrived = None;
                }
            }
            Ok(_) => self.tell(receiving.from, index, 0, true),
            Err(error) => {
                tracing::warn!(index, error = chain(&error), "a snapshot from another member is broken");
                self.tell(receiving.from, index, 0, true);
            }
        }
    }

    /// The snapshot is this member's own: it goes on from there.
    pub(super) fn installed(&mut self) {
        let Some((snapshot, bytes)) = self.arrived.take().map(|arrived| *arrived) else { return };
        tracing::info!(member = self.id, index = snapshot.index, bytes, "goes on from a snapshot of another member");
        self.applied = (snapshot.index, snapshot.term);
        self.roster = snapshot.roster;
        self.changes += 1;
        self.raft.advance_apply_to(snapshot.index);
        let metadata = self.metadata();
        self.raft.mut_store().set_snapshot(metadata);
        self.snapshot_bytes = bytes;
        self.state_now = snapshot.state.now();
        self.clock = Clock { base: self.state_now, since: self.now };
        let lost = self.proposals.skipped(snapshot.index, snapshot.term);
        let why = "this member went on from a snapshot, which does not say";
        self.answer_lost(lost, why, why);
        self.restored = Some(snapshot.state);
        self.answer_reads();
    }
}
