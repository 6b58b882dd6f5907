//! A backend that writes down what its clients ask, are told and see.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;

use super::{History, Nanos, Outcome, Record, Reply, Request, Saw, Seen, Watch};
use crate::backend::{Backend, Error, WatchStream};
use crate::image::ImageStream;
use crate::kv::{KvHash, LeaseId, LeaseInfo, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchFrom};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Nanos + Send + Sync>;

/// A backend with a witness. Clones are for other clients and write into the same history.
///
/// A call that its caller gives up on counts as one of unknown outcome.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<dyn Backend>,
    client: u64,
    clock: Clock,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    history: History,
    /// The last moment written down: each is later than the one before, so that none leaves it open what was first.
    last: Nanos,
}

impl Log {
    fn stamp(&mut self, clock: &Clock) -> Nanos {
        self.last = clock().max(self.last + 1);
        self.last
    }
}

impl Recorder {
    /// Records what is asked of `inner`, as client 0.
    pub fn new(inner: Arc<dyn Backend>, clock: Clock) -> Self {
        Self { inner, client: 0, clock, log: Arc::default() }
    }

    /// The same history, another client.
    #[must_use]
    pub fn client(&self, client: u64) -> Self {
        Self { client, ..self.clone() }
    }

    /// The same history and client, another backend: the next life of a store, or another member of it.
    #[must_use]
    pub fn of(&self, inner: Arc<dyn Backend>) -> Self {
        Self { inner, ..self.clone() }
    }

    /// What was recorded until now.
    pub fn history(&self) -> History {
        self.log.lock().history.clone()
    }

    fn stamp(&self) -> Nanos {
        self.log.lock().stamp(&self.clock)
    }

    async fn record<T: Clone>(
        &self,
        request: Request,
        call: impl Future<Output = Result<T, Error>>,
        reply: impl FnOnce(T) -> Reply,
    ) -> Result<T, Error> {
        let at = {
            let mut log = self.log.lock();
            let called = log.stamp(&self.clock);
            let outcome = Outcome::Unknown;
            log.history.records.push(Record { client: self.client, called, returned: None, request, outcome });
            log.history.records.len() - 1
        };
        let result = call.await;
        let mut log = self.log.lock();
        let returned = log.stamp(&self.clock);
        let record = &mut log.history.records[at];
        record.outcome = Outcome::of(result.as_ref().map(|told| reply(told.clone())));
        record.returned = (!matches!(record.outcome, Outcome::Unknown)).then_some(returned);
        result
    }
}

#[async_trait::async_trait]
impl Backend for Recorder {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        if range.serializable {
            return self.inner.range(range).await;
        }
        self.record(Request::Range(range.clone()), self.inner.range(range), Reply::Range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        self.record(Request::Txn(txn.clone()), self.inner.txn(txn), Reply::Txn).await
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        let watch = Watch {
            client: self.client,
            called: self.stamp(),
            opened: None,
            start: start.clone(),
            end: end.clone(),
            from,
            seen: Vec::new(),
        };
        let opened = self.inner.watch(start, end, from).await;
        let mut log = self.log.lock();
        let now = log.stamp(&self.clock);
        let at = log.history.watches.len();
        log.history.watches.push(Watch { opened: opened.is_ok().then_some(now), ..watch });
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                log.history.watches[at].seen.push(Seen { at: now, saw: Saw::end(&error) });
                return Err(error);
            }
        };
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let witness = move |item: &Result<_, Error>| {
            let mut log = log.lock();
            let now = log.stamp(&clock);
            let saw = item.as_ref().map_or_else(Saw::end, |batch| Saw::Batch(Clone::clone(batch)));
            log.history.watches[at].seen.push(Seen { at: now, saw });
        };
        Ok(stream.inspect(witness).boxed())
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn grant_as(&self, id: LeaseId, ttl: i64) -> Result<LeaseId, Error> {
        self.record(Request::Grant { id, ttl }, self.inner.grant_as(id, ttl), Reply::Granted).await
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        self.inner.lease(lease).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        self.inner.leases().await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        self.record(Request::KeepAlive(lease), self.inner.keep_alive(lease), Reply::KeptAlive).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.record(Request::Revoke(lease), self.inner.revoke(lease), |()| Reply::Done).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.record(Request::Compact(revision), self.inner.compact(revision), |()| Reply::Done).await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }

    async fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        self.inner.hash(revision).await
    }

    async fn image(&self) -> Result<ImageStream, Error> {
        self.inner.image().await
    }
}
