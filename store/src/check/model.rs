//! What the store holds at one point of a possible order: the state machine itself, and when its leases may end.
//!
//! The state machine's own clock stands still here. A history does not tell when the store thought it was, only that a lease
//! was renewed no earlier than the call that renewed it; so the model keeps for each lease the earliest moment at which it
//! may end, and the search ends it when the history needs that.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use imbl::OrdMap;

use super::{Nanos, Refusal, Reply, Request};
use crate::kv::{LeaseId, Revision};
use crate::mvcc::history::Revised;
use crate::mvcc::{Action, Command, Mvcc, Outcome};

/// The state. Clones share all they can.
#[derive(Clone, Default)]
pub(super) struct Model {
    store: Mvcc,
    /// The earliest end of each lease.
    due: OrdMap<LeaseId, Nanos>,
    newest: Option<Arc<Revised>>,
    /// Of all that was ever changed.
    digest: u64,
}

impl Model {
    /// Does what was asked at this moment or later.
    pub(super) fn answer(&mut self, request: &Request, called: Nanos) -> Result<Reply, Refusal> {
        let outcome = match request {
            Request::Range(range) => {
                let reply = self.store.range(range).map_err(|error| refusal(&error))?;
                return Ok(Reply::Range(reply));
            }
            Request::Txn(txn) => self.act(Action::Txn(txn.clone()))?,
            Request::Grant { id, ttl } => self.act(Action::Grant { id: *id, ttl: *ttl })?,
            Request::KeepAlive(lease) => self.act(Action::KeepAlive(*lease))?,
            Request::Revoke(lease) => {
                let outcome = self.act(Action::Revoke(*lease))?;
                self.due.remove(lease);
                outcome
            }
            Request::Compact(revision) => self.act(Action::Compact(*revision))?,
        };
        Ok(match (outcome, request) {
            (Outcome::Txn(reply), _) => Reply::Txn(reply),
            (Outcome::Granted(lease), Request::Grant { ttl, .. }) => {
                self.renew(lease, called, *ttl);
                Reply::Granted(lease)
            }
            (Outcome::KeptAlive(ttl), Request::KeepAlive(lease)) => {
                self.renew(*lease, called, ttl);
                Reply::KeptAlive(ttl)
            }
            (Outcome::Done | Outcome::Granted(_) | Outcome::KeptAlive(_), _) => Reply::Done,
        })
    }

    /// Ends a lease because its time is over.
    pub(super) fn expire(&mut self, lease: LeaseId) {
        self.act(Action::Revoke(lease)).expect("invariant: `due` names leases");
        self.due.remove(&lease);
    }

    pub(super) fn revision(&self) -> Revision {
        self.store.revision()
    }

    pub(super) fn compacted(&self) -> Revision {
        self.store.compacted()
    }

    /// Each lease, and the earliest moment at which it may end.
    pub(super) fn leases(&self) -> impl Iterator<Item = (LeaseId, Nanos)> {
        self.due.iter().map(|(lease, due)| (*lease, *due))
    }

    pub(super) fn has(&self, lease: LeaseId) -> bool {
        self.due.contains_key(&lease)
    }

    /// What the newest revision changed.
    pub(super) fn newest(&self) -> Option<&Arc<Revised>> {
        self.newest.as_ref()
    }

    /// Two models that hold the same have the same, whatever led to them.
    pub(super) fn digest(&self) -> u64 {
        hash(&(self.digest, self.compacted(), self.due.iter().map(|pair| hash(&pair)).fold(0, u64::wrapping_add)))
    }

    fn act(&mut self, action: Action) -> Result<Outcome, Refusal> {
        let mut fresh = Vec::new();
        let outcome = self.store.apply_collecting(&Command::new(0, action), &mut fresh);
        for revised in fresh {
            self.digest = revised.changes.iter().fold(self.digest, |digest, change| match &change.now {
                Some(entry) => hash(&(digest, &entry.key, &entry.value, entry.lease)),
                None => hash(&(digest, change.key())),
            });
            self.newest = Some(revised);
        }
        outcome.map_err(|error| refusal(&error))
    }

    fn renew(&mut self, lease: LeaseId, called: Nanos, seconds: i64) {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let due = called.saturating_add(seconds.saturating_mul(1_000_000_000));
        let due = self.due.get(&lease).map_or(due, |before| due.max(*before));
        self.due.insert(lease, due);
    }
}

fn refusal(error: &crate::Error) -> Refusal {
    Refusal::of(error).expect("invariant: the state machine refuses because of its state")
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
