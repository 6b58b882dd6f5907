//! Was what the clients saw possible? A checker of histories.
//!
//! A [`History`] is what clients asked, were told and saw, with times. [`linearizable`] looks for an order of its operations
//! in which each takes effect at one moment between its call and its return and the state machine itself
//! ([`crate::mvcc`], not a copy of its rules) gives exactly the replies that were given; [`watches`] holds what watchers saw
//! against that order, event by event. What is found to be wrong is said in words, with the few operations it takes to see it.
//!
//! ```text
//! Recorder, simulation -> History -> [claims]   contradictions that a glance finds
//!                                 -> [search]   an order, or where none goes on     <- [model]
//!                                 -> [watching] each event against the order
//! ```
//!
//! # What the store does unseen
//! Some steps have no operation in the history: a lease ends, history is forgotten, an operation whose client gave up takes
//! effect late or never. The search may put them where the history permits and needs them: a lease may end at any moment
//! after its time, counted from the call of what renewed it last, is over, and never before.
//!
//! # Guarantees
//! * A history that is accepted has the order that is returned. One that is rejected has none.
//!
//! # Caveats
//! * Times are of one clock. Of two operations of which one returns in the very nanosecond in which the other is called, either
//!   may have been first.
//! * The history begins with an empty store.

use std::fmt;

use crate::backend::Error;
use crate::kv::{LeaseId, Range, RangeReply, Revision, Txn, TxnReply};

mod claims;
mod explain;
mod hints;
pub mod load;
mod model;
mod order;
mod recorder;
mod search;
mod timeline;
mod watching;

pub use order::{Linearization, Step};
pub use recorder::{Clock, Recorder};
pub use search::linearizable;
pub use watching::{Saw, Seen, Watch, watches};

/// A moment, or a while, of the clock that the history was recorded with: virtual or real nanoseconds.
pub type Nanos = u64;

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked. It only helps the reader.
    pub client: u64,
    /// When it was asked.
    pub called: Nanos,
    /// When the answer came; none if none came.
    pub returned: Option<Nanos>,
    /// What was asked.
    pub request: Request,
    /// What the client knows of it.
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum Request {
    /// A linearizable read. One of what a member happens to have (serializable, or of the past, of a member of several) is
    /// not, and is no part of a history.
    Range(Range),
    /// A transaction.
    Txn(Txn),
    /// A lease of so many seconds.
    Grant {
        /// Its id; 0 has the store choose one.
        id: LeaseId,
        /// Seconds.
        ttl: i64,
    },
    /// More time for a lease.
    KeepAlive(LeaseId),
    /// The end of a lease.
    Revoke(LeaseId),
    /// To forget what was superseded before this revision.
    Compact(Revision),
}

/// What a client knows of what it asked for.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was done, with this reply.
    Ok(Reply),
    /// The state did not permit it, for this reason; nothing was changed. As good an observation as a reply.
    Refused(Refusal),
    /// It was certainly not done and will not be.
    Failed,
    /// It may be done at any time after the call, or never.
    Unknown,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a range.
    Range(RangeReply),
    /// To a transaction.
    Txn(TxnReply),
    /// To a grant: the lease.
    Granted(LeaseId),
    /// To a keep-alive: its seconds.
    KeptAlive(i64),
    /// To a revocation or a compaction.
    Done,
}

/// Why the state did not permit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This revision has been compacted.
    Compacted(Revision),
    /// This revision has not happened yet.
    Future(Revision),
    /// There is no such lease.
    LeaseNotFound(LeaseId),
    /// There is such a lease already.
    LeaseExists(LeaseId),
    /// A key to be updated does not exist.
    KeyNotFound,
}

impl Outcome {
    /// What a call's result tells its client.
    pub fn of(result: Result<Reply, &Error>) -> Self {
        match result {
            Ok(reply) => Self::Ok(reply),
            Err(Error::Uncertain { .. }) => Self::Unknown,
            Err(error) => Refusal::of(error).map_or(Self::Failed, Self::Refused),
        }
    }
}

impl Refusal {
    /// The refusal that an error is; none when it is not about the state.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Compacted { asked, .. } => Some(Self::Compacted(*asked)),
            Error::Future { asked, .. } => Some(Self::Future(*asked)),
            Error::LeaseNotFound(lease) => Some(Self::LeaseNotFound(*lease)),
            Error::LeaseExists(lease) => Some(Self::LeaseExists(*lease)),
            Error::KeyNotFound => Some(Self::KeyNotFound),
            Error::Slow { .. }
            | Error::TooLarge { .. }
            | Error::Invalid { .. }
            | Error::Unavailable { .. }
            | Error::Uncertain { .. }
            | Error::Disk { .. }
            | Error::Corrupt { .. } => None,
        }
    }
}

/// What the store is allowed to do by itself.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// So many of its newest revisions it never forgets unless told to; the maximum for "none at all".
    pub keeps: u64,
    /// A lease may end this much early: its clock's resolution and drift.
    pub early: Nanos,
}

impl Default for Rules {
    fn default() -> Self {
        Self { keeps: u64::MAX, early: 1_000_000 }
    }
}

/// Everything that clients asked, were told and saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was asked and told, in any order.
    pub records: Vec<Record>,
    /// What was watched.
    pub watches: Vec<Watch>,
}

impl History {
    /// Checks all of it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, rules: &Rules) -> Result<Linearization, Violation> {
        let order = search::search(&self.records, &self.watches, rules)?;
        watches(&order, &self.watches, rules)?;
        Ok(order)
    }
}

/// A history that no correct store could have made.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong, in words.
    pub what: String,
    /// The least of the history that shows it, a line for each operation or event.
    pub window: Vec<String>,
}

impl Violation {
    pub(crate) fn new(what: impl Into<String>, window: Vec<String>) -> Self {
        Self { what: what.into(), window }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.window.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Violation {}
