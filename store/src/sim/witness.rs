//! What clients asked, were told and saw, and when: all that the checker of histories is given.

use bytes::Bytes;

use super::world::Micros;
use crate::check::{History, Nanos, Outcome, Record, Reply, Request, Rules, Saw, Seen, Watch};
use crate::kv::WatchFrom;
use crate::mvcc;

/// History that a member keeps, revisions: less than the floor of its window, for it may be a few ahead of its clients.
const KEEPS: u64 = 40;

/// How early a lease may end: while clocks are right, and when they are not.
const EARLY: (Nanos, Nanos) = (5_000_000, 60_000_000_000);

/// See the module.
#[derive(Default)]
pub(crate) struct Witness {
    history: History,
    last: Nanos,
}

impl Witness {
    /// Each moment is later than the one before, as what happens in the world has an order.
    fn stamp(&mut self, now: Micros) -> Nanos {
        self.last = (now * 1_000).max(self.last + 1);
        self.last
    }

    /// A client asks; returns under which number [`Witness::told`] is to be told of the answer.
    pub(crate) fn asked(&mut self, now: Micros, client: usize, request: Request) -> usize {
        let (called, outcome) = (self.stamp(now), Outcome::Unknown);
        self.history.records.push(Record { client: client as u64, called, returned: None, request, outcome });
        self.history.records.len() - 1
    }

    pub(crate) fn told(&mut self, now: Micros, number: usize, outcome: Outcome) {
        let now = self.stamp(now);
        let record = &mut self.history.records[number];
        record.returned = (!matches!(outcome, Outcome::Unknown)).then_some(now);
        record.outcome = outcome;
    }

    /// A client opens a watch; returns its number.
    pub(crate) fn watched(&mut self, now: Micros, client: usize, keys: (Bytes, Bytes), from: WatchFrom) -> usize {
        let (called, opened) = (self.stamp(now), Some(self.stamp(now)));
        let (start, end) = keys;
        let watch = Watch { client: client as u64, called, opened, start, end, from, seen: Vec::new() };
        self.history.watches.push(watch);
        self.history.watches.len() - 1
    }

    pub(crate) fn saw(&mut self, now: Micros, watch: usize, saw: Saw) {
        let at = self.stamp(now);
        self.history.watches[watch].seen.push(Seen { at, saw });
    }

    pub(crate) fn into_history(self) -> History {
        self.history
    }
}

/// What members may do by themselves; their clocks were right, or not.
pub(crate) fn rules(clocks: bool) -> Rules {
    Rules { keeps: KEEPS, early: if clocks { EARLY.0 } else { EARLY.1 } }
}

/// What a client knows after an answer that is none to a read.
pub(crate) fn reply(outcome: &mvcc::Outcome) -> Reply {
    match outcome {
        mvcc::Outcome::Txn(reply) => Reply::Txn(reply.clone()),
        mvcc::Outcome::Granted(lease) => Reply::Granted(*lease),
        mvcc::Outcome::KeptAlive(seconds) => Reply::KeptAlive(*seconds),
        mvcc::Outcome::Done => Reply::Done,
    }
}
