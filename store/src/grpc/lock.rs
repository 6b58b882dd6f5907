//! The Lock service.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::proto::v3lockpb::lock_server::Lock;
use super::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use super::{Api, answered, turns};
use crate::kv::{Op, Txn};

/// How long a lock without a lease is held at most, seconds. etcd's.
const LEASE_SECONDS: i64 = 60;

/// The service.
pub(super) struct Service(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Lock for Service {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = self.0.admitted(request).await?;
        let lease = if lease == 0 { answered(self.0.backend.grant(LEASE_SECONDS).await)? } else { lease };
        let place = self.0.take_place(&name, lease, Bytes::new()).await?;
        let place = self.0.wait_for_turn(&name, place).await?;
        Ok(Response::new(LockResponse { header: self.0.header_now().await?, key: place.key.clone() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        let UnlockRequest { key } = self.0.admitted(request).await?;
        let delete = Op::Delete { start: turns::named(key)?, end: Bytes::new() };
        let reply = answered(self.0.backend.txn(Txn { success: vec![delete], ..Txn::default() }).await)?;
        Ok(Response::new(UnlockResponse { header: self.0.header(reply.revision) }))
    }
}
