//! The Watch service: any number of watches on one stream.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};

use super::auth::Caller;
use super::pb::watch_server::Watch;
use super::pb::{WatchRequest, WatchResponse};
use super::{Api, Replies};

mod session;
mod slices;

/// How often a watch that wants to know hears how far it is when nothing else is to be said. etcd's default.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(600);

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
    type WatchStream = Replies<WatchResponse>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        let caller = Caller::of(&request);
        let (api, progress_every) = (self.api.clone(), self.progress_every);
        let session = session::Session::new(api, request.into_inner(), progress_every, caller, needs_leader);
        Ok(Response::new(session.replies()))
    }
}
