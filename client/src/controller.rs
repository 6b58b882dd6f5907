//! The one reconcile loop: changes become keys, keys are looked at one by one, whatever the change was.
//!
//! # Guarantees
//! * Nothing is reconciled before every watched kind has been listed once.
//! * One key is never reconciled twice at once; of different keys at most [`Controller::workers`] are.
//! * After an error the key comes back, later each time (see [`crate::queue`]). The error is logged once, with its
//!   sources; conflicts are not logged, for whoever wrote first causes a change of its own.
//!
//! # Assumptions
//! * A reconcile is idempotent and derives everything from what it sees now.

use std::{
    collections::BTreeSet,
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use kube::Resource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Caches, Change, Key, Object, Reader, error::Error, owner, queue::Queue};

/// Keys reconciled at once unless told otherwise.
pub const WORKERS: usize = 8;

/// Everything is looked at again after this time even without a change, against what was missed or mistaken.
pub const RESYNC: Duration = Duration::from_secs(10 * 60);

/// How long reconciles may take to finish when the loop is told to end.
pub const FINISH: Duration = Duration::from_secs(5);

/// When to look at a key again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    AwaitChange,
    /// When something changes, and after this time at the latest.
    After(Duration),
}

/// Brings one object nearer to what it asks for.
pub trait Reconcile: Send + Sync + 'static {
    /// The kind whose keys are reconciled.
    type Object: Object;

    /// Looks at one object as it is now, or at its absence. Called again later whatever happens.
    ///
    /// # Errors
    /// Any failed step; the key is tried again.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// A reconciler with all that makes it look. Built once, then [`Controller::run`].
pub struct Controller<R: Reconcile> {
    name: &'static str,
    reconcile: Arc<R>,
    caches: Caches,
    objects: Option<Reader<R::Object>>,
    synced: Vec<BoxFuture<'static, ()>>,
    keys: Vec<BoxStream<'static, Vec<Key>>>,
    workers: usize,
    resync: Duration,
    settle: Duration,
}

impl<R: Reconcile> Controller<R> {
    /// A controller that looks at each object of its kind when it changes. `name` is for logs.
    pub fn new(name: &'static str, caches: &Caches, reconcile: R) -> Self {
        let controller = Self { objects: Some(caches.reader()), ..Self::of_keys(name, caches, reconcile) };
        controller.watches::<R::Object>(|object| vec![Key::of(object)])
    }

    /// A controller whose keys are not the objects of one kind: only what is added to it ([`Controller::also`]) makes it
    /// look.
    pub fn of_keys(name: &'static str, caches: &Caches, reconcile: R) -> Self {
        Self {
            name,
            reconcile: Arc::new(reconcile),
            caches: caches.clone(),
            objects: None,
            synced: Vec::new(),
            keys: Vec::new(),
            workers: WORKERS,
            resync: RESYNC,
            settle: Duration::ZERO,
        }
    }

    /// Looks at an object also when one that it controls changes.
    #[must_use]
    pub fn owns<C: Object>(self) -> Self {
        let group = R::Object::group(&()).into_owned();
        let kind = R::Object::kind(&()).into_owned();
        self.watches::<C>(move |child| {
            let owner = owner::controller_of(child.meta()).filter(|o| o.kind == kind && owner::group_of(o) == group);
            let namespace = child.meta().namespace.clone().unwrap_or_default();
            owner.map(|o| Key::new(namespace, o.name.clone())).into_iter().collect()
        })
    }

    /// Looks at what `keys` says when an object of kind `C` changes: it is asked about the object as it was and as it is.
    #[must_use]
    pub fn watches<C: Object>(self, keys: impl Fn(&C) -> Vec<Key> + Send + Sync + 'static) -> Self {
        let reader = self.caches.reader::<C>();
        self.watches_in(&reader, keys)
    }

    /// As [`Controller::watches`], of the objects in this cache alone.
    #[must_use]
    pub fn watches_in<C: Object>(
        mut self,
        reader: &Reader<C>,
        keys: impl Fn(&C) -> Vec<Key> + Send + Sync + 'static,
    ) -> Self {
        let reader = reader.clone();
        let mut changes = reader.subscribe();
        self.synced.push(async move { reader.synced().await }.boxed());
        let changes = stream::poll_fn(move |cx| changes.poll_recv(cx)).map(move |change| match &change {
            Change::Applied { old, new } => {
                let mut all = keys(new);
                all.extend(old.iter().flat_map(|old| keys(old)));
                all
            }
            Change::Deleted(old) => keys(old),
        });
        self.keys.push(changes.boxed());
        self
    }

    /// Looks at the keys that a stream names, whatever makes it do so.
    #[must_use]
    pub fn also(mut self, keys: impl stream::Stream<Item = Key> + Send + 'static) -> Self {
        self.keys.push(keys.map(|key| vec![key]).boxed());
        self
    }

    /// At most so many keys at once.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Looks at everything again after this time.
    #[must_use]
    pub fn resync(mut self, every: Duration) -> Self {
        self.resync = every;
        self
    }

    /// Waits so long after a change, so that several become one look.
    #[must_use]
    pub fn settle(mut self, time: Duration) -> Self {
        self.settle = time;
        self
    }

    /// Runs until `shutdown`; what is being reconciled then is finished first.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let synced = futures::future::join_all(std::mem::take(&mut self.synced));
        if shutdown.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let mut changes = stream::select_all(std::mem::take(&mut self.keys));
        let mut queue = Queue::default();
        let mut running = JoinSet::new();
        let mut resync = tokio::time::interval(self.resync);
        loop {
            while running.len() < self.workers
                && let Some(key) = queue.pop(Instant::now())
            {
                let reconcile = Arc::clone(&self.reconcile);
                running.spawn(async move {
                    let result = AssertUnwindSafe(reconcile.reconcile(&key)).catch_unwind().await;
                    (key, result.ok())
                });
            }
            let due = queue.next_due().filter(|_| running.len() < self.workers);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(Ok((key, result))) = running.join_next() => self.finish(&mut queue, key, result),
                Some(keys) = changes.next() => {
                    let at = Instant::now() + self.settle;
                    keys.into_iter().for_each(|key| queue.add(key, at));
                }
                _ = resync.tick() => {
                    let now = Instant::now();
                    let keys: BTreeSet<_> = self.objects.iter().flat_map(Reader::list).map(|o| Key::of(o.as_ref())).collect();
                    keys.into_iter().for_each(|key| queue.add(key, now));
                }
                () = sleep_until(due) => {}
            }
        }
        let finish = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, finish).await.is_err() {
            tracing::warn!(controller = self.name, "reconciles did not finish in time and were abandoned");
        }
    }

    /// Takes note of a finished reconcile; no result means that it panicked, which is a bug but not the end of the loop.
    fn finish(&self, queue: &mut Queue<Key>, key: Key, result: Option<Result<Next, Error>>) {
        let now = Instant::now();
        match result {
            Some(Ok(Next::AwaitChange)) => queue.done(key, None),
            Some(Ok(Next::After(time))) => queue.done(key, Some(now + time)),
            Some(Err(error)) => {
                let quiet = error.is_conflict();
                let delay = queue.failed(key.clone(), now);
                if quiet {
                    tracing::debug!(controller = self.name, %key, "somebody else wrote first, looking again");
                } else {
                    tracing::warn!(controller = self.name, %key, retry = ?delay, error = %error.chain(), "reconcile failed");
                }
            }
            None => {
                let delay = queue.failed(key.clone(), now);
                tracing::error!(controller = self.name, %key, retry = ?delay, "reconcile panicked");
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
