//! Whose turn it is: what etcd's locks and elections are made of.
//!
//! Whoever wants a turn writes a key of its own under the name, with its lease. The one that was created first has the turn until its
//! key is gone, by its own will or with its lease.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tonic::Status;

use super::{Api, answered, fault};
use crate::kv::{Compare, CompareTarget, Entry, Event, LeaseId, Op, OpResult, Range, Revision, Txn, WatchFrom};

/// A place in the queue for a turn. It is given up when it is dropped before the turn came.
pub(super) struct Place {
    api: Arc<Api>,
    pub(super) key: Bytes,
    /// When it was taken.
    pub(super) revision: Revision,
    waits: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let (api, key, revision) = (self.api.clone(), self.key.clone(), self.revision);
        tokio::spawn(async move {
            if let Err(error) = api.leave(key, revision).await {
                tracing::debug!(%error, "a place in a queue goes with its lease");
            }
        });
    }
}

/// All keys under a name.
pub(super) fn under(name: &[u8]) -> Range {
    Range::prefix([name, b"/"].concat())
}

/// The key of the place that a lease takes under a name.
pub(super) fn key(name: &[u8], lease: LeaseId) -> Bytes {
    [name, format!("/{lease:x}").as_bytes()].concat().into()
}

/// The key of a place that a request names: no such place has the empty key, which is the store's own.
pub(super) fn named(key: Bytes) -> Result<Bytes, Status> {
    if key.is_empty() { Err(fault::empty_key()) } else { Ok(key) }
}

/// The key that was created first, of these.
pub(super) fn first(entries: Vec<Entry>) -> Option<Entry> {
    entries.into_iter().min_by_key(|entry| entry.create_revision)
}

impl Api {
    /// Takes a place under a name; the one that the lease has there already, if it has.
    pub(super) async fn take_place(
        self: &Arc<Self>,
        name: &[u8],
        lease: LeaseId,
        value: Bytes,
    ) -> Result<Place, Status> {
        let key = key(name, lease);
        let txn = Txn {
            compare: vec![Compare::equal(key.clone(), CompareTarget::CreateRevision(0))],
            success: vec![Op::Put { key: key.clone(), value: value.clone(), lease }],
            failure: vec![Op::Range(Range::key(key.clone()))],
        };
        let reply = answered(self.backend.txn(txn).await)?;
        let there = match reply.results.into_iter().next() {
            Some(OpResult::Range(found)) => found.entries.into_iter().next(),
            Some(OpResult::Put(_) | OpResult::Delete(_) | OpResult::Txn(_)) | None => None,
        };
        let revision = there.as_ref().map_or(reply.revision, |entry| entry.create_revision);
        if there.is_some_and(|entry| entry.value != value) {
            self.change(key.clone(), revision, value).await?;
        }
        Ok(Place { api: self.clone(), key, revision, waits: true })
    }

    /// Waits until all who came before have left.
    pub(super) async fn wait_for_turn(&self, name: &[u8], mut place: Place) -> Result<Place, Status> {
        loop {
            let reply = answered(self.backend.range(under(name)).await)?;
            if !reply.entries.iter().any(|entry| entry.create_revision == place.revision) {
                return Err(Status::unknown("etcdserver: session's lease has ended"));
            }
            let before = reply.entries.into_iter().filter(|entry| entry.create_revision < place.revision);
            let Some(last) = before.max_by_key(|entry| entry.create_revision) else {
                place.waits = false;
                return Ok(place);
            };
            self.wait_until_gone(last.key, reply.revision + 1).await?;
        }
    }

    async fn wait_until_gone(&self, key: Bytes, from: Revision) -> Result<(), Status> {
        let mut watch = answered(self.backend.watch(key, Bytes::new(), WatchFrom::Revision(from)).await)?;
        while let Some(batch) = watch.next().await {
            if answered(batch)?.events.iter().any(|event| matches!(event, Event::Delete { .. })) {
                break;
            }
        }
        Ok(())
    }

    /// Gives a place up, unless it is lost already.
    pub(super) async fn leave(&self, key: Bytes, revision: Revision) -> Result<Revision, Status> {
        let txn = Txn {
            compare: vec![Compare::equal(key.clone(), CompareTarget::CreateRevision(revision))],
            success: vec![Op::Delete { start: key, end: Bytes::new() }],
            failure: vec![],
        };
        Ok(answered(self.backend.txn(txn).await)?.revision)
    }

    /// Says something else from a place; none when it is lost.
    pub(super) async fn change(
        &self,
        key: Bytes,
        revision: Revision,
        value: Bytes,
    ) -> Result<Option<Revision>, Status> {
        let txn = Txn {
            compare: vec![Compare::equal(key.clone(), CompareTarget::CreateRevision(revision))],
            success: vec![Op::Update { key, value: Some(value), lease: None }],
            failure: vec![],
        };
        let reply = answered(self.backend.txn(txn).await)?;
        Ok(reply.succeeded.then_some(reply.revision))
    }
}
