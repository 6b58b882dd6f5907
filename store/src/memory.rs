//! A store in memory: the state machine behind a mutex. The model that the other backends are held to, and what tests of
//! others run on. Nothing survives it.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::{Backend, Error, WatchStream};
use crate::image::{self, ImageStream};
use crate::kv::{KvHash, LeaseId, LeaseInfo, Range, RangeReply, Revision, Status, Txn, TxnReply, WatchFrom};
use crate::mvcc::history::Window;
use crate::mvcc::watchers::{WATCHER_LIMIT, Watchers};
use crate::mvcc::{Action, Command, Millis, Mvcc, Outcome, limits};

/// A store in memory. Clones are the same store.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: Mvcc,
    watchers: Watchers,
    window: Window,
    born: Instant,
    /// Told of every grant, once a task waits for the next lease to end.
    granted: Option<Arc<Notify>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(granted) = &self.granted {
            granted.notify_one();
        }
    }
}

impl Memory {
    /// An empty store that keeps history as the embedded one does.
    pub fn new() -> Self {
        Self::with_window(Window::default())
    }

    /// An empty store that keeps so much history.
    pub fn with_window(window: Window) -> Self {
        let inner = Inner {
            state: Mvcc::default(),
            watchers: Watchers::new(WATCHER_LIMIT),
            window,
            born: Instant::now(),
            granted: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Ends every watch, as a store that stops does.
    pub fn close(&self) {
        self.inner.lock().watchers.close();
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn now(&self) -> Millis {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn apply(&mut self, action: Action) -> Result<Outcome, Error> {
        let mut fresh = Vec::new();
        let now = self.now();
        self.state.apply_collecting(&Command::new(now, Action::Tick), &mut fresh)?;
        let outcome = self.state.apply_collecting(&Command::new(now, action), &mut fresh);
        if !fresh.is_empty() {
            self.watchers.publish(&fresh, self.state.revision());
        }
        if let Some(revision) = self.state.due_compaction(&self.window) {
            self.state.apply(&Command::new(now, Action::Compact(revision)))?;
        }
        outcome
    }
}

/// Ends leases when they are due, until the store is gone.
async fn expire(inner: Weak<Mutex<Inner>>, granted: Arc<Notify>) {
    loop {
        let due = async {
            match next_wake(&inner) {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = granted.notified() => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        inner.lock().apply(Action::Tick).expect("invariant: a tick cannot fail");
    }
}

fn next_wake(inner: &Weak<Mutex<Inner>>) -> Option<Instant> {
    let inner = inner.upgrade()?;
    let inner = inner.lock();
    inner.state.next_deadline().map(|deadline| inner.born + std::time::Duration::from_millis(deadline))
}

#[async_trait::async_trait]
impl Backend for Memory {
    async fn range(&self, range: Range) -> Result<RangeReply, Error> {
        self.inner.lock().state.range(&range)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, Error> {
        limits::check(&txn)?;
        match self.inner.lock().apply(Action::Txn(txn))? {
            Outcome::Txn(reply) => Ok(reply),
            other => unreachable!("a transaction's outcome is {other:?}"),
        }
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: WatchFrom) -> Result<WatchStream, Error> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.watchers.watch(&inner.state, start, end, from)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.lock().watchers.tell_progress();
        Ok(())
    }

    async fn grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error> {
        limits::check_ttl(ttl_seconds)?;
        let mut inner = self.inner.lock();
        let outcome = inner.apply(Action::Grant { ttl: ttl_seconds, id })?;
        let granted = inner.granted.get_or_insert_with(|| {
            let granted = Arc::new(Notify::new());
            tokio::spawn(expire(Arc::downgrade(&self.inner), granted.clone()));
            granted
        });
        granted.notify_one();
        match outcome {
            Outcome::Granted(id) => Ok(id),
            other => unreachable!("a grant's outcome is {other:?}"),
        }
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        let mut inner = self.inner.lock();
        inner.apply(Action::Tick)?;
        inner.state.lease(lease)
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Ok(self.inner.lock().state.leases())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<i64, Error> {
        match self.inner.lock().apply(Action::KeepAlive(lease))? {
            Outcome::KeptAlive(seconds) => Ok(seconds),
            other => unreachable!("a keep-alive's outcome is {other:?}"),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.lock().apply(Action::Revoke(lease)).map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.lock().apply(Action::Compact(revision)).map(drop)
    }

    async fn status(&self) -> Result<Status, Error> {
        let inner = self.inner.lock();
        let (revision, compacted) = (inner.state.revision(), inner.state.compacted());
        Ok(Status { revision, compacted, disk_bytes: 0, live_bytes: inner.state.bytes(), has_leader: true })
    }

    async fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        self.inner.lock().state.hash(revision)
    }

    async fn image(&self) -> Result<ImageStream, Error> {
        Ok(image::of(self.inner.lock().state.clone()))
    }
}
