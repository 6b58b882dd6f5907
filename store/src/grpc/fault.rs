//! Errors as etcd says them. Clients tell them apart by code and exact words.
//! Source: `api/v3rpc/rpctypes/error.go` in etcd.

use tonic::{Code, Status};

use crate::backend::Error;
use crate::mvcc::limits::WRITTEN_TWICE;

/// Each error that has a name in etcd.
macro_rules! named {
    ($($name:ident $code:ident $text:literal)*) => {
        $(pub(super) fn $name() -> Status { Status::new(Code::$code, concat!("etcdserver: ", $text)) })*
    };
}

named! {
    empty_key InvalidArgument "key is not provided"
    key_not_found InvalidArgument "key not found"
    value_provided InvalidArgument "value is provided"
    lease_provided InvalidArgument "lease is provided"
    too_many_ops InvalidArgument "too many operations in txn request"
    duplicate_key InvalidArgument "duplicate key given in txn request"
    invalid_sort InvalidArgument "invalid sort option"
    request_too_large InvalidArgument "request is too large"
    compacted OutOfRange "mvcc: required revision has been compacted"
    future OutOfRange "mvcc: required revision is a future revision"
    lease_not_found NotFound "requested lease not found"
    lease_exists FailedPrecondition "lease already exists"
    lease_too_long OutOfRange "too large lease TTL"
    member_not_found NotFound "member not found"
    member_not_learner FailedPrecondition "can only promote a learner member"
    bad_member_urls InvalidArgument "given member URLs are invalid"
    peer_url_exists FailedPrecondition "Peer URLs already exists"
    not_leader FailedPrecondition "not leader"
    bad_transferee FailedPrecondition "bad leader transferee"
    no_leader Unavailable "no leader"
    timed_out Unavailable "request timed out"
    stopped Unavailable "server stopped"
    auth_not_enabled FailedPrecondition "authentication is not enabled"
    root_user_not_found FailedPrecondition "root user does not exist"
    root_role_not_found FailedPrecondition "root user does not have root role"
    user_exists FailedPrecondition "user name already exists"
    user_empty InvalidArgument "user name is empty"
    user_not_found FailedPrecondition "user name not found"
    role_exists FailedPrecondition "role name already exists"
    role_not_found FailedPrecondition "role name not found"
    role_empty InvalidArgument "role name is empty"
    auth_failed InvalidArgument "authentication failed, invalid user ID or password"
    permission_not_given InvalidArgument "permission not given"
    permission_denied PermissionDenied "permission denied"
    role_not_granted FailedPrecondition "role is not granted to the user"
    permission_not_granted FailedPrecondition "permission is not granted to the role"
    invalid_auth_token Unauthenticated "invalid auth token"
    invalid_auth_management InvalidArgument "invalid auth management"
    password_too_long InvalidArgument "password is longer than 72 bytes"
    too_many_requests ResourceExhausted "too many requests"
}

/// A backend's error.
#[expect(clippy::needless_pass_by_value, reason = "errors are mapped, and handed over for it")]
pub(super) fn status(error: Error) -> Status {
    match error {
        Error::Compacted { .. } => compacted(),
        Error::Future { .. } => future(),
        Error::LeaseNotFound(_) => lease_not_found(),
        Error::LeaseExists(_) => lease_exists(),
        Error::KeyNotFound => key_not_found(),
        Error::TooLarge { .. } => request_too_large(),
        Error::Invalid { why: WRITTEN_TWICE } => duplicate_key(),
        Error::Invalid { why } => Status::invalid_argument(format!("etcdserver: {why}")),
        Error::Uncertain { .. } => {
            // A client that reads these words knows that it may have been done.
            tracing::warn!(%error, "the outcome of a request over etcd's API is not known");
            timed_out()
        }
        Error::Unavailable { .. } | Error::Slow { .. } => Status::unavailable(format!("etcdserver: {error}")),
        Error::Disk { .. } => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            Status::internal(format!("etcdserver: {error}{cause}"))
        }
        Error::Corrupt { .. } => Status::data_loss(format!("etcdserver: {error}")),
    }
}

/// The reason that a watch is cancelled with: as Go prints an error of a call.
pub(super) fn as_reason(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// etcd has no code for it, nor words of its server's.
pub(super) fn no_password_user() -> Status {
    Status::unknown("auth: authentication failed, password was given for no password user")
}

/// A refusal by the members, where etcd's words are not known.
pub(super) fn refused(error: Error) -> Status {
    match error {
        Error::Invalid { why } => Status::failed_precondition(format!("etcdserver: {why}")),
        other => status(other),
    }
}
