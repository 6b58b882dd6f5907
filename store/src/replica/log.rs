//! What raft asks of its log: the entries that are durable but not yet applied, in memory.
//!
//! Raft reads entries back only to apply them or to send them on. There is nobody to send to, so what is applied is
//! forgotten; the log on disk keeps it until a snapshot holds it.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::mvcc::codec::{Malformed, Reader, Writer};

/// The body of a record of the log on disk: raft's state, and entries.
pub(crate) fn encode(out: &mut Vec<u8>, hard: &HardState, entries: &[Entry]) {
    let mut writer = Writer(std::mem::take(out));
    writer.number(hard.term);
    writer.number(hard.vote);
    writer.number(hard.commit);
    writer.number(entries.len() as u64);
    for entry in entries {
        writer.number(u64::from(entry.entry_type.unsigned_abs()));
        writer.number(entry.index);
        writer.number(entry.term);
        writer.bytes(&entry.data);
    }
    *out = writer.0;
}

/// What [`encode`] was given.
pub(crate) fn decode(body: &[u8]) -> Result<(HardState, Vec<Entry>), Malformed> {
    let mut from = Reader::new(Bytes::copy_from_slice(body));
    let hard = HardState { term: from.number()?, vote: from.number()?, commit: from.number()? };
    let mut entries = Vec::new();
    for _ in 0..from.count()? {
        entries.push(Entry {
            entry_type: i32::try_from(from.number()?).map_err(|_| Malformed("an entry is of an unknown kind"))?,
            index: from.number()?,
            term: from.number()?,
            data: from.bytes()?.to_vec(),
            ..Entry::default()
        });
    }
    if !from.is_empty() {
        return Err(Malformed("bytes follow the entries"));
    }
    Ok((hard, entries))
}

/// The durable tail of the log. See the module.
pub(crate) struct Log {
    hard: HardState,
    members: ConfState,
    /// Index and term of the last entry forgotten.
    base: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Log {
    /// A log that goes on after a snapshot at this index and term.
    pub(crate) fn after(base: (u64, u64), members: ConfState) -> Self {
        let hard = HardState { term: base.1, vote: 0, commit: base.0 };
        Self { hard, members, base, entries: VecDeque::new() }
    }

    pub(crate) fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(crate) fn set_hard(&mut self, hard: &HardState) {
        self.hard = HardState { commit: hard.commit.max(self.base.0), ..hard.clone() };
    }

    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    pub(crate) fn members(&self) -> &ConfState {
        &self.members
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
            self.entries.truncate(keep);
            self.entries.push_back(entry);
        }
        Ok(())
    }

    /// Forgets entries up to and including `index`.
    pub(crate) fn forget(&mut self, index: u64) {
        while self.take_first(index).is_some() {}
        if self.entries.is_empty() {
            self.entries.shrink_to(1024);
        }
    }

    /// Takes out the oldest entry if it is known to be committed.
    pub(crate) fn take_committed(&mut self) -> Option<Entry> {
        self.take_first(self.hard.commit)
    }

    /// Index and term of the last entry forgotten or taken out.
    pub(crate) fn base(&self) -> (u64, u64) {
        self.base
    }

    fn take_first(&mut self, up_to: u64) -> Option<Entry> {
        let entry = self.entries.pop_front_if(|entry| entry.index <= up_to)?;
        self.base = (entry.index, entry.term);
        Some(entry)
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
        let mut entries: Vec<_> = self.entries.range(low..high).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
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

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Asked for only to bring another member up to date.
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
