//! What etcd's errors mean for a caller: was it written, and is it worth another try.

use std::time::Duration;

use crate::backend::{Error, MAX_TXN_OPS, MAX_VALUE};

use super::PATIENCE;

/// Awaits a request that changes nothing.
pub(super) async fn reading<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    let unavailable = |why| Error::Unavailable { operation, why };
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(known(&error).unwrap_or_else(|| unavailable(text(&error)))),
        Err(_) => Err(unavailable(late(PATIENCE))),
    }
}

/// Awaits a request that changes something: whatever is not known to have been refused may have been done.
pub(super) async fn writing<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(known(&error).unwrap_or_else(|| match refused(&error) {
            true => Error::Unavailable { operation, why: text(&error) },
            false => Error::Uncertain { operation, why: text(&error) },
        })),
        Err(_) => Err(Error::Uncertain { operation, why: late(PATIENCE) }),
    }
}

/// Errors with a word of their own in the contract. Numbers that etcd does not tell are 0.
/// Source: `api/v3rpc/rpctypes/error.go` in etcd.
fn known(error: &etcd_client::Error) -> Option<Error> {
    let text = text(error);
    let says = |part: &str| text.contains(part);
    if says("required revision has been compacted") {
        Some(Error::Compacted { asked: 0, oldest: 0 })
    } else if says("required revision is a future revision") {
        Some(Error::Future { asked: 0, newest: 0 })
    } else if says("lease not found") {
        Some(Error::LeaseNotFound(0))
    } else if says("duplicate key given") {
        Some(Error::Invalid { why: "a transaction writes a key twice" })
    } else if says("request is too large") || says("message larger than max") {
        Some(Error::TooLarge { what: "transaction", limit: MAX_VALUE })
    } else if says("too many operations in txn") {
        Some(Error::TooLarge { what: "number of steps in a transaction", limit: MAX_TXN_OPS })
    } else {
        None
    }
}

/// etcd says that it did not do it.
fn refused(error: &etcd_client::Error) -> bool {
    let text = text(error);
    ["database space exceeded", "too many requests", "permission denied", "invalid auth token"]
        .iter()
        .any(|part| text.contains(part))
}

fn text(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => format!("{}: {}", status.code(), status.message()),
        other => other.to_string(),
    }
}

fn late(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs())
}
