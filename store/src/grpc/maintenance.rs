//! The Maintenance service.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::pb::alarm_request::AlarmAction;
use super::pb::maintenance_server::Maintenance;
use super::pb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeRequest, DowngradeResponse,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse,
};
use super::{API_VERSION, Api, Replies, answered, fault, signed, unsigned};
use crate::image::ImageStream;

/// The service.
pub(super) struct Service(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Maintenance for Service {
    /// There are none, and none can be raised: the store refuses by itself what it cannot do.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        match self.0.admitted(request).await?.action() {
            AlarmAction::Get | AlarmAction::Deactivate => {
                Ok(Response::new(AlarmResponse { header: self.0.header_now().await?, alarms: Vec::new() }))
            }
            AlarmAction::Activate => Err(Status::unimplemented("etcdserver: alarms cannot be raised by hand")),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.0.admitted(request).await?;
        let status = answered(self.0.backend.status().await)?;
        let standing = self.0.members.standing();
        let errors = if standing.leader == 0 { vec![fault::no_leader().message().to_owned()] } else { Vec::new() };
        Ok(Response::new(StatusResponse {
            header: self.0.header(status.revision),
            version: API_VERSION.to_owned(),
            storage_version: API_VERSION.to_owned(),
            db_size: signed(status.disk_bytes),
            db_size_in_use: signed(status.live_bytes),
            leader: standing.leader,
            raft_index: standing.committed,
            raft_applied_index: standing.applied,
            raft_term: standing.term,
            is_learner: standing.learner,
            errors,
            ..StatusResponse::default()
        }))
    }

    /// What is forgotten leaves no holes. As in etcd the answer has no header.
    async fn defragment(&self, request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        self.0.admitted(request).await?;
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.0.admitted(request).await?;
        let hash = answered(self.0.backend.hash(0).await)?;
        Ok(Response::new(HashResponse { header: self.0.header(hash.newest), hash: hash.hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let HashKvRequest { revision } = self.0.admitted(request).await?;
        let hash = answered(self.0.backend.hash(unsigned(revision)).await)?;
        Ok(Response::new(HashKvResponse {
            header: self.0.header(hash.newest),
            hash: hash.hash,
            compact_revision: signed(hash.compacted),
            hash_revision: signed(hash.revision),
        }))
    }

    type SnapshotStream = Replies<SnapshotResponse>;

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.admitted(request).await?;
        let status = answered(self.0.backend.status().await)?;
        let image = answered(self.0.backend.image().await)?;
        let header = self.0.header(status.revision);
        let told = with_checksum(image, status.live_bytes).map(move |part| {
            let (blob, remaining_bytes) = part?;
            Ok(SnapshotResponse { header, remaining_bytes, blob, version: API_VERSION.to_owned() })
        });
        Ok(Response::new(self.0.until_closed(told)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = self.0.admitted(request).await?.target_id;
        let standing = self.0.members.standing();
        if standing.leader != standing.member {
            return Err(fault::not_leader());
        }
        let members = answered(self.0.members.members(false).await)?;
        if !members.iter().any(|member| member.id == target && !member.learner) {
            return Err(fault::bad_transferee());
        }
        if target != standing.leader {
            self.0.members.move_leader(target).await.map_err(fault::refused)?;
        }
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn downgrade(&self, request: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        self.0.admitted(request).await?;
        Err(Status::unimplemented("etcdserver: there is no version to downgrade to"))
    }
}

/// An image's parts, each with the bytes that are about to follow it, and behind them the SHA-256 of all. As in etcd 0 bytes
/// follow the last part, though the checksum does.
fn with_checksum(image: ImageStream, expected: u64) -> impl Stream<Item = Result<(Bytes, u64), Status>> {
    struct Progress {
        image: ImageStream,
        /// A part is held back until it is known whether it is the last.
        held: Option<Bytes>,
        sum: Sha256,
        sent: u64,
    }
    let start = Progress { image, held: None, sum: Sha256::new(), sent: 0 };
    stream::unfold(Some(start), move |progress| async move {
        let mut progress = progress?;
        loop {
            match progress.image.next().await {
                Some(Err(error)) => return Some((Err(fault::status(error)), None)),
                Some(Ok(part)) if part.is_empty() => {}
                Some(Ok(part)) => {
                    progress.sum.update(&part);
                    let Some(ready) = progress.held.replace(part) else { continue };
                    progress.sent += ready.len() as u64;
                    let left = expected.saturating_sub(progress.sent).max(1);
                    return Some((Ok((ready, left)), Some(progress)));
                }
                None => {
                    return match progress.held.take() {
                        Some(last) => Some((Ok((last, 0)), Some(progress))),
                        None => Some((Ok((Bytes::copy_from_slice(&progress.sum.finalize()), 0)), None)),
                    };
                }
            }
        }
    })
}
