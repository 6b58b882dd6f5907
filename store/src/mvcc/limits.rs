//! What a transaction may ask for, checked before it is proposed, the same for every backend.

use bytes::Bytes;

use super::Span;
use crate::backend::{Error, MAX_KEY, MAX_LEASE_SECONDS, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE};
use crate::kv::{CompareTarget, Op, Txn};

/// Checks sizes, counts and that no branch writes a key twice (etcd refuses that too: which write would win is a matter of
/// taste, and one revision could not hold both).
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if most > MAX_TXN_OPS {
        return Err(Error::TooLarge { what: "number of steps in a transaction", limit: MAX_TXN_OPS });
    }
    let compared = txn.compare.iter().map(|compare| match &compare.target {
        CompareTarget::Value(value) => compare.key.len() + value.len(),
        _ => compare.key.len(),
    });
    let mut bytes: usize = compared.sum();
    for op in txn.success.iter().chain(&txn.failure) {
        let (key, value) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { start, end } => (start, end.len()),
            Op::Range(range) => (&range.start, range.end.len()),
        };
        if matches!(op, Op::Put { .. }) && key.is_empty() {
            return Err(Error::Invalid { why: "a put names an empty key" });
        }
        if key.len() > MAX_KEY {
            return Err(Error::TooLarge { what: "key", limit: MAX_KEY });
        }
        if value > MAX_VALUE {
            return Err(Error::TooLarge { what: "value", limit: MAX_VALUE });
        }
        bytes += key.len() + value;
    }
    if bytes > MAX_TXN_BYTES {
        return Err(Error::TooLarge { what: "transaction", limit: MAX_TXN_BYTES });
    }
    check_twice(&txn.success)?;
    check_twice(&txn.failure)
}

/// Checks the seconds of a lease.
pub(crate) fn check_ttl(seconds: i64) -> Result<(), Error> {
    if seconds < 1 {
        return Err(Error::Invalid { why: "a lease lasts less than one second" });
    }
    if seconds > MAX_LEASE_SECONDS {
        return Err(Error::TooLarge { what: "lease time", limit: usize::try_from(MAX_LEASE_SECONDS).unwrap_or(0) });
    }
    Ok(())
}

fn check_twice(ops: &[Op]) -> Result<(), Error> {
    let mut puts: Vec<&Bytes> =
        ops.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
    puts.sort_unstable();
    let twice = puts.windows(2).any(|pair| pair[0] == pair[1]);
    let both = ops.iter().any(|op| match op {
        Op::Delete { start, end } => puts.iter().any(|key| Span::new(start, end).contains(key)),
        Op::Put { .. } | Op::Range(_) => false,
    });
    if twice || both {
        return Err(Error::Invalid { why: "a transaction writes a key twice" });
    }
    Ok(())
}
