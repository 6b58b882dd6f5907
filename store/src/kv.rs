//! The words of the contract: keys, revisions, entries, events, transactions.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::planted::{self, Bug};

/// The store's one clock: every transaction that changes something takes the next. 0 means "none"; an empty store is at 1, as
/// in etcd, so that its readers have a revision to watch from.
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
    /// Count all keys in the range, also those beyond `limit`. It costs a walk to the end of the range.
    pub count_all: bool,
    /// Answer from what the member at hand has applied: perhaps not the newest, but at once, also without a leader.
    pub serializable: bool,
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
    /// With [`Range::count_only`] or [`Range::count_all`] all keys in the range; else those in `entries`, so that a page need
    /// not be counted to the end of its range.
    pub count: u64,
    /// There are entries beyond the limit.
    pub more: bool,
    /// The store's revision when it was read.
    pub revision: Revision,
}

/// What of a key is compared with what. A key that does not exist has 0 for each number, and no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The revision that last wrote it.
    ModRevision(Revision),
    /// The revision that created it.
    CreateRevision(Revision),
    /// Writes since it was created.
    Version(u64),
    /// The value, byte by byte. No comparison of one that does not exist holds.
    Value(Bytes),
    /// The lease that it dies with.
    Lease(LeaseId),
}

/// How what a key has stands to what it is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    #[default]
    Equal,
    /// Not the same.
    NotEqual,
    /// The key's is smaller.
    Less,
    /// The key's is greater.
    Greater,
}

impl Relation {
    /// Whether it is the relation of two things in this order.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less if planted::is(Bug::CompareOffByOne) => order.is_le(),
            Self::Less => order.is_lt(),
            Self::Greater => order.is_gt(),
        }
    }
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The first key looked at.
    pub start: Bytes,
    /// First key no longer looked at; empty for `start` alone. Of a range every key must meet the condition; one without
    /// keys is compared as a key that does not exist.
    pub end: Bytes,
    /// What is compared, and with what.
    pub target: CompareTarget,
    /// How they must stand to each other.
    pub relation: Relation,
}

impl Compare {
    /// One key's target equals this.
    pub fn equal(key: impl Into<Bytes>, target: CompareTarget) -> Self {
        Self::key(key, Relation::Equal, target)
    }

    /// One key's target stands so to this.
    pub fn key(key: impl Into<Bytes>, relation: Relation, target: CompareTarget) -> Self {
        Self { start: key.into(), end: Bytes::new(), target, relation }
    }
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
    /// Write a key that exists again, and keep of it what is not given (which cannot be nothing: that is a put).
    Update {
        /// The key.
        key: Bytes,
        /// Its new value, unless it keeps the one that it has.
        value: Option<Bytes>,
        /// The lease that it dies with now (0 for none), unless it keeps the one that it has.
        lease: Option<LeaseId>,
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
    /// A transaction inside the transaction. What it compares is as it was before the outermost began; what it does is part
    /// of the same revision.
    Txn(Txn),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The entry that a put or an update replaced.
    Put(Option<Entry>),
    /// The entries that a delete removed.
    Delete(Vec<Entry>),
    /// What a range found.
    Range(RangeReply),
    /// What an inner transaction did.
    Txn(TxnReply),
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

impl Txn {
    /// All steps of both branches, without those of inner transactions.
    pub fn steps(&self) -> impl Iterator<Item = &Op> {
        self.success.iter().chain(&self.failure)
    }

    /// It writes nothing, whichever branch is taken.
    pub fn reads_only(&self) -> bool {
        self.steps().all(|op| match op {
            Op::Range(_) => true,
            Op::Txn(inner) => inner.reads_only(),
            Op::Put { .. } | Op::Update { .. } | Op::Delete { .. } => false,
        })
    }
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

/// One lease, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: LeaseId,
    /// Seconds that it was granted for.
    pub granted_seconds: i64,
    /// Seconds that are left of them, rounded down.
    pub remaining_seconds: i64,
    /// The keys that die with it, in order.
    pub keys: Vec<Bytes>,
}

/// A checksum of what a store holds. Members that agree have the same; backends differ in what they sum up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvHash {
    /// The checksum.
    pub hash: u32,
    /// The revision as of which it was made.
    pub revision: Revision,
    /// Revisions below this could no longer be read then.
    pub compacted: Revision,
    /// The newest revision then.
    pub newest: Revision,
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
    /// Bytes of what is alive, as far as the backend knows.
    pub live_bytes: u64,
    /// This member leads, or the backend has a leader.
    pub has_leader: bool,
}
