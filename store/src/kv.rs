//! The words of the contract: keys, revisions, entries, events, transactions.

use bytes::Bytes;

/// The store's one clock: every transaction that changes something takes the next. 0 means "none"; the first is 1.
pub type Revision = u64;

/// Names a lease; 0 means "none".
pub type LeaseId = i64;

/// One key as it is at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key, since it was last absent.
    pub create_revision: Revision,
    /// The revision that last wrote it.
    pub mod_revision: Revision,
    /// Writes since it was created; 1 at creation.
    pub version: u64,
    /// The lease that it dies with; 0 for none.
    pub lease: LeaseId,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was created or changed.
    Put {
        /// As it is now.
        entry: Entry,
        /// As it was before; none when created, or when the backend no longer knows.
        prev: Option<Entry>,
    },
    /// The key was removed.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision that removed it.
        revision: Revision,
        /// As it was before; none only when the backend no longer knows.
        prev: Option<Entry>,
    },
}

impl Event {
    /// The key that was changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { entry, .. } => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { entry, .. } => entry.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What to read: keys in `start..end` (`end` exclusive; empty `end` reads `start` alone).
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// First key.
    pub start: Bytes,
    /// First key no longer wanted; empty for `start` alone.
    pub end: Bytes,
    /// At most so many entries; 0 for all.
    pub limit: usize,
    /// As of this revision; 0 for the newest.
    pub revision: Revision,
    /// Only count: no entries are returned, `limit` means nothing.
    pub count_only: bool,
}

impl Range {
    /// One key, now.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), ..Self::default() }
    }

    /// All keys with this prefix, now.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end, ..Self::default() }
    }
}

/// The first key after all that start with `prefix`; `[0]` (etcd's "everything") when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return end.into();
        }
        end.pop();
    }
    Bytes::from_static(&[0])
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// In key order.
    pub entries: Vec<Entry>,
    /// With [`Range::count_only`] all keys in the range; else those in `entries`, so that a page need not be counted to
    /// the end of its range.
    pub count: u64,
    /// There are entries beyond the limit.
    pub more: bool,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// What of a key is compared with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// `mod_revision` equals; 0 means that the key does not exist.
    ModRevision(Revision),
    /// `create_revision` equals; 0 means that the key does not exist.
    CreateRevision(Revision),
    /// `version` equals.
    Version(u64),
    /// The value equals.
    Value(Bytes),
    /// `mod_revision` is smaller.
    ModRevisionLess(Revision),
    /// `mod_revision` is greater.
    ModRevisionGreater(Revision),
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key looked at.
    pub key: Bytes,
    /// The condition.
    pub target: CompareTarget,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease that it dies with; 0 for none.
        lease: LeaseId,
    },
    /// Remove keys `start..end` (empty `end`: `start` alone).
    Delete {
        /// First key.
        start: Bytes,
        /// First key that stays; empty for `start` alone.
        end: Bytes,
    },
    /// Read, inside the transaction.
    Range(Range),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The entry that a put replaced.
    Put(Option<Entry>),
    /// The entries that a delete removed.
    Delete(Vec<Entry>),
    /// What a range found.
    Range(RangeReply),
}

/// If all of `compare` hold then `success`, else `failure`; at once, at one revision.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done when they do.
    pub success: Vec<Op>,
    /// Done when one does not.
    pub failure: Vec<Op>,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnReply {
    /// The compares held.
    pub succeeded: bool,
    /// The store's revision after it; that of its writes when it wrote.
    pub revision: Revision,
    /// One result per step of the branch taken.
    pub results: Vec<OpResult>,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// The first change after now.
    Now,
    /// The first change at or after this revision.
    Revision(Revision),
}

/// What a watch hands out at once: all changes of one or several whole revisions, in order.
#[derive(Clone, Debug, Default)]
pub struct WatchBatch {
    /// In revision order; the events of one revision are never split over batches.
    pub events: Vec<Event>,
    /// Everything up to and including this revision has been handed out. With no events: progress alone.
    pub revision: Revision,
}

/// How the store is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The newest revision.
    pub revision: Revision,
    /// Revisions below this can no longer be read.
    pub compacted: Revision,
    /// Bytes on disk, as far as the backend knows.
    pub disk_bytes: u64,
    /// This member leads, or the backend has a leader.
    pub has_leader: bool,
}
