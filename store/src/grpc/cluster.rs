//! The Cluster service.

use tonic::{Request, Response, Status};

use super::pb::cluster_server::Cluster;
use super::pb::{
    self, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use super::{Api, answered, fault};
use crate::members::{Member, MemberId};

/// A member in etcd's words.
fn told(member: Member) -> pb::Member {
    let Member { id, name, peer_urls, client_urls, learner } = member;
    pb::Member { id, name, peer_urls, client_urls, is_learner: learner }
}

/// Refuses what is no list of URLs of peers.
fn check_urls(urls: &[String]) -> Result<(), Status> {
    let is_url = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        rest.and_then(|rest| rest.rsplit_once(':'))
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok())
    };
    if urls.is_empty() || !urls.iter().all(is_url) { Err(fault::bad_member_urls()) } else { Ok(()) }
}

impl Api {
    async fn members(&self, linearizable: bool) -> Result<Vec<Member>, Status> {
        answered(self.members.members(linearizable).await)
    }

    async fn told_members(&self) -> Result<Vec<pb::Member>, Status> {
        Ok(self.members(false).await?.into_iter().map(told).collect())
    }

    async fn member(&self, id: MemberId) -> Result<Member, Status> {
        self.members(true).await?.into_iter().find(|member| member.id == id).ok_or_else(fault::member_not_found)
    }

    /// Refuses a URL that a member other than `id` has.
    async fn check_free(&self, id: MemberId, urls: &[String]) -> Result<(), Status> {
        let others = self.members(true).await?;
        let mut taken = others.iter().filter(|member| member.id != id).flat_map(|member| &member.peer_urls);
        if taken.any(|url| urls.contains(url)) { Err(fault::peer_url_exists()) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let MemberAddRequest { peer_urls, is_learner } = self.admitted(request).await?;
        check_urls(&peer_urls)?;
        self.check_free(0, &peer_urls).await?;
        let member = self.members.add_member(peer_urls, is_learner).await.map_err(fault::refused)?;
        let (header, members) = (self.header_now().await?, self.told_members().await?);
        Ok(Response::new(MemberAddResponse { header, member: Some(told(member)), members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let MemberRemoveRequest { id } = self.admitted(request).await?;
        let id = self.member(id).await?.id;
        self.members.remove_member(id).await.map_err(fault::refused)?;
        let (header, members) = (self.header_now().await?, self.told_members().await?);
        Ok(Response::new(MemberRemoveResponse { header, members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_urls } = self.admitted(request).await?;
        check_urls(&peer_urls)?;
        let id = self.member(id).await?.id;
        self.check_free(id, &peer_urls).await?;
        self.members.update_member(id, peer_urls).await.map_err(fault::refused)?;
        let (header, members) = (self.header_now().await?, self.told_members().await?);
        Ok(Response::new(MemberUpdateResponse { header, members }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let MemberListRequest { linearizable } = self.admitted(request).await?;
        let members = self.members(linearizable).await?.into_iter().map(told).collect();
        Ok(Response::new(MemberListResponse { header: self.header_now().await?, members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let MemberPromoteRequest { id } = self.admitted(request).await?;
        let member = self.member(id).await?;
        if !member.learner {
            return Err(fault::member_not_learner());
        }
        self.members.promote_member(member.id).await.map_err(fault::refused)?;
        let (header, members) = (self.header_now().await?, self.told_members().await?);
        Ok(Response::new(MemberPromoteResponse { header, members }))
    }
}
