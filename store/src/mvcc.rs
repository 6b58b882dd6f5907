//! The state machine: what a store holds after a sequence of commands, a pure function of that sequence.
//!
//! No clock, disk, lock or randomness: time is a number inside each [`Command`]. A replica that has applied the same
//! commands holds the same state, bit for bit, which is what lets a log of commands be the store.
//!
//! All maps are persistent (`imbl`), so `clone` is O(1) and is how a reader of a long range, or the writer of a
//! snapshot, gets a state that no longer moves while commands go on being applied.
//!
//! # Invariants
//! * `log` holds exactly one item for each revision in `base + 1 ..= revision`, in order; `compacted` is `base` or the one after.
//! * `past` holds an entry for each `prev` in `log`, under the revision that ended it, and nothing else.
//! * A lease's `keys` are exactly the current keys whose `lease` names it.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet, Vector};

use crate::backend::Error;
use crate::kv::{Entry, LeaseId, Range, RangeReply, Revision, Txn, TxnReply};
use crate::planted::{self, Bug};

pub(crate) mod codec;
mod hash;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod leases;
pub(crate) mod limits;
mod txn;
pub(crate) mod watchers;

use history::Revised;
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
    /// It was written by a store that began at revision 0. A state whose first command is such a one does so too.
    pub from_zero: bool,
}

impl Command {
    /// Do this, then.
    pub fn new(now: Millis, action: Action) -> Self {
        Self { now, action, from_zero: false }
    }
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
        /// Its id; 0 has one chosen.
        id: LeaseId,
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
#[derive(Clone)]
pub struct Mvcc {
    keys: OrdMap<Bytes, Arc<Entry>>,
    past: OrdMap<(Bytes, Revision), Arc<Entry>>,
    log: Vector<Arc<Revised>>,
    leases: OrdMap<LeaseId, Arc<Lease>>,
    deadlines: OrdSet<(Millis, LeaseId)>,
    revision: Revision,
    /// The revision before the first in `log`.
    base: Revision,
    compacted: Revision,
    last_lease: LeaseId,
    now: Millis,
    bytes: u64,
    past_bytes: u64,
}

/// The revision of an empty store, which nothing made.
const BEGINNING: Revision = 1;

impl Default for Mvcc {
    fn default() -> Self {
        Self {
            keys: OrdMap::new(),
            past: OrdMap::new(),
            log: Vector::new(),
            leases: OrdMap::new(),
            deadlines: OrdSet::new(),
            revision: BEGINNING,
            base: BEGINNING,
            compacted: BEGINNING,
            last_lease: 0,
            now: 0,
            bytes: 0,
            past_bytes: 0,
        }
    }
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
        if command.from_zero && self.is_pristine() {
            (self.revision, self.base, self.compacted) = (0, 0, 0);
        }
        self.now = self.now.max(command.now);
        match &command.action {
            Action::Txn(txn) => self.txn(txn).map(Outcome::Txn),
            Action::Grant { ttl, id } => self.grant(*id, *ttl).map(Outcome::Granted),
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

    /// Nothing was ever done to it.
    fn is_pristine(&self) -> bool {
        self.revision == BEGINNING && self.log.is_empty() && self.keys.is_empty() && self.last_lease == 0
    }

    /// Reads a range.
    pub fn range(&self, range: &Range) -> Result<RangeReply, Error> {
        self.readable(range.revision)?;
        let now = range.revision == 0 || range.revision == self.revision;
        Ok(self.read(range, if now { None } else { Some(range.revision) }))
    }

    /// Reads a range as of a readable revision, or as it is now, with what a transaction has done so far.
    fn read(&self, range: &Range, revision: Option<Revision>) -> RangeReply {
        let mut reply = RangeReply { revision: self.revision, ..RangeReply::default() };
        let mut take = |entry: &Arc<Entry>| {
            if !range.count_only && !reply.more {
                if range.limit == 0 || reply.entries.len() < range.limit {
                    reply.entries.push(Entry::clone(entry));
                } else {
                    reply.more = true;
                }
            }
            // A page costs what is on it, however much is behind it; unless the count of all is wanted.
            if reply.more && !range.count_all {
                return ControlFlow::Break(());
            }
            reply.count += 1;
            ControlFlow::Continue(())
        };
        // Broken off or not: either way it has all that was asked for.
        let (ControlFlow::Break(()) | ControlFlow::Continue(())) = match revision {
            None => self.current(Span::new(&range.start, &range.end)).try_for_each(take),
            Some(revision) => self.each_at(revision, &range.start, &range.end, &mut take),
        };
        reply
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
        if revision != 0 && revision < self.compacted && !planted::is(Bug::CompactedRead) {
            return Err(Error::Compacted { asked: revision, oldest: self.compacted });
        }
        Ok(())
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
