//! The watch cache: everything the store holds, in memory, one step behind it at most.
//!
//! One watch over all of `/registry/` feeds the caches of all kinds. As it hands out whole revisions in order, one number
//! says how far every kind is: lists, bookmarks and consistent reads of any kind need nothing else, and no kind needs
//! progress requests of its own.
//!
//! # Guarantees
//! * After a write that this server acknowledged, a reader that waits with [`Cache::fresh`] sees it.
//! * All watchers of a kind are told the same changes in the same order.

pub mod filter;
pub mod kind;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use futures::StreamExt;
use imbl::OrdMap;
use store::{Backend, Range, Revision, WatchFrom};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::{
    filter::Filter,
    kind::{Change, Event, KindCache, Snapshot, Subscription, TooOld, frame},
};
use crate::{item::Item, registry::Registry, storage};

/// Longest wait of a reader for the cache to catch up, as upstream's.
const FRESH_WITHIN: Duration = Duration::from_secs(3);

/// How much of the past is read again at start, so that watchers can resume over a restart; revisions.
const HISTORY: Revision = 5_000;

/// Entries read from the store at once.
const PAGE: usize = 500;

/// Pause after the store could not be read.
const RETRY: Duration = Duration::from_millis(200);

/// The cache did not reach the revision in time.
#[derive(Debug, thiserror::Error)]
pub enum Late {
    /// The revision has not happened yet, or its event has not arrived.
    #[error("resource version {asked} is ahead of {current}")]
    Behind {
        /// What was waited for.
        asked: Revision,
        /// How far the cache is.
        current: Revision,
    },
    /// The store could not say how far it is.
    #[error("cannot ask the store for its revision")]
    Store(#[source] store::Error),
}

type Objects = OrdMap<Arc<str>, Arc<Item>>;

/// The caches of all kinds.
pub struct Cache {
    backend: Arc<dyn Backend>,
    /// Nothing follows the store: what it was told is the newest there is.
    forked: bool,
    kinds: Vec<Arc<KindCache>>,
    by_prefix: AHashMap<String, Arc<KindCache>>,
    applied: watch::Sender<Revision>,
    written: AtomicU64,
}

impl Cache {
    /// Caches that [`Cache::run`] fills.
    pub fn new(registry: &Registry, backend: Arc<dyn Backend>) -> Self {
        let kinds: Vec<_> = registry.entries().iter().map(|e| Arc::new(KindCache::new(Arc::clone(e)))).collect();
        let by_prefix = kinds.iter().map(|k| (storage::prefix(k.entry.kind()), Arc::clone(k))).collect();
        let (applied, written) = (watch::Sender::new(0), AtomicU64::new(0));
        Self { backend, forked: false, kinds, by_prefix, applied, written }
    }

    /// The same objects in caches that nothing follows: what is told to either, the other does not hear.
    #[must_use]
    pub fn fork(&self, backend: Arc<dyn Backend>) -> Self {
        let applied = self.applied();
        let kinds: Vec<_> = self.kinds.iter().map(|kind| Arc::new(kind.fork())).collect();
        let by_prefix = kinds.iter().map(|k| (storage::prefix(k.entry.kind()), Arc::clone(k))).collect();
        let (applied, written) = (watch::Sender::new(applied), AtomicU64::new(applied));
        Self { backend, forked: true, kinds, by_prefix, applied, written }
    }

    /// Tells a fork of changes.
    pub fn tell(&self, events: &[store::Event]) {
        for event in events {
            self.apply(event);
            let (store::Event::Put { entry: store::Entry { mod_revision: revision, .. }, .. }
            | store::Event::Delete { revision, .. }) = event;
            self.advance(*revision, 0);
        }
    }

    /// The revision that last wrote the object of this key; 0 when there is none.
    pub fn revision_of(&self, key: &[u8]) -> Revision {
        self.route(key).and_then(|(cache, id)| cache.get(id)).map_or(0, |item| item.revision)
    }

    /// The cache of a kind.
    pub fn kind(&self, kind: &api::Kind) -> Option<&Arc<KindCache>> {
        self.kinds.iter().find(|k| k.entry.kind() == kind)
    }

    /// Everything up to and including this revision is in; 0 before the first load.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// The first load is done.
    pub fn ready(&self) -> bool {
        self.applied() > 0
    }

    /// Notes a write of this server, which later readers must see.
    pub fn wrote(&self, revision: Revision) {
        self.written.fetch_max(revision, Ordering::AcqRel);
    }

    /// Waits until everything that was acknowledged before the call is in.
    pub async fn fresh(&self) -> Result<(), Late> {
        let newest = if self.forked {
            self.written.load(Ordering::Acquire).max(1)
        } else {
            let probe = Range { count_only: true, ..Range::key(storage::ROOT) };
            self.backend.range(probe).await.map_err(Late::Store)?.revision
        };
        self.reach(newest).await
    }

    /// Waits until this revision is in.
    pub async fn reach(&self, revision: Revision) -> Result<(), Late> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let wait = tokio::time::timeout(FRESH_WITHIN, applied.wait_for(|applied| *applied >= revision)).await;
        match wait {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Late::Behind { asked: revision, current: self.applied() }),
        }
    }

    /// How far the caches are, as it changes.
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// Follows the store until `shutdown`, then ends all watchers.
    pub async fn run(&self, shutdown: CancellationToken) {
        while let Some(result) = shutdown.run_until_cancelled(self.follow()).await {
            if let Err(error) = result {
                tracing::warn!(%error, "watch of the store ended, loading anew");
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                break;
            }
        }
        self.kinds.iter().for_each(|kind| kind.close());
    }

    /// Loads, then applies changes until the watch ends.
    async fn follow(&self) -> Result<(), store::Error> {
        let newest = self.backend.range(Range { count_only: true, ..Range::key(storage::ROOT) }).await?.revision;
        let mut from = newest;
        if self.applied() == 0 {
            from = self.backend.status().await?.compacted.max(newest.saturating_sub(HISTORY));
        }
        let from = match self.load(from.max(1)).await {
            Err(store::Error::Compacted { .. }) if from < newest => self.load(newest.max(1)).await?,
            other => other?,
        };
        let (start, end) = (storage::ROOT, store::kv::prefix_end(storage::ROOT.as_bytes()));
        let mut changes = self.backend.watch(start.into(), end, WatchFrom::Revision(from + 1)).await?;
        self.advance(from, newest);
        while let Some(batch) = changes.next().await {
            let batch = batch?;
            for event in &batch.events {
                self.apply(event);
            }
            self.advance(batch.revision, newest);
        }
        Ok(())
    }

    /// Publishes progress, but none before everything that existed at the start is in.
    fn advance(&self, revision: Revision, at_start: Revision) {
        if revision >= at_start {
            self.applied.send_if_modified(|applied| {
                let ahead = revision.max(1) > *applied;
                *applied = (*applied).max(revision).max(1);
                ahead
            });
        }
    }

    fn apply(&self, event: &store::Event) {
        let key = match event {
            store::Event::Put { entry, .. } => &entry.key,
            store::Event::Delete { key, .. } => key,
        };
        if let Some((cache, id)) = self.route(key) {
            cache.apply(id, event);
        }
    }

    /// The kind that a key belongs to, and the object's id.
    fn route<'a>(&self, key: &'a [u8]) -> Option<(&Arc<KindCache>, &'a str)> {
        let key = std::str::from_utf8(key).ok()?;
        let (prefix, id) = storage::split(key)?;
        Some((self.by_prefix.get(prefix)?, id))
    }

    /// Reads all kinds as of one revision (0, an empty store, reads as 1); returns it.
    async fn load(&self, revision: Revision) -> Result<Revision, store::Error> {
        let mut loaded = AHashMap::new();
        let mut range = Range { limit: PAGE, ..Range::prefix(storage::ROOT) };
        let empty = self.backend.range(Range { count_only: true, ..range.clone() }).await?;
        let revision = revision.min(empty.revision);
        range.revision = revision;
        if empty.revision > 0 {
            loaded = self.pages(range).await?;
        }
        for kind in &self.kinds {
            kind.load(loaded.remove(kind.opening.as_str()).unwrap_or_default(), revision);
        }
        Ok(revision)
    }

    async fn pages(&self, mut range: Range) -> Result<AHashMap<&str, Objects>, store::Error> {
        let mut loaded: AHashMap<&str, Objects> = AHashMap::new();
        loop {
            let page = self.backend.range(range.clone()).await?;
            for entry in &page.entries {
                let Some((cache, id)) = self.route(&entry.key) else { continue };
                let Some(item) = Item::new(&cache.opening, id.into(), entry) else {
                    tracing::error!(%id, kind = cache.entry.kind().kind, "stored value is no object of its kind, it is left out");
                    continue;
                };
                loaded.entry(&cache.opening).or_default().insert(Arc::clone(&item.id), Arc::new(item));
            }
            let Some(last) = page.entries.last().filter(|_| page.more) else { return Ok(loaded) };
            range.start = [&last.key[..], &[0]].concat().into();
        }
    }
}
