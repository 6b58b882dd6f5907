//! The Election service.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::proto::v3electionpb::election_server::Election;
use super::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use super::{Api, Replies, answered, fault, range, signed, turns, unsigned};
use crate::backend::WatchStream;
use crate::kv::{Entry, Revision, WatchFrom};

/// The service.
pub(super) struct Service(pub(super) Arc<Api>);

fn no_leader() -> Status {
    Status::unknown("election: no leader")
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn named(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    let leader = leader.ok_or_else(|| Status::invalid_argument("\"leader\" field must be provided"))?;
    Ok(LeaderKey { key: turns::named(leader.key)?, ..leader })
}

#[tonic::async_trait]
impl Election for Service {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = self.0.admitted(request).await?;
        if lease == 0 {
            return Err(fault::lease_not_found());
        }
        let place = self.0.take_place(&name, lease, value).await?;
        let place = self.0.wait_for_turn(&name, place).await?;
        let leader = LeaderKey { name, key: place.key.clone(), rev: signed(place.revision), lease };
        Ok(Response::new(CampaignResponse { header: self.0.header_now().await?, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = self.0.admitted(request).await?;
        let leader = named(leader)?;
        let changed = self.0.change(leader.key, unsigned(leader.rev), value).await?;
        let revision = changed.ok_or_else(not_leader)?;
        Ok(Response::new(ProclaimResponse { header: self.0.header(revision) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let LeaderRequest { name } = self.0.admitted(request).await?;
        let reply = answered(self.0.backend.range(turns::under(&name)).await)?;
        let leader = turns::first(reply.entries).ok_or_else(no_leader)?;
        Ok(Response::new(LeaderResponse { header: self.0.header(reply.revision), kv: Some(range::pair(leader)) }))
    }

    type ObserveStream = Replies<LeaderResponse>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let LeaderRequest { name } = self.0.admitted(request).await?;
        let observer = Observer { api: self.0.clone(), name, told: 0, watch: None };
        let leaders = stream::try_unfold(observer, |mut observer| async move {
            let leader = observer.next().await?;
            Ok(leader.map(|leader| (leader, observer)))
        });
        Ok(Response::new(self.0.until_closed(leaders)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = named(self.0.admitted(request).await?.leader)?;
        let revision = self.0.leave(leader.key, unsigned(leader.rev)).await?;
        Ok(Response::new(ResignResponse { header: self.0.header(revision) }))
    }
}

/// Follows who leads, and what the leader says.
struct Observer {
    api: Arc<Api>,
    name: Bytes,
    /// The revision of what was told last.
    told: Revision,
    watch: Option<WatchStream>,
}

impl Observer {
    /// What is new; none at the end. Whenever anything changes it looks again: what was said and unsaid meanwhile is skipped.
    async fn next(&mut self) -> Result<Option<LeaderResponse>, Status> {
        loop {
            let range = turns::under(&self.name);
            let (start, end) = (range.start.clone(), range.end.clone());
            let reply = answered(self.api.backend.range(range).await)?;
            let revision = reply.revision;
            match turns::first(reply.entries) {
                Some(Entry { mod_revision, .. }) if mod_revision == self.told => {}
                Some(leader) => {
                    self.told = leader.mod_revision;
                    let header = self.api.header(revision);
                    return Ok(Some(LeaderResponse { header, kv: Some(range::pair(leader)) }));
                }
                None => {}
            }
            if self.watch.is_none() {
                let from = WatchFrom::Revision(revision + 1);
                self.watch = Some(answered(self.api.backend.watch(start, end, from).await)?);
            }
            let Some(watch) = &mut self.watch else { return Ok(None) };
            loop {
                let Some(batch) = watch.next().await else { return Ok(None) };
                if !answered(batch)?.events.is_empty() {
                    break;
                }
            }
        }
    }
}
