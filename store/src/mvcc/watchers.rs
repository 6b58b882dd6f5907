//! Fan-out: each revision to the watchers whose range it touches.
//!
//! The state's owner calls [`Watchers::publish`] once for each group of revisions. A watcher holds pointers to the revisions
//! that concern it, at most [`WATCHER_LIMIT`] events beyond what it started with; one that falls further behind ends with
//! [`Error::Slow`] and what it held is freed. Nobody waits for a watcher.
//!
//! A watcher whose range is not touched is not woken: its progress moves silently and is told with its next events, or
//! when [`Watchers::tell_progress`] is called.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;

use super::history::Revised;
use super::{Mvcc, Span};
use crate::backend::{Error, WatchStream};
use crate::kv::{Revision, WatchBatch, WatchFrom};
use crate::planted::{self, Bug};

/// How many events a watcher may lag behind before it is cut off.
pub const WATCHER_LIMIT: usize = 10_000;

/// Most revisions handed out at once.
const BATCH_REVISIONS: usize = 1_000;

/// All watchers of one state.
pub(crate) struct Watchers {
    feeds: Vec<Arc<Feed>>,
    limit: usize,
}

struct Feed {
    start: Bytes,
    end: Bytes,
    from: Revision,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Revisions not handed out yet, and how many events of ours they hold.
    pending: VecDeque<Arc<Revised>>,
    events: usize,
    /// Events allowed in `pending`.
    room: usize,
    /// Everything of ours up to here is in `pending` or was handed out.
    progress: Revision,
    told: Revision,
    /// Progress is to be told even without events.
    tell: bool,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Slow(usize),
    Closed,
    /// The stream has said why.
    Told,
}

impl Watchers {
    pub(crate) fn new(limit: usize) -> Self {
        Self { feeds: Vec::new(), limit }
    }

    /// A stream of what `state` held from the start asked for, and of all that is published from now on. The caller holds
    /// the lock under which it publishes.
    pub(crate) fn watch(
        &mut self,
        state: &Mvcc,
        start: Bytes,
        end: Bytes,
        from: WatchFrom,
    ) -> Result<WatchStream, Error> {
        let from = match from {
            WatchFrom::Now => state.revision() + 1,
            WatchFrom::Revision(revision) => {
                let (asked, oldest) = (revision.max(1), state.oldest_change());
                if asked < oldest {
                    return Err(Error::Compacted { asked, oldest });
                }
                asked
            }
        };
        let feed = Feed { start, end, from, queue: Mutex::default() };
        let mut queue = Queue { progress: state.revision(), tell: true, ..Queue::default() };
        for revised in state.changes_from(from) {
            let deletes = revised.changes.iter().all(|change| change.now.is_none());
            if planted::is(Bug::DeleteLostAtCompaction) && deletes && state.compacted() > 0 {
                continue;
            }
            feed.push(&mut queue, revised);
        }
        queue.room = queue.events + self.limit;
        *feed.queue.lock() = queue;
        let feed = Arc::new(feed);
        self.feeds.push(feed.clone());
        Ok(Watch { feed }.boxed())
    }

    /// Hands new revisions, up to and including `newest`, to those whom they concern.
    pub(crate) fn publish(&mut self, revisions: &[Arc<Revised>], newest: Revision) {
        let limit = self.limit;
        // Only the stream and this list hold a feed: one that nobody else holds was dropped.
        self.feeds.retain(|feed| Arc::strong_count(feed) > 1);
        for feed in &self.feeds {
            let mut queue = feed.queue.lock();
            if queue.end.is_some() {
                continue;
            }
            let before = queue.events;
            for revised in revisions {
                feed.push(&mut queue, revised);
                if planted::is(Bug::EventTwice) && revised.changes.len() > 1 {
                    feed.push(&mut queue, revised);
                }
            }
            queue.progress = newest;
            let touched = queue.events > before;
            if queue.events > queue.room {
                queue.pending = VecDeque::new();
                queue.events = 0;
                queue.tell = false;
                queue.end = Some(End::Slow(limit));
            }
            if touched {
                queue.wake();
            }
        }
    }

    /// Has every watcher say how far it is, also those that nothing happened to.
    pub(crate) fn tell_progress(&mut self) {
        for feed in &self.feeds {
            let mut queue = feed.queue.lock();
            if queue.told < queue.progress {
                queue.tell = true;
                queue.wake();
            }
        }
    }

    /// Ends every watch, after what it still holds.
    pub(crate) fn close(&mut self) {
        for feed in self.feeds.drain(..) {
            let mut queue = feed.queue.lock();
            queue.end.get_or_insert(End::Closed);
            queue.wake();
        }
    }
}

impl Feed {
    fn push(&self, queue: &mut Queue, revised: &Arc<Revised>) {
        let span = Span::new(&self.start, &self.end);
        let ours = revised.changes.iter().filter(|change| span.contains(change.key())).count();
        let wanted = revised.revision >= self.from || planted::is(Bug::FutureWatchHearsPast);
        if ours > 0 && wanted {
            queue.pending.push_back(revised.clone());
            queue.events += ours;
        }
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct Watch {
    feed: Arc<Feed>,
}

impl Watch {
    /// The next whole revisions, if any wait.
    fn batch(&self, queue: &mut Queue) -> Option<WatchBatch> {
        let span = Span::new(&self.feed.start, &self.feed.end);
        let ahead = planted::is(Bug::ProgressAhead) && queue.tell;
        let take = if ahead { 0 } else { queue.pending.len().min(BATCH_REVISIONS) };
        let mut events = Vec::with_capacity(take);
        let mut last = queue.told;
        for revised in queue.pending.drain(..take) {
            last = revised.revision;
            let ours = revised.changes.iter().filter(|change| span.contains(change.key()));
            let most = if planted::is(Bug::RevisionSplit) { 1 } else { usize::MAX };
            events.extend(ours.take(most).map(|change| change.event(revised.revision)));
        }
        queue.events -= events.len();
        let revision = if queue.pending.is_empty() || ahead { queue.progress } else { last };
        if events.is_empty() && !queue.tell {
            return None;
        }
        queue.tell = false;
        queue.told = revision;
        Some(WatchBatch { events, revision })
    }
}

impl Stream for Watch {
    type Item = Result<WatchBatch, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.feed.queue.lock();
        // What it held is gone: it must not say that it has got anywhere.
        if let Some(End::Slow(limit)) = queue.end {
            queue.end = Some(End::Told);
            return Poll::Ready(Some(Err(Error::Slow { limit })));
        }
        if let Some(batch) = self.batch(&mut queue) {
            return Poll::Ready(Some(Ok(batch)));
        }
        match queue.end {
            Some(End::Told) => Poll::Ready(None),
            Some(End::Slow(_) | End::Closed) => {
                queue.end = Some(End::Told);
                let why = "it was closed".to_owned();
                Poll::Ready(Some(Err(Error::Unavailable { operation: "watch", why })))
            }
            None => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
