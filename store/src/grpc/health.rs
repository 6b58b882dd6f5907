//! gRPC's health: this member serves while it has a leader.

use futures::stream;
use tonic::{Request, Response, Status};

use super::proto::health::health_check_response::ServingStatus;
use super::proto::health::health_server::Health;
use super::proto::health::{HealthCheckRequest, HealthCheckResponse};
use super::{Api, Replies};

#[tonic::async_trait]
impl Health for Api {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let serves = self.members.standing().leader != 0;
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Replies<HealthCheckResponse>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // The protocol allows it: who gets this asks again by itself.
        Ok(Response::new(Box::pin(stream::iter([Err(Status::unimplemented("health is told when asked for"))]))))
    }
}
