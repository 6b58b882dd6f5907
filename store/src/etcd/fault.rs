//! What etcd's errors mean for a caller: was it written, and is it worth another try.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Error, MAX_TXN_OPS, MAX_VALUE};
use crate::mvcc::limits::WRITTEN_TWICE;

use super::PATIENCE;

/// Between two tries to reach a member.
const AGAIN: Duration = Duration::from_millis(100);

/// What to do about each alarm of etcd's.
const NO_SPACE: &str = "etcd has raised its NOSPACE alarm and takes no writes: its database has reached --quota-backend-bytes. \
    Compact it, defragment every member (etcdctl defrag) or start them with a larger quota, and then clear the alarm \
    (etcdctl alarm disarm)";
const CORRUPT: &str = "etcd has raised its CORRUPT alarm and takes no requests: its members do not hold the same. Replace the \
    member that differs (etcdctl alarm list names it), and then clear the alarm (etcdctl alarm disarm)";

/// Does what changes nothing; again, with perhaps another member, as long as none can be reached.
pub(super) async fn reading<T, F: Future<Output = Result<T, etcd_client::Error>>>(
    operation: &'static str,
    request: impl FnMut() -> F,
) -> Result<T, Error> {
    trying(operation, request, worth_another_read, |operation, why| Error::Unavailable { operation, why }).await
}

/// Does what changes something; again only when it is certain that nobody has got it. Otherwise what is not known to have been
/// refused may have been done.
pub(super) async fn writing<T, F: Future<Output = Result<T, etcd_client::Error>>>(
    operation: &'static str,
    request: impl FnMut() -> F,
) -> Result<T, Error> {
    trying(operation, request, was_never_sent, |operation, why| Error::Uncertain { operation, why }).await
}

async fn trying<T, F: Future<Output = Result<T, etcd_client::Error>>>(
    operation: &'static str,
    mut request: impl FnMut() -> F,
    again: fn(&etcd_client::Error) -> bool,
    unknown: fn(&'static str, String) -> Error,
) -> Result<T, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        let error = match tokio::time::timeout_at(end, request()).await {
            Ok(Ok(reply)) => return Ok(reply),
            Ok(Err(error)) => error,
            Err(_) => return Err(unknown(operation, format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        if let Some(known) = known(operation, &error) {
            return Err(known);
        }
        if !again(&error) {
            return Err(unknown(operation, text(&error)));
        }
        if Instant::now() + AGAIN > end {
            return Err(Error::Unavailable { operation, why: text(&error) });
        }
        tracing::debug!(operation, error = text(&error), "trying another time");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Errors with a word of their own in the contract, and refusals. Numbers that etcd does not tell are 0.
/// Source: `api/v3rpc/rpctypes/error.go` in etcd.
fn known(operation: &'static str, error: &etcd_client::Error) -> Option<Error> {
    let text = text(error);
    let says = |part: &str| text.contains(part);
    let unavailable = |why: &str| Error::Unavailable { operation, why: why.to_owned() };
    Some(if says("required revision has been compacted") {
        Error::Compacted { asked: 0, oldest: 0 }
    } else if says("required revision is a future revision") {
        Error::Future { asked: 0, newest: 0 }
    } else if says("lease not found") {
        Error::LeaseNotFound(0)
    } else if says("lease already exists") {
        Error::LeaseExists(0)
    } else if says("etcdserver: key not found") {
        Error::KeyNotFound
    } else if says("duplicate key given") {
        Error::Invalid { why: WRITTEN_TWICE }
    } else if says("request is too large") || says("message larger than max") {
        Error::TooLarge { what: "transaction", limit: MAX_VALUE }
    } else if says("too many operations in txn") {
        Error::TooLarge { what: "number of steps in a transaction", limit: MAX_TXN_OPS }
    } else if says("database space exceeded") {
        unavailable(NO_SPACE)
    } else if says("corrupt cluster") || says("corrupt alarm") {
        unavailable(CORRUPT)
    } else if says("permission denied") || says("invalid auth token") || says("too many requests") {
        unavailable(&text)
    } else {
        return None;
    })
}

/// No connection was made, or there is no leader to give it to: it was not done, and can be soon.
fn was_never_sent(error: &etcd_client::Error) -> bool {
    text(error).contains("etcdserver: no leader") || causes(error).any(|cause| cause.is::<tonic::ConnectError>())
}

/// A member went away, or its cluster has no leader at the moment.
fn worth_another_read(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            matches!(status.code(), tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled)
        }
        etcd_client::Error::TransportError(_) => true,
        _ => was_never_sent(error),
    }
}

fn causes(error: &etcd_client::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: Option<&(dyn std::error::Error + 'static)> = match error {
        etcd_client::Error::GRpcStatus(status) => Some(status),
        etcd_client::Error::TransportError(error) => Some(error),
        _ => None,
    };
    std::iter::successors(first, |error| error.source())
}

/// What went wrong, with its causes.
pub(super) fn text(error: &etcd_client::Error) -> String {
    let first = match error {
        etcd_client::Error::GRpcStatus(status) => format!("{}: {}", status.code(), status.message()),
        other => other.to_string(),
    };
    causes(error).skip(1).fold(first, |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
