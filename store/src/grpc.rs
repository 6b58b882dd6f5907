//! etcd's v3 gRPC API, served from a backend: KV, Watch, Lease, Cluster, Maintenance, Auth, Lock, Election, and gRPC's
//! health.
//!
//! A client of etcd 3.4 to 3.6 finds what it knows: the same requests, defaults, error codes and messages (which clients match
//! byte by byte). What is here only translates; what a request does is the backend's contract.
//!
//! # Caveats
//! * A key is at most [`crate::backend::MAX_KEY`] bytes. etcd has no limit.
//! * A transaction that could write a key twice is refused, also where etcd overlooks it (a put and a delete in two inner
//!   transactions, a delete of everything from a key on).
//! * `Snapshot` streams an [`crate::image`], not a bolt database. `Defragment` has nothing to do. Alarms are never raised.
//! * Nobody is let in without a client certificate. While authentication is not enabled whoever has one may do everything;
//!   where it is enabled, other members begin to ask for it as soon as they have applied that.
//! * A change of users or roles takes a revision, as a write does. In etcd it takes none.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tonic::service::InterceptorLayer;
use tonic::{Request, Status};

use crate::backend::{Backend, Error, MAX_TXN_BYTES};
use crate::kv::Revision;
use crate::members::Membership;

mod auth;
mod cluster;
mod cork;
mod door;
mod election;
mod fault;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod proto;
mod range;
mod tls;
mod turns;
mod txn;
mod watch;

pub use tls::Tls;

use proto::etcdserverpb as pb;

/// The version of etcd whose API this is. Clients decide by it what they may ask for.
pub const API_VERSION: &str = "3.6.0";

/// Largest request that is read, bytes. One of more than [`MAX_TXN_BYTES`] is refused with etcd's words if it gets this far.
const MAX_REQUEST_BYTES: usize = 2 * MAX_TXN_BYTES;

/// Most calls and streams open on one connection at once. etcd's default has no limit.
const MAX_STREAMS: u32 = 10_000;

/// What a connection may send ahead before it is read, bytes; and each of its streams.
const WINDOW_BYTES: (u32, u32) = (4 << 20, 1 << 20);

/// How often a silent connection is asked whether it is alive, and how long it may take to say so. etcd's defaults.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(2 * 60 * 60), Duration::from_secs(20));

/// How long calls may go on after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connections failed as a whole.
    #[error("cannot serve etcd's API")]
    Transport(#[from] tonic::transport::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS for etcd's API")]
    Tls(#[from] tls::SetUpError),
    /// There is no thread to serve on.
    #[error("cannot open a door for clients of etcd's API")]
    Door(#[source] std::io::Error),
}

/// etcd's v3 API of one member.
#[derive(Clone)]
pub struct Server {
    backend: Arc<dyn Backend>,
    members: Arc<dyn Membership>,
    watch_progress: Duration,
    token_ttl: Duration,
}

impl Server {
    /// An API of this store and these members.
    pub fn new(backend: Arc<dyn Backend>, members: Arc<dyn Membership>) -> Self {
        Self { backend, members, watch_progress: watch::PROGRESS_EVERY, token_ttl: auth::TOKEN_TTL }
    }

    /// Tells watches that want to know how far they are so often, instead of every ten minutes.
    #[must_use]
    pub fn with_watch_progress(mut self, every: Duration) -> Self {
        self.watch_progress = every;
        self
    }

    /// Forgets users that have shown their token for so long no more, instead of after five minutes.
    #[must_use]
    pub fn with_token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = ttl;
        self
    }

    /// Serves it over TLS until the shutdown, then ends watches and keep-alives at once, and other calls when they are done or
    /// after five seconds.
    ///
    /// # Errors
    /// [`ServeError`] when nobody can be served.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Tls,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let api = Arc::new(Api::new(self.backend, self.members, self.token_ttl));
        let closing = Closing(api.clone());
        tokio::spawn(api.clone().attend_gate());
        let listener = listener.into_std().map_err(ServeError::Door)?;
        let mut doors = FuturesUnordered::new();
        for _ in 0..door::count() {
            let (api, tls, watch_progress) = (api.clone(), tls.clone(), self.watch_progress);
            let ended = door::open(&listener, move |listener| attend(api, listener, tls, watch_progress))?;
            doors.push(door::end(ended));
        }
        tokio::select! {
            Some(ended) = doors.next() => return ended,
            () = shutdown => drop(closing),
        }
        while let Some(ended) = doors.next().await {
            ended?;
        }
        Ok(())
    }
}

/// Serves those who come through one door.
async fn attend(api: Arc<Api>, listener: TcpListener, tls: Tls, watch_progress: Duration) -> Result<(), ServeError> {
    let connections = tls::accept(listener, &tls, api.closing.subscribe())?;
    let serving = tonic::transport::Server::builder()
        .initial_connection_window_size(WINDOW_BYTES.0)
        .initial_stream_window_size(WINDOW_BYTES.1)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .accept_http1(true)
        .layer(InterceptorLayer::new(Guard(api.clone())))
        .layer(metrics::Counting(api.clone()))
        .add_service(pb::kv_server::KvServer::from_arc(api.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(pb::watch_server::WatchServer::new(watch::Service::new(api.clone(), watch_progress)))
        .add_service(pb::lease_server::LeaseServer::new(lease::Service(api.clone())))
        .add_service(pb::cluster_server::ClusterServer::from_arc(api.clone()))
        .add_service(pb::maintenance_server::MaintenanceServer::new(maintenance::Service(api.clone())))
        .add_service(pb::auth_server::AuthServer::from_arc(api.clone()))
        .add_service(proto::v3lockpb::lock_server::LockServer::new(lock::Service(api.clone())))
        .add_service(proto::v3electionpb::election_server::ElectionServer::new(election::Service(api.clone())))
        .add_service(proto::health::health_server::HealthServer::from_arc(api.clone()))
        .serve_with_incoming_shutdown(connections, closed(api.closing.subscribe()));
    let late = async {
        closed(api.closing.subscribe()).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving => Ok(ended?),
        () = late => {
            tracing::warn!("calls of etcd's API were cut off at the shutdown");
            Ok(())
        }
    }
}

/// Ends all streams when it goes, however serving ends.
struct Closing(Arc<Api>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closing.send_replace(true);
    }
}

/// What all services share; each is implemented for it in a file of its own.
struct Api {
    backend: Arc<dyn Backend>,
    members: Arc<dyn Membership>,
    gate: auth::Gate,
    passwords: auth::Passwords,
    calls: metrics::Calls,
    /// Set when streams must end.
    closing: tokio::sync::watch::Sender<bool>,
}

/// What a call that streams answers.
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    fn new(backend: Arc<dyn Backend>, members: Arc<dyn Membership>, token_ttl: Duration) -> Self {
        let (gate, passwords) = (auth::Gate::new(token_ttl), auth::Passwords::default());
        let (closing, _) = tokio::sync::watch::channel(false);
        Self { backend, members, gate, passwords, calls: metrics::Calls::default(), closing }
    }

    /// The header of an answer as of a revision.
    fn header(&self, revision: Revision) -> Option<pb::ResponseHeader> {
        let standing = self.members.standing();
        Some(pb::ResponseHeader {
            cluster_id: standing.cluster,
            member_id: standing.member,
            revision: signed(revision),
            raft_term: standing.term,
        })
    }

    /// The header of an answer that has no revision of its own.
    async fn header_now(&self) -> Result<Option<pb::ResponseHeader>, Status> {
        let status = self.backend.status().await.map_err(fault::status)?;
        Ok(self.header(status.revision))
    }

    /// A stream of answers that ends with the server.
    fn until_closed<T: 'static>(&self, replies: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Replies<T> {
        Box::pin(replies.take_until(closed(self.closing.subscribe())))
    }
}

/// Waits until streams must end; or whoever would say so is gone.
async fn closed(mut closing: tokio::sync::watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        tracing::debug!("the server of etcd's API was dropped");
    }
}

/// Refuses what is asked of a leader while there is none.
#[derive(Clone)]
struct Guard(Arc<Api>);

impl tonic::service::Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let asked = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        if asked && self.0.members.standing().leader == 0 { Err(fault::no_leader()) } else { Ok(request) }
    }
}

/// etcd's numbers are signed; ours never reach the sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of etcd's where less than 0 means none.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Errors of the backend, as a call answers them.
fn answered<T>(result: Result<T, Error>) -> Result<T, Status> {
    result.map_err(fault::status)
}
