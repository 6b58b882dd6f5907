//! Transactions: which branch, whether it can be done, then doing it.
//!
//! All that is compared, in inner transactions too, is compared before anything is written (as etcd does it); so what is to be
//! done is known, and checked, as a whole.

use std::sync::Arc;

use bytes::Bytes;

use super::history::{Change, Revised};
use super::{Mvcc, Span, size};
use crate::backend::Error;
use crate::kv::{Compare, CompareTarget, Entry, LeaseId, Op, OpResult, Range, RangeReply, Txn, TxnReply};

/// Which branch each transaction takes, in the order in which they are met.
type Path = std::vec::IntoIter<bool>;

impl Mvcc {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnReply, Error> {
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        self.check_writes(txn, &mut path.clone().into_iter())?;
        self.check_reads(txn, &mut path.clone().into_iter())?;
        let mut changes = Vec::new();
        let mut reply = self.perform(txn, &mut path.into_iter(), &mut changes);
        self.commit(changes);
        reply.revision = self.revision;
        Ok(reply)
    }

    /// What a transaction that only reads finds.
    pub(crate) fn read_txn(&self, txn: &Txn) -> Result<TxnReply, Error> {
        debug_assert!(txn.reads_only(), "it would be lost");
        self.clone().txn(txn)
    }

    fn choose(&self, txn: &Txn, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in branch(txn, succeeded) {
            if let Op::Txn(inner) = op {
                self.choose(inner, path);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let holds = |entry: Option<&Entry>| {
            let number = |number: fn(&Entry) -> u64| entry.map_or(0, number);
            let order = match &compare.target {
                CompareTarget::ModRevision(revision) => number(|entry| entry.mod_revision).cmp(revision),
                CompareTarget::CreateRevision(revision) => number(|entry| entry.create_revision).cmp(revision),
                CompareTarget::Version(version) => number(|entry| entry.version).cmp(version),
                CompareTarget::Lease(lease) => entry.map_or(0, |entry| entry.lease).cmp(lease),
                CompareTarget::Value(value) => match entry {
                    Some(entry) => entry.value.cmp(value),
                    None => return false,
                },
            };
            compare.relation.holds(order)
        };
        let mut entries = self.current(Span::new(&compare.start, &compare.end)).peekable();
        match entries.peek() {
            None => holds(None),
            Some(_) => entries.all(|entry| holds(Some(entry))),
        }
    }

    /// Whether what the branches taken write can be written.
    fn check_writes(&self, txn: &Txn, path: &mut Path) -> Result<(), Error> {
        for op in branch(txn, taken(path)) {
            match op {
                Op::Put { lease, .. } => self.check_lease(*lease)?,
                Op::Update { key, lease, .. } => {
                    self.check_lease(lease.unwrap_or(0))?;
                    if !self.keys.contains_key(key) {
                        return Err(Error::KeyNotFound);
                    }
                }
                Op::Txn(inner) => self.check_writes(inner, path)?,
                Op::Delete { .. } | Op::Range(_) => {}
            }
        }
        Ok(())
    }

    /// Whether what they read can be read. As in etcd a write that is refused is told of first.
    fn check_reads(&self, txn: &Txn, path: &mut Path) -> Result<(), Error> {
        for op in branch(txn, taken(path)) {
            match op {
                Op::Range(range) => self.readable(range.revision)?,
                Op::Txn(inner) => self.check_reads(inner, path)?,
                Op::Put { .. } | Op::Update { .. } | Op::Delete { .. } => {}
            }
        }
        Ok(())
    }

    fn check_lease(&self, lease: LeaseId) -> Result<(), Error> {
        if lease != 0 && !self.leases.contains_key(&lease) { Err(Error::LeaseNotFound(lease)) } else { Ok(()) }
    }

    fn perform(&mut self, txn: &Txn, path: &mut Path, changes: &mut Vec<Change>) -> TxnReply {
        let succeeded = taken(path);
        let ops = branch(txn, succeeded);
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(match op {
                Op::Put { key, value, lease } => replaced(self.put(key, value, *lease, changes)),
                Op::Update { key, value, lease } => replaced(self.update(key, value.as_ref(), *lease, changes)),
                Op::Delete { start, end } => {
                    let removed = self.delete(start, end, changes);
                    OpResult::Delete(removed.iter().map(|entry| Entry::clone(entry)).collect())
                }
                Op::Range(range) => OpResult::Range(self.read_inside(range, !changes.is_empty())),
                Op::Txn(inner) => OpResult::Txn(self.perform(inner, path, changes)),
            });
        }
        TxnReply { succeeded, revision: self.revision, results }
    }

    /// Reads inside a transaction: the newest is what it has done itself, a revision is what it was before.
    fn read_inside(&self, range: &Range, changed: bool) -> RangeReply {
        let now = range.revision == 0 || range.revision == self.revision && !changed;
        self.read(range, if now { None } else { Some(range.revision) })
    }

    fn update(
        &mut self,
        key: &Bytes,
        value: Option<&Bytes>,
        lease: Option<LeaseId>,
        changes: &mut Vec<Change>,
    ) -> Option<Arc<Entry>> {
        let now = self.keys.get(key).cloned()?;
        self.put(key, value.unwrap_or(&now.value), lease.unwrap_or(now.lease), changes)
    }

    /// Writes one key as part of the next revision; `commit` must follow.
    pub(super) fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        lease: LeaseId,
        changes: &mut Vec<Change>,
    ) -> Option<Arc<Entry>> {
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
            self.retire(prev);
        }
        self.bytes += size(&entry);
        self.attach(&entry);
        self.keys.insert(key, entry.clone());
        changes.push(Change { now: Some(entry), prev });
    }

    /// Removes a range as part of the next revision; `commit` must follow.
    pub(super) fn delete(&mut self, start: &Bytes, end: &Bytes, changes: &mut Vec<Change>) -> Vec<Arc<Entry>> {
        let span = Span::new(start, end);
        let removed: Vec<_> = self.current(span).cloned().collect();
        for entry in &removed {
            self.keys.remove(&entry.key);
            self.retire(entry);
            changes.push(Change { now: None, prev: Some(entry.clone()) });
        }
        removed
    }

    /// Makes an entry one of the past, as of the next revision.
    fn retire(&mut self, entry: &Arc<Entry>) {
        self.bytes -= size(entry);
        self.detach(entry);
        self.past.insert((entry.key.clone(), self.revision + 1), entry.clone());
    }

    /// Makes the changes one revision; none makes none.
    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        let revised = Revised::new(self.revision, self.now, changes);
        self.past_bytes += revised.bytes;
        self.log.push_back(Arc::new(revised));
    }
}

fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn taken(path: &mut Path) -> bool {
    path.next().expect("invariant: a branch was chosen for every transaction on the path")
}

fn replaced(entry: Option<Arc<Entry>>) -> OpResult {
    OpResult::Put(entry.map(|entry| Entry::clone(&entry)))
}
