//! What raft asks of its log: the newest entries, in memory.
//!
//! Raft reads entries back to apply them, and to send them to members that are behind. A member alone forgets what is
//! applied; one of several keeps the newest few megabytes of it. Who is further behind is sent a snapshot. The log on disk
//! keeps everything until a snapshot holds it.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::mvcc::codec::{Malformed, Reader, Writer};

/// Marks that the log goes on after a snapshot: what was before it in the log counts for nothing.
const MARK: u64 = 3;

/// Beside its own kind, an entry has a context.
const WITH_CONTEXT: u64 = 4;

/// The body of a record of the log on disk.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) hard: HardState,
    /// Index and term of the snapshot that the log goes on from.
    pub(crate) mark: Option<(u64, u64)>,
    pub(crate) entries: Vec<Entry>,
}

/// A record that is yet to be written, and may be joined by later ones first: then one write makes all of them durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    hard: HardState,
    mark: Option<(u64, u64)>,
    count: usize,
    entries: Vec<u8>,
}

impl Draft {
    pub(crate) fn new(hard: &HardState, mark: Option<(u64, u64)>, entries: &[Entry]) -> Self {
        let size: usize = entries.iter().map(|entry| entry.data.len() + entry.context.len() + 32).sum();
        let mut out = Writer(Vec::with_capacity(size));
        for entry in entries {
            let context = if entry.context.is_empty() { 0 } else { WITH_CONTEXT };
            out.number(u64::from(entry.entry_type.unsigned_abs()) | context);
            out.number(entry.index);
            out.number(entry.term);
            out.bytes(&entry.data);
            if context != 0 {
                out.bytes(&entry.context);
            }
        }
        Self { hard: hard.clone(), mark, count: entries.len(), entries: out.0 }
    }

    /// What comes after it. An entry replaces one of the same index, and all after it; so that is the same record.
    pub(crate) fn join(&mut self, later: &Self) {
        self.hard = later.hard.clone();
        self.count += later.count;
        self.entries.extend_from_slice(&later.entries);
    }

    /// Bytes that it takes, about.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + 64
    }

    /// The body of the record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(self.len()));
        out.number(self.hard.term);
        out.number(self.hard.vote);
        out.number(self.hard.commit);
        out.number((self.count + usize::from(self.mark.is_some())) as u64);
        if let Some((index, term)) = self.mark {
            out.number(MARK);
            out.number(index);
            out.number(term);
            out.bytes(&[]);
        }
        out.0.extend_from_slice(&self.entries);
        out.0
    }
}

/// What [`Draft::encode`] made.
pub(crate) fn decode(body: &[u8]) -> Result<Record, Malformed> {
    let mut from = Reader::new(Bytes::copy_from_slice(body));
    let hard = HardState { term: from.number()?, vote: from.number()?, commit: from.number()? };
    let mut record = Record { hard, ..Record::default() };
    for at in 0..from.count()? {
        let kind = from.number()?;
        let (index, term, data) = (from.number()?, from.number()?, from.bytes()?.to_vec());
        let context = if kind & WITH_CONTEXT == 0 { Vec::new() } else { from.bytes()?.to_vec() };
        match kind & !WITH_CONTEXT {
            MARK if at == 0 => record.mark = Some((index, term)),
            entry_type @ 0..=1 => {
                let entry_type = i32::try_from(entry_type).map_err(|_| Malformed("a kind is too large"))?;
                record.entries.push(Entry { entry_type, index, term, data, context, ..Entry::default() });
            }
            _ => return Err(Malformed("an entry is of an unknown kind")),
        }
    }
    if !from.is_empty() {
        return Err(Malformed("bytes follow the entries"));
    }
    Ok(record)
}

/// The newest entries. See the module.
pub(crate) struct Log {
    hard: HardState,
    members: ConfState,
    /// Index and term of the last entry forgotten.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    /// Bytes of `entries`, about.
    bytes: u64,
    /// The newest snapshot on disk, which others may be sent.
    snapshot: SnapshotMetadata,
    /// Another member needs a newer one.
    wanted: Cell<bool>,
}

impl Log {
    /// A log that goes on after a snapshot.
    pub(crate) fn after(snapshot: SnapshotMetadata) -> Self {
        let base = (snapshot.index, snapshot.term);
        let hard = HardState { term: base.1, vote: 0, commit: base.0 };
        let members = snapshot.conf_state.clone().unwrap_or_default();
        Self { hard, members, base, entries: VecDeque::new(), bytes: 0, snapshot, wanted: Cell::new(false) }
    }

    pub(crate) fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(crate) fn set_hard(&mut self, hard: &HardState) {
        self.hard = HardState { commit: hard.commit.max(self.base.0), ..hard.clone() };
    }

    pub(crate) fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    /// Appends entries; one whose index exists already replaces it and all that follow.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<(), &'static str> {
        for entry in entries {
            if entry.index <= self.base.0 {
                continue;
            }
            let keep = usize::try_from(entry.index - self.base.0 - 1).unwrap_or(usize::MAX);
            if keep > self.entries.len() {
                return Err("an entry of the log is missing");
            }
            self.bytes -= self.entries.drain(keep..).map(|entry| size(&entry)).sum::<u64>();
            self.bytes += size(&entry);
            self.entries.push_back(entry);
        }
        Ok(())
    }

    /// Goes on after a snapshot that another member sent, or says that it did: all that was before is nothing.
    pub(crate) fn restart(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.bytes = 0;
        if index > self.base.0 {
            self.base = (index, term);
        }
    }

    /// A snapshot is on disk.
    pub(crate) fn set_snapshot(&mut self, snapshot: SnapshotMetadata) {
        self.snapshot = snapshot;
        self.wanted.set(false);
    }

    /// The newest snapshot on disk; index 0 when there is none.
    pub(crate) fn on_disk(&self) -> &SnapshotMetadata {
        &self.snapshot
    }

    /// Whether another member waits for a snapshot that is not there.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Forgets the oldest entries up to and including `index`, until what is kept is no more than `keep` bytes.
    pub(crate) fn forget(&mut self, index: u64, keep: u64) {
        while self.bytes > keep
            && let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= index)
        {
            self.bytes -= size(&entry);
            self.base = (entry.index, entry.term);
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(1024);
        }
    }

    /// Forgets the first entry of all: who joins is then sent a snapshot, in which the members are.
    pub(crate) fn forget_first(&mut self) {
        if self.base.0 == 0
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= size(&entry);
            self.base = (entry.index, entry.term);
        }
    }

    /// Index and term of the last entry forgotten.
    pub(crate) fn base(&self) -> (u64, u64) {
        self.base
    }

    /// One entry, if it is still in memory.
    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// Where an index is in `entries`.
    fn at(&self, index: u64) -> raft::Result<usize> {
        if index <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        let at = usize::try_from(index - self.base.0 - 1).unwrap_or(usize::MAX);
        if at > self.entries.len() { Err(StorageError::Unavailable.into()) } else { Ok(at) }
    }
}

/// Bytes that an entry takes in memory, about.
fn size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + size_of::<Entry>()) as u64
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let (low, high) = (self.at(low)?, self.at(high)?);
        let (limit, mut bytes) = (max_size.into().unwrap_or(u64::MAX), 0);
        // One at least, and no more than the limit; what is behind it is not even copied.
        let fitting = self.entries.range(low..high).take_while(|entry| {
            let first = bytes == 0;
            bytes += size(entry);
            first || bytes <= limit
        });
        Ok(fitting.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let at = self.at(index)?;
        self.entries.get(at).map(|entry| entry.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // What follows it must still be here, or it would not help; and who is not a member in it does not take it.
        let members = self.snapshot.conf_state.as_ref();
        let known = members.is_some_and(|members| members.voters.contains(&to) || members.learners.contains(&to));
        if !known || self.snapshot.index == 0 || self.snapshot.index < request_index.max(self.base.0) {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(Snapshot { metadata: Some(self.snapshot.clone()), ..Snapshot::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![7; 10], ..Entry::default() }
    }

    #[test]
    fn records_survive_the_round_trip() {
        let hard = HardState { term: 5, vote: 2, commit: 300 };
        let mut second = entry(302, 5);
        second.context = vec![1, 2, 3];
        second.entry_type = 1;
        for mark in [None, Some((300, 4))] {
            let entries = vec![entry(301, 5), second.clone()];
            let mut draft = Draft::new(&HardState::default(), mark, &entries[..1]);
            draft.join(&Draft::new(&hard, None, &entries[1..]));
            let bytes = draft.encode();
            assert_eq!(decode(&bytes).unwrap(), Record { hard: hard.clone(), mark, entries });
            for end in 0..bytes.len() {
                assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_forgotten_is_compacted_and_what_is_replaced_is_gone() {
        let mut log = Log::after(SnapshotMetadata { index: 4, term: 1, ..SnapshotMetadata::default() });
        log.append((5..=10).map(|index| entry(index, 1)).collect()).unwrap();
        log.append(vec![entry(8, 2)]).unwrap();
        assert_eq!((log.last_index().unwrap(), log.term(8).unwrap(), log.term(7).unwrap()), (8, 2, 1));
        assert!(log.append(vec![entry(10, 2)]).is_err(), "9 is missing");
        log.forget(6, 0);
        assert_eq!((log.first_index().unwrap(), log.term(6).unwrap()), (7, 1));
        assert!(log.term(5).is_err());
        log.forget(8, u64::MAX);
        assert_eq!(log.first_index().unwrap(), 7, "there is room to keep them");
        log.restart(20, 3);
        assert_eq!((log.last_index().unwrap(), log.term(20).unwrap(), log.bytes), (20, 3, 0));
    }
}
