//! GET with `watch` on a collection: changes as they happen (upstream's cacher; KEP-365 bookmarks, KEP-3157 watch lists).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use store::Revision;
use tokio::{sync::mpsc, time::Instant};

use super::list;
use crate::{
    ask::Ask,
    cache::{Change, Event, Filter, KindCache, TooOld, frame},
    item::Item,
    negotiate::{self, Form},
    parts::{self, Parts},
    query::ListOptions,
    reply::{self, Answer, Response},
    table::{self, Include},
};

/// Between two bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long before the end of the watch the last bookmark is sent.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// How long a watch lasts whose client names no time: at least, and up to twice that (upstream's `min-request-timeout`).
const LASTS: u64 = 1_800;

/// Bytes that a watch hands to the connection at once, when there is much to say.
const SLICE: usize = 64 << 10;

/// Opens the stream. A past that is forgotten is told as an event of status 410, as clients expect.
pub async fn watch(ask: &Ask) -> Answer<Response> {
    let options = ListOptions::new(&ask.query, true)?;
    let form = negotiate::form(&ask.headers, true)?;
    let include = Include::parse(ask.query.get("includeObject"))?;
    let filter = Filter::new(&*ask.entry, ask.target.namespace.as_deref(), &options.labels, &options.fields)?;
    let filter = Arc::new(filter);
    let revision = options.revision.unwrap_or(0);
    match (options.revision, options.initial) {
        (Some(0), _) => {}
        (Some(revision), Some(true)) => {
            ask.parts.cache.reach(revision).await.map_err(|late| reply::late(&late))?;
        }
        // ahead of this server; or of a store that was made anew from a backup, and then the client must list
        (Some(revision), _) if revision > ask.parts.cache.applied() => {
            ask.fresh().await?;
            let applied = ask.parts.cache.applied();
            if revision > applied {
                return Ok(streamed(Body::from(too_old(revision, applied))));
            }
        }
        (Some(_), _) => {}
        (None, _) => ask.fresh().await?,
    }
    let applied = ask.parts.cache.applied();
    let since = match options.initial {
        Some(true) => None,
        Some(false) if revision == 0 => Some(applied),
        _ if revision == 0 => None,
        _ => Some(revision),
    };
    let subscription = match ask.cache.subscribe(&filter, since, applied) {
        Ok(subscription) => subscription,
        Err(TooOld(oldest)) => return Ok(streamed(Body::from(too_old(revision, oldest)))),
    };
    let initial: VecDeque<_> = match &subscription.snapshot {
        Some(snapshot) => {
            let all = snapshot.within(filter.namespace.as_deref());
            all.filter(|item| filter.matches(&*ask.entry, item)).map(Arc::clone).collect()
        }
        None => VecDeque::new(),
    };
    let lasts = options.timeout.unwrap_or_else(|| LASTS + rand::random::<u64>() % LASTS);
    let watching = Watching {
        parts: Arc::clone(&ask.parts),
        cache: Arc::clone(&ask.cache),
        filter,
        shape: Shape { form, include, headed: true },
        initial,
        end_of_initial: (options.initial == Some(true)).then_some(subscription.revision),
        backlog: subscription.backlog.into(),
        receiver: subscription.receiver,
        after: since.unwrap_or(subscription.revision),
        bookmarks: options.bookmarks,
        next_bookmark: first_bookmark(lasts),
        end: Instant::now() + Duration::from_secs(lasts),
    };
    Ok(streamed(watching.into_body()))
}

/// What there was at a revision of the past, and then the end: nothing comes after it. A watch from another revision is told
/// to list.
pub async fn past(ask: &Ask) -> Answer<Response> {
    let options = ListOptions::new(&ask.query, true)?;
    let (form, at) = (negotiate::form(&ask.headers, true)?, ask.at.unwrap_or(0));
    let include = Include::parse(ask.query.get("includeObject"))?;
    let filter = Filter::new(&*ask.entry, ask.target.namespace.as_deref(), &options.labels, &options.fields)?;
    let from = options.revision.filter(|revision| *revision > 0 && options.initial != Some(true));
    if let Some(other) = from.filter(|revision| *revision != at) {
        return Ok(streamed(Body::from(too_old(other, at))));
    }
    let all = from.is_none() && options.initial != Some(false);
    let initial = match all {
        true => list::past(ask, &options, &filter, at, String::new()).await?.items.into(),
        false => VecDeque::new(),
    };
    let watching = Watching {
        parts: Arc::clone(&ask.parts),
        cache: Arc::clone(&ask.cache),
        filter: Arc::new(filter),
        shape: Shape { form, include, headed: true },
        initial,
        end_of_initial: (options.initial == Some(true)).then_some(at),
        backlog: VecDeque::new(),
        // nobody sends
        receiver: mpsc::channel(1).1,
        after: at,
        bookmarks: false,
        next_bookmark: Instant::now(),
        end: Instant::now(),
    };
    Ok(streamed(watching.into_body()))
}

fn streamed(body: Body) -> Response {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply::JSON));
    response
}

fn first_bookmark(lasts: u64) -> Instant {
    let last = Duration::from_secs(lasts).saturating_sub(LAST_BOOKMARK);
    Instant::now() + last.min(BOOKMARK_EVERY)
}

fn too_old(asked: Revision, oldest: Revision) -> Bytes {
    let status = api::status::expired(format!("too old resource version: {asked} ({oldest})"));
    frame("ERROR", &serde_json::to_vec(&status).unwrap_or_default())
}

/// The form of each event.
struct Shape {
    form: Form,
    include: Include,
    /// The next table is the first.
    headed: bool,
}

/// One open watch.
struct Watching {
    parts: Arc<Parts>,
    cache: Arc<KindCache>,
    filter: Arc<Filter>,
    shape: Shape,
    initial: VecDeque<Arc<Item>>,
    /// After the initial events, a bookmark of this revision says that they are complete.
    end_of_initial: Option<Revision>,
    backlog: VecDeque<Arc<Change>>,
    receiver: mpsc::Receiver<Arc<Change>>,
    /// Only changes after this revision are told.
    after: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
}

impl Watching {
    fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut watching| async move {
            let slice = watching.next().await?;
            Some((Ok::<_, std::convert::Infallible>(slice), watching))
        });
        Body::from_stream(frames)
    }

    /// What to send next; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut slice = self.ready();
            if !slice.is_empty() {
                return Some(if slice.len() == 1 { slice.swap_remove(0) } else { slice.concat().into() });
            }
            tokio::select! {
                biased;
                change = self.receiver.recv() => self.backlog.push_back(change?),
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    if let Some(frames) = self.bookmark() {
                        return Some(frames);
                    }
                }
                () = tokio::time::sleep_until(self.end) => return None,
            }
        }
    }

    /// All that can be said at once, up to a limit.
    fn ready(&mut self) -> Vec<Bytes> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < SLICE {
            let frame = if let Some(item) = self.initial.pop_front() {
                self.shape.plain_or(&self.cache, Event::Added, &item, || frame("ADDED", &item.body))
            } else if let Some(revision) = self.end_of_initial.take() {
                self.bookmark_of(revision, true)
            } else if let Some(change) = self.backlog.pop_front().or_else(|| self.receiver.try_recv().ok()) {
                match self.told(&change) {
                    Some(frame) => frame,
                    None => continue,
                }
            } else {
                break;
            };
            bytes += frame.len();
            frames.push(frame);
        }
        frames
    }

    fn told(&mut self, change: &Change) -> Option<Bytes> {
        if change.revision <= self.after {
            return None;
        }
        self.after = change.revision;
        let event = change.seen_by(&self.filter, &*self.cache.entry)?;
        if self.shape.form == Form::Plain {
            return Some(change.frame(event, &self.cache.opening));
        }
        let item = change.shown(event, &self.cache.opening);
        Some(self.shape.frame(&self.cache, event, &item))
    }

    /// A bookmark of all that has been told: the revision is read before the queue is, so that nothing can slip between.
    fn bookmark(&mut self) -> Option<Bytes> {
        let applied = self.parts.cache.applied();
        let now = Instant::now();
        let last = self.end.checked_sub(LAST_BOOKMARK).unwrap_or(now);
        self.next_bookmark = if now < last { (now + BOOKMARK_EVERY).min(last) } else { self.end + BOOKMARK_EVERY };
        let mut frames = self.ready();
        if !self.backlog.is_empty() || !self.receiver.is_empty() {
            return (!frames.is_empty()).then(|| frames.concat().into());
        }
        self.after = self.after.max(applied);
        frames.push(self.bookmark_of(self.after, false));
        Some(frames.concat().into())
    }

    fn bookmark_of(&mut self, revision: Revision, end_of_initial: bool) -> Bytes {
        let kind = self.cache.entry.kind();
        let annotations = if end_of_initial { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let meta =
            format!("\"metadata\":{{\"resourceVersion\":\"{revision}\",\"creationTimestamp\":null{annotations}}}");
        let object = match self.shape.form {
            Form::Plain => format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",{meta}}}", kind.kind, kind.api_version()),
            Form::Metadata(version) => {
                format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",{meta}}}")
            }
            Form::Table(version) => format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\
                 \"columnDefinitions\":[],\"rows\":[{{\"cells\":[],\"object\":{{\"kind\":\"PartialObjectMetadata\",\
                 \"apiVersion\":\"meta.k8s.io/{version}\",{meta}}}}}]}}"
            ),
        };
        frame("BOOKMARK", object.as_bytes())
    }
}

impl Shape {
    fn plain_or(&mut self, cache: &KindCache, event: Event, item: &Item, plain: impl FnOnce() -> Bytes) -> Bytes {
        if self.form == Form::Plain { plain() } else { self.frame(cache, event, item) }
    }

    fn frame(&mut self, cache: &KindCache, event: Event, item: &Item) -> Bytes {
        match self.form {
            Form::Plain => frame(event.word(), &item.body),
            Form::Metadata(version) => frame(event.word(), &table::metadata_only(&item.body, version)),
            Form::Table(version) => {
                let mut table = table::Writer::new(&*cache.entry, version, self.include, parts::now());
                if !std::mem::take(&mut self.headed) {
                    table = table.headless();
                }
                table.row(&item.body);
                frame(event.word(), &table.finish(&item.revision.to_string(), "", None))
            }
        }
    }
}
