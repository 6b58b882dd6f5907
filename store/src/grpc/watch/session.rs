//! One stream of the Watch service: its requests, and the events of all its watches.
//!
//! It is the stream that the connection sends from: nothing is read from the store, and no request is taken, before the client
//! has taken what was said to it. So a slow client holds up itself alone, and an answer wakes no task but the one that sends it.
//!
//! Each watch is a watch of the backend. One that the backend cuts off because the client read too slowly goes on from where it
//! was, out of the history that is kept, as in etcd; only when that is gone too is the client told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{AbortHandle, BoxStream, SelectAll, abortable};
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::slices;
use crate::backend::{Error, WatchStream};
use crate::grpc::auth::Caller;
use crate::grpc::pb::watch_create_request::FilterType;
use crate::grpc::pb::watch_request::RequestUnion;
use crate::grpc::pb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::grpc::proto::mvccpb::{self, KeyValue, event::EventType};
use crate::grpc::{Api, Replies, closed, fault, range, signed, unsigned};
use crate::kv::{Event, Range, Revision, WatchBatch, WatchFrom};

/// The id of answers that are about no watch, or about all.
const NO_WATCH: i64 = -1;

/// Most watches on one stream.
const MAX_WATCHES: usize = 100_000;

/// How long a stream that wants a leader bears to have none. etcd ends it after three of its election timeouts.
const WITHOUT_LEADER: Duration = Duration::from_secs(3);

/// How often such a stream looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Everything was said.
struct Ended;

/// What a watch of the backend said, and which: ids of watches can be used again, numbers are not.
type Said = (u64, Option<Result<WatchBatch, Error>>);

/// One stream. See the module.
pub(super) struct Session {
    api: Arc<Api>,
    requests: Streaming<WatchRequest>,
    /// The client may ask for more.
    asks: bool,
    closing: BoxFuture<'static, ()>,
    progress: Interval,
    look: Interval,
    /// To be sent.
    replies: VecDeque<Result<WatchResponse, Status>>,
    /// Nothing follows what is to be sent.
    ended: bool,
    caller: Caller,
    watches: HashMap<i64, Watch>,
    ids: HashMap<u64, i64>,
    streams: SelectAll<BoxStream<'static, Said>>,
    next_id: i64,
    next_number: u64,
    /// The client asked to be told when all watches have reached this.
    asked: Option<Revision>,
    needs_leader: bool,
    alone_since: Option<Instant>,
}

struct Watch {
    number: u64,
    request: WatchCreateRequest,
    stop: AbortHandle,
    /// All events up to here were sent.
    reached: Revision,
    /// Progress is to be told as soon as it is known.
    due: bool,
    /// Something was sent since progress was last due.
    spoke: bool,
}

impl Session {
    pub(super) fn new(
        api: Arc<Api>,
        requests: Streaming<WatchRequest>,
        progress_every: Duration,
        caller: Caller,
        needs_leader: bool,
    ) -> Self {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            requests,
            asks: true,
            closing: closed(api.closing.subscribe()).boxed(),
            progress: tokio::time::interval_at(Instant::now() + progress_every, progress_every),
            look,
            replies: VecDeque::new(),
            ended: false,
            api,
            caller,
            watches: HashMap::new(),
            ids: HashMap::new(),
            streams: SelectAll::new(),
            next_id: 0,
            next_number: 0,
            asked: None,
            needs_leader,
            alone_since: None,
        }
    }

    /// What the client is sent, until it goes away or the server closes.
    pub(super) fn replies(self) -> Replies<WatchResponse> {
        stream::unfold(self, |mut session| async move {
            let reply = session.next().await?;
            Some((reply, session))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Some(reply);
            }
            if self.ended {
                return None;
            }
            self.ended = self.step().await.is_err();
        }
    }

    /// Waits for something to happen, and says what is to be said about it.
    async fn step(&mut self) -> Result<(), Ended> {
        tokio::select! {
            Some((number, said)) = self.streams.next(), if !self.streams.is_empty() => self.said(number, said).await,
            request = self.requests.message(), if self.asks => match request {
                Ok(Some(request)) => self.request(request).await,
                // It asks for nothing more, and still listens.
                Ok(None) => {
                    self.asks = false;
                    Ok(())
                }
                Err(_) => Err(Ended),
            },
            _ = self.progress.tick() => self.tell_progress().await,
            _ = self.look.tick(), if self.needs_leader => self.look_for_leader(),
            () = &mut self.closing => self.end(fault::stopped()),
        }
    }

    async fn request(&mut self, request: WatchRequest) -> Result<(), Ended> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => {
                self.asked = Some(self.now().await?);
                self.ask_for_progress().await;
                self.answer_progress();
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, mut request: WatchCreateRequest) -> Result<(), Ended> {
        // etcd has no empty key; the first that it can have is a zero byte.
        if request.key.is_empty() {
            request.key = bytes::Bytes::from_static(&[0]);
        }
        let newest = if request.start_revision == 0 { self.now().await? } else { self.newest().await? };
        if let Some(why) = self.refusal(&request) {
            self.refuse(newest, why.message());
            return Ok(());
        }
        let from = match unsigned(request.start_revision) {
            0 => newest + 1,
            revision => revision,
        };
        if let Err(status) = self.api.admit(&self.caller, &request).await {
            self.refuse(newest, &fault::as_reason(&status));
            return Ok(());
        }
        let id = if request.watch_id == 0 { self.choose_id() } else { request.watch_id };
        match self.api.backend.watch(request.key.clone(), request.range_end.clone(), WatchFrom::Revision(from)).await {
            Ok(stream) => {
                self.send(WatchResponse { created: true, ..self.response(newest, id) });
                self.add(id, request, stream, 0);
            }
            Err(Error::Compacted { oldest, .. }) => {
                self.send(WatchResponse { created: true, ..self.response(newest, id) });
                self.send(self.compacted(newest, id, oldest));
            }
            Err(error) => self.refuse(newest, fault::status(error).message()),
        }
        Ok(())
    }

    /// Why there can be no such watch.
    fn refusal(&self, request: &WatchCreateRequest) -> Option<Status> {
        let (start, end) = (&request.key, &request.range_end);
        if request.start_revision < 0 {
            Some(fault::compacted())
        } else if !end.is_empty() && end[..] != [0] && start >= end {
            Some(Status::invalid_argument("mvcc: watcher range is empty"))
        } else if request.watch_id != 0 && self.watches.contains_key(&request.watch_id) {
            Some(Status::invalid_argument("mvcc: duplicate watch ID provided on the WatchStream"))
        } else if self.watches.len() >= MAX_WATCHES {
            Some(Status::invalid_argument("etcdserver: too many watches on one stream"))
        } else {
            None
        }
    }

    /// The next id that is free.
    fn choose_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn add(&mut self, id: i64, request: WatchCreateRequest, stream: WatchStream, reached: Revision) {
        let number = self.next_number;
        self.next_number += 1;
        let said = stream.map(Some).chain(stream::once(async { None })).map(move |said| (number, said));
        let (said, stop) = abortable(said);
        self.streams.push(said.boxed());
        self.ids.insert(number, id);
        self.watches.insert(id, Watch { number, request, stop, reached, due: false, spoke: true });
    }

    fn remove(&mut self, id: i64) -> Option<Watch> {
        let watch = self.watches.remove(&id)?;
        self.ids.remove(&watch.number);
        watch.stop.abort();
        Some(watch)
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Ended> {
        if self.remove(id).is_none() {
            return Ok(());
        }
        let newest = self.newest().await?;
        self.send(WatchResponse { canceled: true, ..self.response(newest, id) });
        self.answer_progress();
        Ok(())
    }

    async fn said(&mut self, number: u64, said: Option<Result<WatchBatch, Error>>) -> Result<(), Ended> {
        let Some(&id) = self.ids.get(&number) else { return Ok(()) };
        match said {
            Some(Ok(batch)) => {
                self.deliver(id, batch);
                self.answer_progress();
                Ok(())
            }
            Some(Err(Error::Slow { .. })) => self.resume(id).await,
            Some(Err(Error::Compacted { oldest, .. })) => self.lose(id, oldest).await,
            Some(Err(error)) => self.end(fault::status(error)),
            None => self.end(fault::stopped()),
        }
    }

    fn deliver(&mut self, id: i64, batch: WatchBatch) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let wants = |kind: FilterType| !watch.request.filters().any(|filter| filter == kind);
        let (puts, deletes, prev) = (wants(FilterType::Noput), wants(FilterType::Nodelete), watch.request.prev_kv);
        let events = batch.events.into_iter().filter(|event| match event {
            Event::Put { .. } => puts,
            Event::Delete { .. } => deletes,
        });
        let slices = slices::cut(events.map(|event| told(event, prev)).collect(), watch.request.fragment);
        watch.reached = batch.revision;
        watch.spoke |= !slices.is_empty();
        let due = std::mem::take(&mut watch.due) && slices.is_empty();
        let last = slices.len().saturating_sub(1);
        for (i, slice) in slices.into_iter().enumerate() {
            // Only with the last is everything up to the batch's revision told.
            let reached = slice.events.last().map_or(0, slices::revision);
            let mut response = self.response(batch.revision, id);
            if let Some(header) = response.header.as_mut().filter(|_| i < last) {
                header.revision = reached;
            }
            self.send(WatchResponse { events: slice.events, fragment: slice.fragment, ..response });
        }
        if due {
            self.send(self.response(batch.revision, id));
        }
    }

    /// Goes on with a watch that was cut off.
    async fn resume(&mut self, id: i64) -> Result<(), Ended> {
        let Some(watch) = self.remove(id) else { return Ok(()) };
        let start = unsigned(watch.request.start_revision);
        let from = WatchFrom::Revision(start.max(watch.reached + 1));
        let (key, end) = (watch.request.key.clone(), watch.request.range_end.clone());
        match self.api.backend.watch(key, end, from).await {
            Ok(stream) => {
                self.add(id, watch.request, stream, watch.reached);
                Ok(())
            }
            Err(Error::Compacted { oldest, .. }) => {
                let newest = self.newest().await?;
                self.send(self.compacted(newest, id, oldest));
                Ok(())
            }
            Err(error) => self.end(fault::status(error)),
        }
    }

    async fn lose(&mut self, id: i64, oldest: Revision) -> Result<(), Ended> {
        self.remove(id);
        let newest = self.newest().await?;
        self.send(self.compacted(newest, id, oldest));
        self.answer_progress();
        Ok(())
    }

    /// It is time to say how far the watches are that want to know and have been silent.
    async fn tell_progress(&mut self) -> Result<(), Ended> {
        let newest = self.newest().await?;
        let mut at_once = Vec::new();
        for (id, watch) in &mut self.watches {
            if !std::mem::take(&mut watch.spoke) && watch.request.progress_notify {
                watch.due = watch.reached < newest;
                at_once.extend((!watch.due).then_some((*id, watch.reached)));
            }
        }
        for (id, reached) in at_once {
            self.send(self.response(reached, id));
        }
        self.ask_for_progress().await;
        Ok(())
    }

    async fn ask_for_progress(&mut self) {
        if let Err(error) = self.api.backend.request_progress().await {
            tracing::debug!(%error, "a watch tells its progress later");
        }
    }

    /// Answers a request for progress once all watches have got so far.
    fn answer_progress(&mut self) {
        let Some(asked) = self.asked else { return };
        let reached = self.watches.values().map(|watch| watch.reached).min().unwrap_or(asked);
        if reached >= asked {
            self.asked = None;
            self.send(self.response(reached, NO_WATCH));
        }
    }

    fn look_for_leader(&mut self) -> Result<(), Ended> {
        if self.api.members.standing().leader != 0 {
            self.alone_since = None;
            return Ok(());
        }
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() < WITHOUT_LEADER { Ok(()) } else { self.end(fault::no_leader()) }
    }

    /// The newest revision anywhere, where another member may be ahead of this one.
    async fn now(&mut self) -> Result<Revision, Ended> {
        let nothing = Range { count_only: true, ..Range::key(bytes::Bytes::from_static(&[0])) };
        match self.api.backend.range(nothing).await {
            Ok(reply) => Ok(reply.revision),
            Err(error) => self.end(fault::status(error)),
        }
    }

    /// The newest revision here.
    async fn newest(&mut self) -> Result<Revision, Ended> {
        match self.api.backend.status().await {
            Ok(status) => Ok(status.revision),
            Err(error) => self.end(fault::status(error)),
        }
    }

    fn response(&self, revision: Revision, id: i64) -> WatchResponse {
        WatchResponse { header: self.api.header(revision), watch_id: id, ..WatchResponse::default() }
    }

    /// What was asked for is gone; it can be watched from `oldest` on.
    fn compacted(&self, newest: Revision, id: i64, oldest: Revision) -> WatchResponse {
        WatchResponse { canceled: true, compact_revision: signed(oldest), ..self.response(newest, id) }
    }

    fn refuse(&mut self, newest: Revision, why: &str) {
        let response = self.response(newest, NO_WATCH);
        self.send(WatchResponse { created: true, canceled: true, cancel_reason: why.to_owned(), ..response });
    }

    fn send(&mut self, response: WatchResponse) {
        self.replies.push_back(Ok(response));
    }

    fn end<T>(&mut self, status: Status) -> Result<T, Ended> {
        self.replies.push_back(Err(status));
        Err(Ended)
    }
}

/// An event in etcd's words: of a deleted key the name, and the revision that deleted it.
fn told(event: Event, wants_prev: bool) -> mvccpb::Event {
    let (kind, pair, prev) = match event {
        Event::Put { entry, prev } => (EventType::Put, range::pair(entry), prev),
        Event::Delete { key, revision, prev } => {
            let pair = KeyValue { key, mod_revision: signed(revision), ..KeyValue::default() };
            (EventType::Delete, pair, prev)
        }
    };
    mvccpb::Event { r#type: kind.into(), kv: Some(pair), prev_kv: prev.filter(|_| wants_prev).map(range::pair) }
}
