//! The Lease service.

use std::sync::Arc;

use futures::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::auth::Caller;
use super::pb::lease_server::Lease;
use super::pb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use super::{Api, Replies, answered, fault};
use crate::backend::{Error, MAX_LEASE_SECONDS};

/// A shorter lease is made this long, seconds: it must outlive the choice of a new leader. etcd's, with its default timeouts.
const MIN_LEASE_SECONDS: i64 = 2;

/// The service.
pub(super) struct Service(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = self.0.admitted(request).await?;
        if ttl > MAX_LEASE_SECONDS {
            return Err(fault::lease_too_long());
        }
        let ttl = ttl.max(MIN_LEASE_SECONDS);
        let id = answered(self.0.backend.grant_as(id, ttl).await)?;
        Ok(Response::new(LeaseGrantResponse { header: self.0.header_now().await?, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let LeaseRevokeRequest { id } = self.0.admitted(request).await?;
        answered(self.0.backend.revoke(id).await)?;
        Ok(Response::new(LeaseRevokeResponse { header: self.0.header_now().await? }))
    }

    type LeaseKeepAliveStream = Replies<LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (api, caller) = (self.0.clone(), Caller::of(&request));
        let replies = request.into_inner().then(move |request| {
            let (api, caller) = (api.clone(), caller.clone());
            async move {
                let request = request?;
                api.admit(&caller, &request).await?;
                api.keep_alive(request.id).await
            }
        });
        Ok(Response::new(self.0.until_closed(replies)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = self.0.admitted(request).await?;
        let lease = match self.0.backend.lease(id).await {
            Err(Error::LeaseNotFound(_)) => None,
            found => Some(answered(found)?),
        };
        let header = self.0.header_now().await?;
        let gone = LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        Ok(Response::new(match lease {
            None => gone,
            Some(lease) => LeaseTimeToLiveResponse {
                ttl: lease.remaining_seconds,
                granted_ttl: lease.granted_seconds,
                keys: if keys { lease.keys } else { Vec::new() },
                ..gone
            },
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.0.admitted(request).await?;
        let leases = answered(self.0.backend.leases().await)?;
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.0.header_now().await?, leases }))
    }
}

impl Api {
    /// The header tells a revision from before, as etcd's does; a lease that is gone has no seconds.
    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let header = self.header_now().await?;
        let ttl = match self.backend.keep_alive(id).await {
            Err(Error::LeaseNotFound(_)) => 0,
            kept => answered(kept)?,
        };
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}
