//! What the build made of `proto/`: messages and service stubs, with keys and values as `Bytes`.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

pub mod authpb {
    tonic::include_proto!("authpb");
}

/// What is kept of users and roles.
pub mod userspb {
    tonic::include_proto!("userspb");
}

pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
