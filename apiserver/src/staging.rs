//! Staging: a store in front of the store, in which the writes of one transaction come together.
//!
//! Handlers write to it as to any other. It keeps what they write, and what must still hold when it is all committed; nothing
//! reaches the store before [`Staging::commit`], and then in one transaction of its own. Conditions on what was staged before
//! are decided here; those on what is in the store are decided on the objects that the transaction began with, and once
//! more by the store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use store::{
    Backend, Compare, CompareTarget, Entry, Error, Event, KvHash, LeaseId, LeaseInfo, Op, OpResult, Range, RangeReply,
    Relation, Revision, Status, Txn, TxnReply, WatchFrom, WatchStream,
    backend::{MAX_TXN_BYTES, MAX_TXN_OPS},
    image::ImageStream,
};

use crate::cache::Cache;

/// One key as the transaction leaves it.
struct Write {
    key: Bytes,
    /// None: removed.
    entry: Option<Entry>,
    /// It was there before.
    existed: bool,
}

struct Staged {
    /// Revisions that are handed out meanwhile; the real one is not known yet.
    revision: Revision,
    conditions: Vec<(Bytes, Revision)>,
    /// In the order in which the keys were first written: watchers are told in it.
    writes: Vec<Write>,
    /// What was staged since it was last asked for.
    fresh: Vec<Event>,
}

/// The stage of one transaction.
pub struct Staging {
    store: Arc<dyn Backend>,
    /// The objects as they were when it began.
    base: Cache,
    staged: Mutex<Staged>,
}

/// What a transaction needs and does not get.
#[derive(Debug, thiserror::Error)]
pub enum TooLarge {
    /// Too many keys.
    #[error(
        "it needs {writes} writes and {conditions} conditions, a transaction has at most {MAX_TXN_OPS} of each: split it"
    )]
    Steps {
        /// Keys written.
        writes: usize,
        /// Keys that must not change meanwhile: those written, and the namespaces that they are created in.
        conditions: usize,
    },
    /// Too many bytes.
    #[error("it writes {0} bytes, a transaction at most {MAX_TXN_BYTES}: split it")]
    Bytes(usize),
}

impl Staging {
    /// An empty stage, on these objects.
    pub fn new(store: Arc<dyn Backend>, base: Cache) -> Self {
        let revision = base.applied();
        let staged = Staged { revision, conditions: Vec::new(), writes: Vec::new(), fresh: Vec::new() };
        Self { store, base, staged: Mutex::new(staged) }
    }

    /// What was staged since this was last called, in order.
    pub fn drain(&self) -> Vec<Event> {
        std::mem::take(&mut self.staged.lock().fresh)
    }

    /// Whether it fits one transaction of the store.
    pub fn fits(&self) -> Result<(), TooLarge> {
        let staged = self.staged.lock();
        let (writes, conditions) = (staged.effective().count(), staged.conditions.len());
        if writes.max(conditions) > MAX_TXN_OPS {
            return Err(TooLarge::Steps { writes, conditions });
        }
        let size = |write: &Write| write.key.len() + write.entry.as_ref().map_or(0, |entry| entry.value.len());
        let bytes = staged.effective().map(size).sum::<usize>();
        let bytes = bytes + staged.conditions.iter().map(|(key, _)| key.len()).sum::<usize>();
        if bytes > MAX_TXN_BYTES { Err(TooLarge::Bytes(bytes)) } else { Ok(()) }
    }

    /// Writes everything, in one revision. Nothing to write is revision 0. `Err(Ok(revision))`: something is not as it was when
    /// the transaction began, at this revision; nothing was written.
    pub async fn commit(&self) -> Result<Revision, Result<Revision, Error>> {
        let txn = {
            let staged = self.staged.lock();
            let compare = staged
                .conditions
                .iter()
                .map(|(key, revision)| Compare::equal(key.clone(), CompareTarget::ModRevision(*revision)));
            Txn { compare: compare.collect(), success: staged.effective().map(op).collect(), failure: Vec::new() }
        };
        if txn.success.is_empty() {
            return Ok(0);
        }
        let reply = self.store.txn(txn).await.map_err(Err)?;
        if reply.succeeded { Ok(reply.revision) } else { Err(Ok(reply.revision)) }
    }
}

fn op(write: &Write) -> Op {
    match &write.entry {
        Some(entry) => Op::Put { key: write.key.clone(), value: entry.value.clone(), lease: entry.lease },
        None => Op::Delete { start: write.key.clone(), end: Bytes::new() },
    }
}

impl Staged {
    /// The writes that change something: what came and went within the transaction does not.
    fn effective(&self) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(|write| write.existed || write.entry.is_some())
    }

    fn find(&self, key: &Bytes) -> Option<&Write> {
        self.writes.iter().find(|write| write.key == *key)
    }

    fn write(&mut self, base: &Cache, key: &Bytes, new: Option<(Bytes, LeaseId)>) {
        let revision = self.revision;
        let entry = new.map(|(value, lease)| Entry {
            key: key.clone(),
            value,
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease,
        });
        self.fresh.push(match &entry {
            Some(entry) => Event::Put { entry: entry.clone(), prev: None },
            None => Event::Delete { key: key.clone(), revision, prev: None },
        });
        match self.writes.iter_mut().find(|write| write.key == *key) {
            Some(write) => write.entry = entry,
            None => self.writes.push(Write { key: key.clone(), entry, existed: base.revision_of(key) > 0 }),
        }
    }

    /// Whether a condition holds; one on the store is noted.
    fn holds(&mut self, base: &Cache, compare: &Compare) -> Result<bool, Error> {
        let key = &compare.start;
        let (CompareTarget::ModRevision(expected), Relation::Equal, true) =
            (&compare.target, compare.relation, compare.end.is_empty())
        else {
            return Err(Error::Invalid { why: "a staged write compares something else than a key's revision" });
        };
        let expected = *expected;
        if let Some(write) = self.find(key) {
            return Ok(write.entry.as_ref().map_or(0, |entry| entry.mod_revision) == expected);
        }
        if base.revision_of(key) != expected {
            return Ok(false);
        }
        if !self.conditions.iter().any(|(noted, _)| noted == key) {
            self.conditions.push((key.clone(), expected));
        }
        Ok(true)
    }

    /// Stages the writes of one branch.
    fn stage(&mut self, base: &Cache, ops: Vec<Op>) -> Result<TxnReply, Error> {
        self.revision += 1;
        let mut results = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    self.write(base, &key, Some((value, lease)));
                    results.push(OpResult::Put(None));
                }
                Op::Delete { start, end } if end.is_empty() => {
                    self.write(base, &start, None);
                    results.push(OpResult::Delete(Vec::new()));
                }
                Op::Delete { .. } | Op::Update { .. } | Op::Range(_) | Op::Txn(_) => {
                    return Err(Error::Invalid { why: "a staged write is no write of one key" });
                }
            }
        }
        Ok(TxnReply { succeeded: true, revision: self.revision, results })
    }

    /// A key as it was staged; none when it was not.
    fn shown(&self, range: &Range) -> Option<RangeReply> {
        let write = self.find(&range.start)?;
        let entries: Vec<_> = write.entry.iter().cloned().collect();
        Some(RangeReply { count: entries.len() as u64, entries, more: false, revision: self.revision })
    }
}

#[async_trait]
impl Backend for Staging {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        self.store.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        let mut shown = Vec::new();
        {
            let mut staged = self.staged.lock();
            let mut holds = true;
            for compare in &txn.compare {
                holds &= staged.holds(&self.base, compare)?;
            }
            if holds {
                return staged.stage(&self.base, txn.success);
            }
            for op in txn.failure {
                let Op::Range(range) = op else {
                    return Err(Error::Invalid { why: "a staged write that failed would write" });
                };
                shown.push(staged.shown(&range).ok_or(range));
            }
        }
        let mut results = Vec::new();
        for found in shown {
            results.push(OpResult::Range(match found {
                Ok(reply) => reply,
                Err(range) => self.store.range(range).await?,
            }));
        }
        Ok(TxnReply { succeeded: false, revision: self.base.applied(), results })
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        self.store.watch(start, end, from).await
    }

    async fn grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error> {
        self.store.grant_as(id, ttl_seconds).await
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        self.store.lease(lease).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.store.leases().await
    }

    async fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        self.store.hash(revision).await
    }

    async fn image(&self) -> Result<ImageStream, Error> {
        self.store.image().await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke(lease).await
    }

    async fn compact(&self, _: Revision) -> Result<(), Error> {
        Err(Error::Invalid { why: "a transaction compacts nothing" })
    }

    async fn status(&self) -> Result<Status, Error> {
        self.store.status().await
    }
}
