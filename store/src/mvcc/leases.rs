//! Leases: keys that die together when their time is up.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;

use super::{Millis, Mvcc};
use crate::backend::Error;
use crate::kv::{Entry, LeaseId, LeaseInfo};
use crate::planted::{self, Bug};

/// One lease.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    /// Seconds.
    pub(crate) ttl: i64,
    /// When it ends.
    pub(crate) deadline: Millis,
    /// The current keys that die with it.
    pub(crate) keys: OrdSet<Bytes>,
}

impl Mvcc {
    /// When the next lease ends.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.get_min().map(|(deadline, _)| *deadline)
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<LeaseId, Error> {
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists(id));
        }
        let id = if id == 0 { self.choose_id() } else { id };
        let deadline = self.deadline(ttl);
        self.set_lease(id, Lease { ttl, deadline, keys: OrdSet::new() });
        Ok(id)
    }

    /// The next id that nobody has chosen; above the last it goes on from 1.
    fn choose_id(&mut self) -> LeaseId {
        loop {
            self.last_lease = self.last_lease.checked_add(1).unwrap_or(1);
            if !self.leases.contains_key(&self.last_lease) {
                return self.last_lease;
            }
        }
    }

    /// How a lease is, as of the newest command.
    pub(crate) fn lease(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound(id))?;
        let remaining = lease.deadline.saturating_sub(self.now) / 1_000;
        Ok(LeaseInfo {
            id,
            granted_seconds: lease.ttl,
            remaining_seconds: i64::try_from(remaining).unwrap_or(i64::MAX),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// All leases, the one that ends next first.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        self.deadlines.iter().map(|(_, id)| *id).collect()
    }

    pub(super) fn set_lease(&mut self, id: LeaseId, lease: Lease) {
        self.deadlines.insert((lease.deadline, id));
        self.leases.insert(id, Arc::new(lease));
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<i64, Error> {
        let mut lease = self.leases.get(&id).map(|lease| Lease::clone(lease)).ok_or(Error::LeaseNotFound(id))?;
        if planted::is(Bug::KeepAliveForgotten) {
            return Ok(lease.ttl);
        }
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = self.deadline(lease.ttl);
        let ttl = lease.ttl;
        self.set_lease(id, lease);
        Ok(ttl)
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), Error> {
        if planted::is(Bug::RevokedTwice) && !self.leases.contains_key(&id) {
            return Ok(());
        }
        let lease = self.leases.get(&id).cloned().ok_or(Error::LeaseNotFound(id))?;
        let mut changes = Vec::new();
        for key in lease.keys.iter().filter(|_| !planted::is(Bug::LeaseLeavesKeys)) {
            self.delete(key, &Bytes::new(), &mut changes);
        }
        self.leases.remove(&id);
        self.deadlines.remove(&(lease.deadline, id));
        self.commit(changes);
        Ok(())
    }

    /// Ends every lease that is due, each at its own revision.
    pub(super) fn expire(&mut self) {
        while let Some((deadline, id)) = self.deadlines.get_min().copied()
            && deadline <= self.now
        {
            self.revoke(id).expect("invariant: a deadline names a lease");
        }
    }

    pub(super) fn attach(&mut self, entry: &Entry) {
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            Arc::make_mut(lease).keys.insert(entry.key.clone());
        }
    }

    pub(super) fn detach(&mut self, entry: &Entry) {
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            Arc::make_mut(lease).keys.remove(&entry.key);
        }
    }

    fn deadline(&self, ttl: i64) -> Millis {
        let seconds = u64::try_from(ttl.max(1)).unwrap_or(1);
        self.now.saturating_add(seconds.saturating_mul(1_000))
    }
}
