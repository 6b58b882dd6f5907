//! What a client asks for, from a seed: the load under which histories are made, in the simulation and with real servers.
//!
//! Few keys, so that clients meet; each value is written once, so that what was read tells who wrote it.

use bytes::Bytes;

use super::Request;
use crate::kv::{Compare, CompareTarget, LeaseId, Op, Range, Relation, Revision, Txn};
use crate::sim::dice::Dice;

/// Different keys that one operation touches.
const KEYS: u64 = 8;

/// A key that some transactions write beside one of the others, so that revisions have several changes.
const BESIDE: Bytes = Bytes::from_static(b"z");

/// With what all other keys begin.
pub const PREFIX: &str = "k";

/// Leases that a client remembers.
const LEASES: usize = 4;

/// All keys but the one beside them.
pub fn keys() -> impl Iterator<Item = Bytes> {
    (0..KEYS).map(|key| format!("{PREFIX}{key}").into())
}

/// What one client asks for.
pub struct Load {
    client: u64,
    dice: Dice,
    /// Values written so far.
    values: u64,
    leases: Vec<LeaseId>,
}

impl Load {
    /// The load of the client with this number; no two may have the same.
    pub fn new(client: u64, dice: Dice) -> Self {
        Self { client, dice, values: 0, leases: Vec::new() }
    }

    /// For what else the client decides.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// A lease was granted: the client goes on to use it.
    pub fn granted(&mut self, lease: LeaseId) {
        self.leases.push(lease);
        if self.leases.len() > LEASES {
            self.leases.remove(0);
        }
    }

    fn key(&mut self) -> Bytes {
        format!("{PREFIX}{}", self.dice.within(0..KEYS)).into()
    }

    /// A value that nobody else ever writes.
    fn value(&mut self) -> Bytes {
        self.values += 1;
        let filler = "x".repeat(usize::try_from(self.dice.within(0..120)).unwrap_or(0));
        format!("{}.{}.{filler}", self.client, self.values).into()
    }

    fn put(&mut self, key: Bytes) -> Op {
        let lease = if self.dice.chance(150) { self.dice.pick(&self.leases).unwrap_or(0) } else { 0 };
        Op::Put { key, value: self.value(), lease }
    }

    /// What to ask for next, of a store of which the client knows that it has come to this revision.
    pub fn next(&mut self, newest: Revision) -> Request {
        let key = self.key();
        match self.dice.within(0..100) {
            0..30 => {
                let success = vec![self.put(key)];
                Request::Txn(Txn { success, ..Txn::default() })
            }
            30..45 => {
                let revision = self.dice.within(newest.saturating_sub(20)..newest + 1);
                let compare = vec![Compare::key(key.clone(), Relation::Less, CompareTarget::ModRevision(revision))];
                let mut success = vec![self.put(key)];
                if self.dice.chance(300) {
                    success.push(self.put(BESIDE));
                }
                Request::Txn(Txn { compare, success, failure: vec![Op::Range(Range::prefix(PREFIX))] })
            }
            45..52 => {
                let success = vec![Op::Delete { start: key, end: Bytes::new() }];
                Request::Txn(Txn { success, ..Txn::default() })
            }
            52..75 => Request::Range(Range::key(key)),
            75..82 => Request::Range(Range::prefix(PREFIX)),
            82..88 => {
                let revision = self.dice.within(newest.saturating_sub(60)..newest + 1);
                Request::Range(Range { revision, ..Range::key(key) })
            }
            88..92 => Request::Grant { id: 0, ttl: self.dice.within(1..4).cast_signed() },
            92..95 => Request::KeepAlive(self.dice.pick(&self.leases).unwrap_or(1)),
            95..97 => Request::Revoke(self.dice.pick(&self.leases).unwrap_or(1)),
            _ => Request::Compact(newest.saturating_sub(self.dice.within(5..200))),
        }
    }
}
