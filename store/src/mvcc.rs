//! The state machine: what a store holds after a sequence of commands, a pure function of that sequence.
//!
//! No clock, disk, lock or randomness: time is a number inside each [`Command`]. A replica that has applied the same
//! commands holds the same state, bit for bit, which is what lets a log of commands be the store.
//!
//! All maps are persistent (`imbl`), so `clone` is O(1) and is how a reader of a long range, or the writer of a
//! snapshot, gets a state that no longer moves while commands go on being applied.
//!
//! # Invariants
//! * `log` holds exactly one item for each revision in `compacted + 1 ..= revision`, in order.
//! * `past` holds an entry for each `prev` in `log`, under the revision that ended it, and nothing else.
//! * A lease's `keys` are exactly the current keys whose `lease` names it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet, Vector};

use crate::backend::Error;
use crate::kv::{Compare, CompareTarget, Entry, LeaseId, Op, OpResult, Range, RangeReply, Revision, Txn, TxnReply};

pub(crate) mod codec;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod watchers;

use history::{Change, Revised};
use leases::Lease;

/// Milliseconds of the store's own clock. It starts at 0 with the first command and stands still while the store is down,
/// so a lease never dies of downtime or of a wall clock that was set.
pub type Millis = u64;

/// What to do, and when.
#[derive(Clone, Debug)]
pub struct Command {
    /// The store's clock. A command that says less than an earlier one means that earlier time.
    pub now: Millis,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// A transaction.
    Txn(Txn),
    /// Make a lease of so many seconds.
    Grant {
        /// Seconds, at least 1.
        ttl: i64,
    },
    /// Start a lease's time anew.
    KeepAlive(LeaseId),
    /// End a lease now.
    Revoke(LeaseId),
    /// Forget what was superseded before this revision.
    Compact(Revision),
    /// Time has passed: end the leases that are due.
    Tick,
}

/// What a command did.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The transaction's reply.
    Txn(TxnReply),
    /// The lease made.
    Granted(LeaseId),
    /// The seconds that the lease has again.
    KeptAlive(i64),
    /// Revoked, compacted or ticked.
    Done,
}

/// The state. See the module.
#[derive(Clone, Default)]
pub struct Mvcc {
    keys: OrdMap<Bytes, Arc<Entry>>,
    past: OrdMap<(Bytes, Revision), Arc<Entry>>,
    log: Vector<Arc<Revised>>,
    leases: OrdMap<LeaseId, Arc<Lease>>,
    deadlines: OrdSet<(Millis, LeaseId)>,
    revision: Revision,
    compacted: Revision,
    last_lease: LeaseId,
    now: Millis,
    bytes: u64,
    past_bytes: u64,
}

impl Mvcc {
    /// The newest revision; 0 when nothing was ever written.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Revisions below this can no longer be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// The store's clock, as of the newest command.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Bytes of all current keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Applies a command. On `Err` nothing has changed but the clock.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Error> {
        self.now = self.now.max(command.now);
        match &command.action {
            Action::Txn(txn) => self.txn(txn).map(Outcome::Txn),
            Action::Grant { ttl } => Ok(Outcome::Granted(self.grant(*ttl))),
            Action::KeepAlive(id) => self.keep_alive(*id).map(Outcome::KeptAlive),
            Action::Revoke(id) => self.revoke(*id).map(|()| Outcome::Done),
            Action::Compact(revision) => self.compact(*revision).map(|()| Outcome::Done),
            Action::Tick => {
                self.expire();
                Ok(Outcome::Done)
            }
        }
    }

    /// Applies a command, and adds what it changed to `fresh`.
    pub(crate) fn apply_collecting(
        &mut self,
        command: &Command,
        fresh: &mut Vec<Arc<Revised>>,
    ) -> Result<Outcome, Error> {
        let before = self.revision;
        let outcome = self.apply(command);
        if self.revision > before {
            fresh.extend(self.changes_from(before + 1).cloned());
        }
        outcome
    }

    /// Reads a range.
    pub fn range(&self, range: &Range) -> Result<RangeReply, Error> {
        self.readable(range.revision)?;
        let mut reply = RangeReply { revision: self.revision, ..RangeReply::default() };
        let mut take = |entry: &Arc<Entry>| {
            if !range.count_only {
                // A page costs what is on it, however much is behind it.
                if range.limit != 0 && reply.entries.len() == range.limit {
                    reply.more = true;
                    return ControlFlow::Break(());
                }
                reply.entries.push(Entry::clone(entry));
            }
            reply.count += 1;
            ControlFlow::Continue(())
        };
        // Broken off or not: either way it has all that was asked for.
        let (ControlFlow::Break(()) | ControlFlow::Continue(())) =
            if range.revision == 0 || range.revision == self.revision {
                self.current(Span::new(&range.start, &range.end)).try_for_each(take)
            } else {
                self.each_at(range.revision, &range.start, &range.end, &mut take)
            };
        Ok(reply)
    }

    /// The current entries of a range, in key order.
    fn current<'a>(&'a self, span: Span<'a>) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.keys.range::<_, [u8]>(span.bounds()).map(|(_, entry)| entry)
    }

    /// Whether a revision can be read; 0 always can.
    fn readable(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Future { asked: revision, newest: self.revision });
        }
        if revision != 0 && revision < self.compacted {
            return Err(Error::Compacted { asked: revision, oldest: self.compacted });
        }
        Ok(())
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnReply, Error> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(Error::LeaseNotFound(*lease));
                }
                Op::Range(range) => self.readable(range.revision)?,
                Op::Put { .. } | Op::Delete { .. } => {}
            }
        }
        let mut changes = Vec::new();
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(match op {
                Op::Put { key, value, lease } => {
                    OpResult::Put(self.put(key, value, *lease, &mut changes).map(|entry| Entry::clone(&entry)))
                }
                Op::Delete { start, end } => {
                    let removed = self.delete(start, end, &mut changes);
                    OpResult::Delete(removed.iter().map(|entry| Entry::clone(entry)).collect())
                }
                Op::Range(range) => OpResult::Range(self.range(range)?),
            });
        }
        self.commit(changes);
        Ok(TxnReply { succeeded, revision: self.revision, results })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.keys.get(&compare.key);
        let modified = entry.map_or(0, |entry| entry.mod_revision);
        match &compare.target {
            CompareTarget::ModRevision(revision) => modified == *revision,
            CompareTarget::ModRevisionLess(revision) => modified < *revision,
            CompareTarget::ModRevisionGreater(revision) => modified > *revision,
            CompareTarget::CreateRevision(revision) => entry.map_or(0, |e| e.create_revision) == *revision,
            CompareTarget::Version(version) => entry.map_or(0, |e| e.version) == *version,
            CompareTarget::Value(value) => entry.is_some_and(|e| e.value == *value),
        }
    }

    /// Writes one key as part of the next revision; `commit` must follow.
    fn put(&mut self, key: &Bytes, value: &Bytes, lease: LeaseId, changes: &mut Vec<Change>) -> Option<Arc<Entry>> {
        let revision = self.revision + 1;
        let prev = self.keys.get(key).cloned();
        // The key's bytes are shared with the version before, so that many versions of a key hold its name once.
        let key = prev.as_ref().map_or(key, |entry| &entry.key).clone();
        let entry = Arc::new(Entry {
            key: key.clone(),
            value: value.clone(),
            create_revision: prev.as_ref().map_or(revision, |entry| entry.create_revision),
            mod_revision: revision,
            version: prev.as_ref().map_or(1, |entry| entry.version + 1),
            lease,
        });
        self.place(key, entry, prev.clone(), changes);
        prev
    }

    fn place(&mut self, key: Bytes, entry: Arc<Entry>, prev: Option<Arc<Entry>>, changes: &mut Vec<Change>) {
        if let Some(prev) = &prev {
            self.bytes -= size(prev);
            self.detach(prev);
        }
        self.bytes += size(&entry);
        self.attach(&entry);
        self.keys.insert(key, entry.clone());
        changes.push(Change { now: Some(entry), prev });
    }

    /// Removes a range as part of the next revision; `commit` must follow.
    fn delete(&mut self, start: &Bytes, end: &Bytes, changes: &mut Vec<Change>) -> Vec<Arc<Entry>> {
        let span = Span::new(start, end);
        let removed: Vec<_> = self.current(span).cloned().collect();
        for entry in &removed {
            self.keys.remove(&entry.key);
            self.bytes -= size(entry);
            self.detach(entry);
            changes.push(Change { now: None, prev: Some(entry.clone()) });
        }
        removed
    }

    /// Makes the changes one revision; none makes none.
    fn commit(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        let revised = Revised::new(self.revision, self.now, changes);
        for prev in revised.changes.iter().filter_map(|change| change.prev.as_ref()) {
            self.past.insert((prev.key.clone(), self.revision), prev.clone());
        }
        self.past_bytes += revised.bytes;
        self.log.push_back(Arc::new(revised));
    }
}

/// Bytes that an entry's key and value take.
fn size(entry: &Entry) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}

/// A range of keys as etcd writes it: empty `end` is `start` alone, `[0]` is everything from `start` on.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    start: &'a [u8],
    end: &'a [u8],
}

impl<'a> Span<'a> {
    pub(crate) fn new(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { start, end }
    }

    pub(crate) fn contains(self, key: &[u8]) -> bool {
        match self.end {
            [] => key == self.start,
            [0] => key >= self.start,
            end => key >= self.start && key < end,
        }
    }

    /// Bounds that are never inverted: an `end` before `start` is an empty range, not a panic in the map.
    fn bounds(self) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        match self.end {
            [] => (Included(self.start), Included(self.start)),
            [0] => (Included(self.start), Unbounded),
            end if end <= self.start => (Included(self.start), Excluded(self.start)),
            end => (Included(self.start), Excluded(end)),
        }
    }
}
