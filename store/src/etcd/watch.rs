//! etcd's watch responses as batches. Fragmenting is not asked for, so etcd sends whole revisions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse};
use futures::{StreamExt, stream};

use super::fault::{reading, text};
use super::translate;
use crate::backend::{Error, WatchStream};
use crate::kv::{Event, Revision, WatchBatch};

struct Watch {
    inner: etcd_client::WatchStream,
    asked: Revision,
    compacted: Arc<AtomicU64>,
    /// Changes when it is to be asked how far it is.
    progress: tokio::sync::watch::Receiver<u64>,
    done: bool,
}

/// Opens a watch from a revision on; returns when etcd has it, so that nothing after is missed.
pub(super) async fn open(
    client: WatchClient,
    compacted: Arc<AtomicU64>,
    progress: tokio::sync::watch::Receiver<u64>,
    start: &Bytes,
    end: &Bytes,
    asked: Revision,
) -> Result<WatchStream, Error> {
    let mut options = WatchOptions::new().with_prev_key().with_progress_notify();
    options = options.with_start_revision(translate::signed(asked));
    if !end.is_empty() {
        options = options.with_range(end.to_vec());
    }
    let key = translate::start_key(start, end);
    let (inner, created) = reading("open a watch", || {
        let (mut client, key, options) = (client.clone(), key.clone(), options.clone());
        async move {
            let mut inner = client.watch(key, Some(options)).await?;
            let created = inner.message().await?;
            Ok((inner, created))
        }
    })
    .await?;
    let mut watch = Watch { inner, asked, compacted, progress, done: false };
    let first = match created {
        Some(reply) if reply.created() && !reply.canceled() => None,
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
    let message = loop {
        tokio::select! {
            message = watch.inner.message() => break message,
            Ok(()) = watch.progress.changed() => {
                if let Err(error) = watch.inner.request_progress().await {
                    break Err(error);
                }
            }
        }
    };
    let item = match message {
        Ok(Some(reply)) if reply.canceled() => Err(watch.ended(&reply)),
        Ok(Some(reply)) => batch(&reply),
        Ok(None) => Err(closed("etcd closed it".to_owned())),
        Err(error) => Err(closed(text(&error))),
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
