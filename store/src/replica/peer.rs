//! The way to other members: gRPC over mutual TLS, one stream of messages to each.
//!
//! A message that cannot be sent now is dropped: whoever needs an answer asks again. So nothing here waits for a member that
//! is slow or gone, and queues have bounds. Certificates are asked for anew for each connection, so they may change any time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Request, Response, Status, Streaming};

use super::message::wire::peer_client::PeerClient;
use super::message::wire::peer_server::{Peer, PeerServer};
use super::message::{Body, Delivered, Envelope, MAX_MESSAGE, Removed};
use super::node::{Input, Post};
use super::tls;
use crate::embedded::cluster::TlsSource;
use crate::members::{Member, MemberId};

/// Most messages, and bytes of them, that wait to be sent to a member.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 64 << 20;

/// Most bytes of messages from others that wait for the loop. Beyond it their senders wait.
const WAITING_BYTES: usize = 64 << 20;

/// Bytes on their way to a member before it has taken any: a batch of entries must not wait for a turn.
const WINDOW: u32 = 8 << 20;

/// How long a connection may take to open.
const OPENING: Duration = Duration::from_secs(2);

/// How long until it is tried again, at first and at most.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);

/// How often a connection on which nothing comes is asked whether it lives, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// All other members. Dropped, it closes all connections.
pub(crate) struct Peers {
    runtime: Handle,
    cluster: u64,
    own: MemberId,
    tls: TlsSource,
    inbox: Sender<Input>,
    removed: Removals,
    outlets: BTreeMap<MemberId, Outlet>,
    server: Vec<JoinHandle<()>>,
}

/// Those who are to be told that they are members no more.
type Removals = Arc<Mutex<BTreeSet<MemberId>>>;

/// What is on its way to one member.
struct Outlet {
    urls: watch::Sender<Vec<String>>,
    queue: mpsc::Sender<Envelope>,
    bytes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Peers {
    /// Listens for other members, and is ready to send to them. In a tokio runtime.
    pub(crate) fn start(
        (cluster, own): (u64, MemberId),
        listener: std::net::TcpListener,
        tls: TlsSource,
        inbox: Sender<Input>,
    ) -> io::Result<Self> {
        let runtime = Handle::current();
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (opened, streams) = mpsc::channel(16);
        let accepting = runtime.spawn(accept(listener, tls.clone(), opened));
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        let removed = Removals::default();
        let inlet = Inlet { inbox: inbox.clone(), room, removed: removed.clone() };
        let service = PeerServer::new(inlet).max_decoding_message_size(MAX_MESSAGE);
        let serving = runtime.spawn(async move {
            let server = Server::builder().http2_keepalive_interval(Some(KEEP_ALIVE));
            let mut server = server.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
            let served = server.add_service(service).serve_with_incoming(ReceiverStream::new(streams)).await;
            if let Err(error) = served {
                tracing::error!(%error, "members are not listened to any more");
            }
        });
        let server = vec![accepting, serving];
        Ok(Self { runtime, cluster, own, tls, inbox, removed, outlets: BTreeMap::new(), server })
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.server.iter().for_each(JoinHandle::abort);
        self.outlets.values().for_each(|outlet| outlet.task.abort());
    }
}

impl Post for Peers {
    fn post(&mut self, envelope: Envelope) {
        let to = envelope.to;
        if let Some(Body::Removed(_)) = envelope.body {
            self.removed.lock().insert(to);
        }
        let Some(outlet) = self.outlets.get(&to) else {
            return tracing::debug!(to, "a message to a member of unknown address was dropped");
        };
        let bytes = envelope.encoded_len();
        if outlet.bytes.load(Ordering::Relaxed) + bytes > QUEUE_BYTES {
            return tracing::debug!(to, "a message was dropped: too much waits for that member");
        }
        match outlet.queue.try_send(envelope) {
            Ok(()) => drop(outlet.bytes.fetch_add(bytes, Ordering::Relaxed)),
            Err(_) => tracing::debug!(to, "a message was dropped: too many wait for that member"),
        }
    }

    fn addresses(&mut self, members: &[Member]) {
        self.outlets.retain(|id, outlet| {
            let stays = members.iter().any(|member| member.id == *id);
            if !stays {
                outlet.task.abort();
            }
            stays
        });
        for member in members.iter().filter(|member| member.id != self.own) {
            match self.outlets.get(&member.id) {
                Some(outlet) => drop(outlet.urls.send_if_modified(|urls| {
                    let changed = *urls != member.peer_urls;
                    urls.clone_from(&member.peer_urls);
                    changed
                })),
                None => drop(self.outlets.insert(member.id, self.outlet(member))),
            }
        }
    }
}

impl Peers {
    fn outlet(&self, member: &Member) -> Outlet {
        let (urls, addresses) = watch::channel(member.peer_urls.clone());
        let (queue, waiting) = mpsc::channel(QUEUE);
        let bytes = Arc::new(AtomicUsize::new(0));
        let gone =
            Envelope { cluster: self.cluster, from: member.id, to: self.own, body: Some(Body::Removed(Removed {})) };
        let sending = Sending {
            to: member.id,
            gone,
            tls: self.tls.clone(),
            inbox: self.inbox.clone(),
            urls: addresses,
            waiting,
            bytes: bytes.clone(),
        };
        Outlet { urls, queue, bytes, task: self.runtime.spawn(sending.run()) }
    }
}

/// The task that sends to one member.
struct Sending {
    to: MemberId,
    /// What it says if it answers that this member was removed.
    gone: Envelope,
    tls: TlsSource,
    inbox: Sender<Input>,
    urls: watch::Receiver<Vec<String>>,
    waiting: mpsc::Receiver<Envelope>,
    bytes: Arc<AtomicUsize>,
}

impl Sending {
    async fn run(mut self) {
        let mut backoff = *BACKOFF.start();
        loop {
            let urls = self.urls.borrow_and_update().clone();
            for url in &urls {
                match self.open(url).await {
                    Ok(channel) => {
                        backoff = *BACKOFF.start();
                        self.stream(channel).await;
                    }
                    Err(error) => tracing::debug!(to = self.to, url, %error, "a member cannot be reached"),
                }
                if self.inbox.send(Input::Unreachable(self.to)).is_err() {
                    return;
                }
            }
            // What waits is old by the time that there is a connection.
            while let Ok(envelope) = self.waiting.try_recv() {
                self.bytes.fetch_sub(envelope.encoded_len(), Ordering::Relaxed);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                changed = self.urls.changed() => if changed.is_err() { return },
            }
            backoff = (backoff * 2).min(*BACKOFF.end());
        }
    }

    async fn open(&self, url: &str) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
        let tls = (self.tls)()?;
        // What the connector opens is TLS already: the client is told a scheme for which it does not try that again.
        let address = url.strip_prefix("https://").ok_or("the URL does not begin with https://")?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(OPENING);
        let endpoint =
            endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true);
        let connector = tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            async move {
                let host = uri.host().ok_or_else(|| io::Error::other("the URL has no host"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port = uri.port_u16().ok_or_else(|| io::Error::other("the URL has no port"))?;
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(tls::connect(&tls, stream).await?))
            }
        });
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    /// Sends what waits until the stream breaks, or the member is elsewhere.
    async fn stream(&mut self, channel: Channel) {
        let (sender, receiver) = mpsc::channel(64);
        let mut client = PeerClient::new(channel).max_encoding_message_size(MAX_MESSAGE);
        let mut call = pin!(client.deliver(ReceiverStream::new(receiver)));
        loop {
            tokio::select! {
                ended = &mut call => {
                    if ended.as_ref().is_err_and(|status| status.code() == Code::FailedPrecondition)
                        && self.inbox.send(Input::Deliver(self.gone.clone(), None)).is_err()
                    {
                        tracing::debug!("the loop has ended before it was told that it was removed");
                    }
                    return tracing::debug!(to = self.to, error = ?ended.err(), "a stream to a member ended");
                }
                changed = self.urls.changed() => {
                    return tracing::debug!(to = self.to, gone = changed.is_err(), "a member is elsewhere");
                }
                envelope = self.waiting.recv() => {
                    let Some(envelope) = envelope else { return };
                    self.bytes.fetch_sub(envelope.encoded_len(), Ordering::Relaxed);
                    tokio::select! {
                        sent = sender.send(envelope) => if sent.is_err() { return },
                        _ = &mut call => return,
                    }
                }
            }
        }
    }
}

/// Takes connections, and hands on those of members.
async fn accept(listener: TcpListener, tls: TlsSource, opened: mpsc::Sender<io::Result<TlsStream<TcpStream>>>) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of a member could not be taken");
                tokio::time::sleep(*BACKOFF.start()).await;
                continue;
            }
        };
        let (tls, opened) = (tls.clone(), opened.clone());
        tokio::spawn(async move {
            let taken = async {
                // What is said of flow here must not wait either.
                stream.set_nodelay(true)?;
                tls::accept(&tls()?, stream).await
            };
            match tokio::time::timeout(OPENING, taken).await {
                // Nobody takes it when the server has ended.
                Ok(Ok(stream)) => drop(opened.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::warn!(%from, %error, "who is no member was refused"),
                Err(_) => tracing::debug!(%from, "a connection took too long to open"),
            }
        });
    }
}

/// What other members call.
struct Inlet {
    inbox: Sender<Input>,
    room: Arc<Semaphore>,
    removed: Removals,
}

#[tonic::async_trait]
impl Peer for Inlet {
    async fn deliver(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Delivered>, Status> {
        let mut stream = request.into_inner();
        while let Some(envelope) = stream.message().await? {
            if self.removed.lock().contains(&envelope.from) {
                return Err(Status::failed_precondition("this member was removed from the cluster"));
            }
            let bytes = u32::try_from(envelope.encoded_len()).unwrap_or(u32::MAX);
            let closed = || Status::unavailable("the store was closed");
            let room = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| closed())?;
            self.inbox.send(Input::Deliver(envelope, Some(room))).map_err(|_| closed())?;
        }
        Ok(Response::new(Delivered {}))
    }
}
