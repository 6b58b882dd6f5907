//! The KV service.

use tonic::{Request, Response, Status};

use super::pb::kv_server::Kv;
use super::pb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use super::{Api, Replies, answered, range, txn, unsigned};
use crate::kv::{Op, OpResult, Txn, TxnReply};

impl Api {
    /// Does one step.
    async fn step(&self, op: Op) -> Result<TxnReply, Status> {
        answered(self.backend.txn(Txn { success: vec![op], ..Txn::default() }).await)
    }
}

#[tonic::async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = self.admitted(request).await?;
        range::check(&request)?;
        let reply = answered(self.backend.range(range::asked(&request)).await)?;
        let header = self.header(reply.revision);
        Ok(Response::new(range::answer(&request, reply, header)))
    }

    type RangeStreamStream = Replies<RangeStreamResponse>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("etcdserver: RangeStream is of a later version of etcd's API"))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = self.admitted(request).await?;
        let wants_prev = request.prev_kv;
        let reply = self.step(txn::put(request)?).await?;
        let header = self.header(reply.revision);
        match reply.results.into_iter().next() {
            Some(OpResult::Put(prev)) => Ok(Response::new(txn::put_answer(wants_prev, prev, header))),
            other => unreachable!("a backend answered a put with {other:?}"),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = self.admitted(request).await?;
        let wants_prev = request.prev_kv;
        let reply = self.step(txn::delete(request)?).await?;
        let header = self.header(reply.revision);
        match reply.results.into_iter().next() {
            Some(OpResult::Delete(removed)) => Ok(Response::new(txn::delete_answer(wants_prev, removed, header))),
            other => unreachable!("a backend answered a delete with {other:?}"),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = self.admitted(request).await?;
        let reply = answered(self.backend.txn(txn::asked(&request)?).await)?;
        let header = self.header(reply.revision);
        Ok(Response::new(txn::answer(&request, reply, header)))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        // Whether it is to be physical makes no difference: it always is when it is answered.
        let CompactionRequest { revision, .. } = self.admitted(request).await?;
        answered(self.backend.compact(unsigned(revision)).await)?;
        Ok(Response::new(CompactionResponse { header: self.header_now().await? }))
    }
}
