//! What a request takes: one entry for each kind of request, a table in the shape of `impl`s. The rules are those of etcd's
//! `server/etcdserver/apply/auth.go` and `server/etcdserver/v3_server.go`.
//!
//! A request that is refused for what it says needs nothing: it is told that.

use bytes::Bytes;

use crate::grpc::pb::alarm_request::AlarmAction;
use crate::grpc::pb::{self, RequestOp, request_op};
use crate::grpc::proto::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use crate::grpc::proto::v3lockpb::{LockRequest, UnlockRequest};
use crate::grpc::turns;
use crate::kv::LeaseId;

/// One thing that whoever asks must be, or may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Known, as whoever.
    Known,
    /// A root.
    Root,
    /// This user, or a root.
    User(String),
    /// One who has this role, or a root.
    Holder(String),
    /// Read `key..end`, as in a range.
    Read(Bytes, Bytes),
    /// Write it.
    Write(Bytes, Bytes),
    /// Read all keys of this lease; one that does not exist has none.
    ReadLease(LeaseId),
    /// Read all keys of all leases.
    ReadLeases,
    /// Write all keys of this lease.
    WriteLease(LeaseId),
}

/// A request, and what it takes.
pub(crate) trait Needs {
    /// All of it.
    fn needs(&self) -> Vec<Need>;

    /// It may be answered out of what this member knows, and so may whether it is allowed.
    fn serializable(&self) -> bool {
        false
    }
}

/// Requests that take the same, whatever they say.
macro_rules! always {
    ($($request:ident)* => $need:expr) => {
        $(impl Needs for pb::$request {
            fn needs(&self) -> Vec<Need> {
                $need.into_iter().collect()
            }
        })*
    };
}

always! { AuthStatusRequest AuthenticateRequest MemberListRequest => None }
always! { LeaseGrantRequest StatusRequest => Some(Need::Known) }
always! {
    CompactionRequest MemberAddRequest MemberRemoveRequest MemberUpdateRequest MemberPromoteRequest DefragmentRequest
    HashRequest HashKvRequest SnapshotRequest MoveLeaderRequest DowngradeRequest AuthEnableRequest AuthDisableRequest
    AuthUserAddRequest AuthUserListRequest AuthUserDeleteRequest AuthUserChangePasswordRequest AuthUserGrantRoleRequest
    AuthUserRevokeRoleRequest AuthRoleAddRequest AuthRoleListRequest AuthRoleDeleteRequest AuthRoleGrantPermissionRequest
    AuthRoleRevokePermissionRequest => Some(Need::Root)
}

impl Needs for pb::AuthUserGetRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::User(self.name.clone())]
    }
}

impl Needs for pb::AuthRoleGetRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Holder(self.role.clone())]
    }
}

impl Needs for pb::AlarmRequest {
    fn needs(&self) -> Vec<Need> {
        vec![if self.action() == AlarmAction::Get { Need::Known } else { Need::Root }]
    }
}

impl Needs for pb::RangeRequest {
    fn needs(&self) -> Vec<Need> {
        if self.key.is_empty() { Vec::new() } else { vec![Need::Read(self.key.clone(), self.range_end.clone())] }
    }

    fn serializable(&self) -> bool {
        self.serializable
    }
}

impl Needs for pb::PutRequest {
    fn needs(&self) -> Vec<Need> {
        if self.key.is_empty() {
            return Vec::new();
        }
        let mut needs = vec![Need::Write(self.key.clone(), Bytes::new())];
        // Whoever cannot revoke a lease must not tie a key of another's to it.
        needs.extend((self.lease != 0).then_some(Need::WriteLease(self.lease)));
        needs.extend(self.prev_kv.then(|| Need::Read(self.key.clone(), Bytes::new())));
        needs
    }
}

impl Needs for pb::DeleteRangeRequest {
    fn needs(&self) -> Vec<Need> {
        if self.key.is_empty() {
            return Vec::new();
        }
        let range = || (self.key.clone(), self.range_end.clone());
        let (key, end) = range();
        let mut needs = vec![Need::Write(key, end)];
        needs.extend(self.prev_kv.then(range).map(|(key, end)| Need::Read(key, end)));
        needs
    }
}

impl Needs for pb::TxnRequest {
    /// Of both branches: which is taken tells something, too.
    fn needs(&self) -> Vec<Need> {
        let compared = self.compare.iter().filter(|compare| !compare.key.is_empty());
        let read = compared.map(|compare| Need::Read(compare.key.clone(), compare.range_end.clone()));
        read.chain(self.success.iter().chain(&self.failure).flat_map(Needs::needs)).collect()
    }
}

impl Needs for RequestOp {
    fn needs(&self) -> Vec<Need> {
        match &self.request {
            Some(request_op::Request::RequestRange(request)) => request.needs(),
            Some(request_op::Request::RequestPut(request)) => request.needs(),
            Some(request_op::Request::RequestDeleteRange(request)) => request.needs(),
            Some(request_op::Request::RequestTxn(request)) => request.needs(),
            None => Vec::new(),
        }
    }
}

impl Needs for pb::WatchCreateRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Read(self.key.clone(), self.range_end.clone())]
    }
}

impl Needs for pb::LeaseRevokeRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Known, Need::WriteLease(self.id)]
    }
}

impl Needs for pb::LeaseKeepAliveRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Known, Need::WriteLease(self.id)]
    }
}

impl Needs for pb::LeaseTimeToLiveRequest {
    fn needs(&self) -> Vec<Need> {
        if self.keys { vec![Need::Known, Need::ReadLease(self.id)] } else { vec![Need::Known] }
    }
}

impl Needs for pb::LeaseLeasesRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Known, Need::ReadLeases]
    }
}

/// To take a place under a name with a lease; one that is still to be granted may have any name.
fn place(name: &[u8], lease: LeaseId) -> Vec<Need> {
    let all = turns::under(name);
    let write = match lease {
        0 => Need::Write(all.start.clone(), all.end.clone()),
        lease => Need::Write(turns::key(name, lease), Bytes::new()),
    };
    let mut needs = vec![Need::Read(all.start, all.end), write];
    needs.extend((lease != 0).then_some(Need::WriteLease(lease)));
    needs
}

/// To change or leave a place.
fn own(key: &Bytes) -> Vec<Need> {
    vec![Need::Read(key.clone(), Bytes::new()), Need::Write(key.clone(), Bytes::new())]
}

impl Needs for LockRequest {
    fn needs(&self) -> Vec<Need> {
        place(&self.name, self.lease)
    }
}

impl Needs for UnlockRequest {
    fn needs(&self) -> Vec<Need> {
        vec![Need::Write(self.key.clone(), Bytes::new())]
    }
}

impl Needs for CampaignRequest {
    fn needs(&self) -> Vec<Need> {
        place(&self.name, self.lease)
    }
}

impl Needs for ProclaimRequest {
    fn needs(&self) -> Vec<Need> {
        self.leader.as_ref().map_or(Vec::new(), |leader| own(&leader.key))
    }
}

impl Needs for LeaderRequest {
    fn needs(&self) -> Vec<Need> {
        let all = turns::under(&self.name);
        vec![Need::Read(all.start, all.end)]
    }
}

impl Needs for ResignRequest {
    fn needs(&self) -> Vec<Need> {
        self.leader.as_ref().map_or(Vec::new(), |leader| own(&leader.key))
    }
}
