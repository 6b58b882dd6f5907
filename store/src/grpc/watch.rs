//! The Watch service: any number of watches on one stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::pb::watch_server::Watch;
use super::pb::{WatchRequest, WatchResponse};

mod session;
mod slices;

/// How often a watch that wants to know hears how far it is when nothing else is to be said. etcd's default.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(600);

/// Answers made ahead of a client that reads slowly. Beyond it events wait in the store, within its own limit.
const AHEAD: usize = 16;

/// The service.
pub(super) struct Service {
    api: Arc<Api>,
    progress_every: Duration,
}

impl Service {
    pub(super) fn new(api: Arc<Api>, progress_every: Duration) -> Self {
        Self { api, progress_every }
    }
}

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        let (replies, stream) = mpsc::channel(AHEAD);
        let session = session::Session::new(self.api.clone(), replies, needs_leader);
        tokio::spawn(session.run(request.into_inner(), self.progress_every));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
