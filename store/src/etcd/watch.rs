//! etcd's watch responses as batches. Fragmenting is not asked for, so etcd sends whole revisions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse};
use futures::{StreamExt, stream};

use super::fault::reading;
use super::translate;
use crate::backend::{Error, WatchStream};
use crate::kv::{Event, Revision, WatchBatch, WatchFrom};

struct Watch {
    inner: etcd_client::WatchStream,
    asked: Revision,
    compacted: Arc<AtomicU64>,
    done: bool,
}

/// Opens a watch; returns when etcd has it, so that nothing after is missed.
pub(super) async fn open(
    mut client: WatchClient,
    compacted: Arc<AtomicU64>,
    start: &Bytes,
    end: &Bytes,
    from: WatchFrom,
) -> Result<WatchStream, Error> {
    let asked = match from {
        WatchFrom::Now => 0,
        WatchFrom::Revision(revision) => revision.max(1),
    };
    let mut options = WatchOptions::new().with_prev_key().with_progress_notify();
    options = options.with_start_revision(translate::signed(asked));
    if !end.is_empty() {
        options = options.with_range(end.to_vec());
    }
    let key = translate::start_key(start, end);
    let mut inner = reading("open a watch", client.watch(key, Some(options))).await?;
    let created = reading("open a watch", inner.message()).await?;
    let mut watch = Watch { inner, asked, compacted, done: false };
    let first = match created {
        Some(reply) if reply.created() && !reply.canceled() => {
            // Only from now on is what etcd says here how far the watch is: one from the past has yet to catch up.
            let revision = if asked == 0 { translate::revision(reply.header()) } else { 0 };
            (revision > 0).then_some(Ok(WatchBatch { events: Vec::new(), revision }))
        }
        Some(reply) => Some(Err(watch.ended(&reply))),
        None => Some(Err(closed("etcd closed it".to_owned()))),
    };
    watch.done = matches!(first, Some(Err(_)));
    Ok(stream::iter(first).chain(stream::unfold(watch, next)).boxed())
}

async fn next(mut watch: Watch) -> Option<(Result<WatchBatch, Error>, Watch)> {
    if watch.done {
        return None;
    }
    let item = match watch.inner.message().await {
        Ok(Some(reply)) if reply.canceled() => Err(watch.ended(&reply)),
        Ok(Some(reply)) => batch(&reply),
        Ok(None) => Err(closed("etcd closed it".to_owned())),
        Err(error) => Err(closed(error.to_string())),
    };
    watch.done = item.is_err();
    Some((item, watch))
}

impl Watch {
    fn ended(&self, reply: &WatchResponse) -> Error {
        if reply.compact_revision() > 0 {
            let oldest = translate::unsigned(reply.compact_revision());
            self.compacted.fetch_max(oldest, Ordering::Relaxed);
            return Error::Compacted { asked: self.asked, oldest };
        }
        closed(format!("etcd cancelled it: {}", reply.cancel_reason()))
    }
}

fn closed(why: String) -> Error {
    Error::Unavailable { operation: "watch", why }
}

fn batch(reply: &WatchResponse) -> Result<WatchBatch, Error> {
    let events: Vec<_> = reply.events().iter().map(event).collect::<Result<_, _>>()?;
    // With events, the header may be ahead of what a watch that catches up has been sent.
    let last = reply.events().last().and_then(|event| event.kv()).map(|pair| translate::unsigned(pair.mod_revision()));
    let revision = last.unwrap_or_else(|| translate::revision(reply.header()));
    Ok(WatchBatch { events, revision })
}

fn event(event: &etcd_client::Event) -> Result<Event, Error> {
    let pair = event.kv().ok_or_else(|| closed("etcd sent an event without a key".to_owned()))?;
    let prev = event.prev_kv().map(translate::entry);
    Ok(match event.event_type() {
        EventType::Put => Event::Put { entry: translate::entry(pair), prev },
        EventType::Delete => Event::Delete {
            key: Bytes::copy_from_slice(pair.key()),
            revision: translate::unsigned(pair.mod_revision()),
            prev,
        },
    })
}
