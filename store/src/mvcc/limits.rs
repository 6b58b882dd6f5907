//! What a transaction may ask for, checked before it is proposed, the same for every backend.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Span;
use crate::backend::{Error, MAX_KEY, MAX_LEASE_SECONDS, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE};
use crate::kv::{CompareTarget, Op, Txn};

/// Checks sizes, counts and that no branch writes a key twice (etcd refuses that too: which write would win is a matter of
/// taste, and one revision could not hold both).
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    if check_size(txn, MAX_TXN_OPS)? > MAX_TXN_BYTES {
        return Err(Error::TooLarge { what: "transaction", limit: MAX_TXN_BYTES });
    }
    for ops in [&txn.success, &txn.failure] {
        // Most transactions are of one step, which meets no other.
        if ops.len() > 1 || matches!(ops.first(), Some(Op::Txn(_))) {
            writes(ops)?;
        }
    }
    Ok(())
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

/// Checks what is so of each part by itself; returns the bytes of all. A transaction may have `room` steps, those inside it
/// what it leaves (as in etcd: the steps along any path are limited).
fn check_size(txn: &Txn, room: usize) -> Result<usize, Error> {
    let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let too_many = Error::TooLarge { what: "number of steps in a transaction", limit: MAX_TXN_OPS };
    let room = room.checked_sub(most).ok_or(too_many)?;
    let compared = txn.compare.iter().map(|compare| match &compare.target {
        CompareTarget::Value(value) => compare.start.len() + compare.end.len() + value.len(),
        _ => compare.start.len() + compare.end.len(),
    });
    let mut bytes: usize = compared.sum();
    for op in txn.steps() {
        let (key, value) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Update { key, value, .. } => (key, value.as_ref().map_or(0, Bytes::len)),
            Op::Delete { start, end } => (start, end.len()),
            Op::Range(range) => (&range.start, range.end.len()),
            Op::Txn(inner) => {
                bytes += check_size(inner, room)?;
                continue;
            }
        };
        // The empty key is the store's own: it is changed only by who knows what it changes.
        let knows = || txn.compare.iter().any(|compare| compare.start.is_empty());
        if matches!(op, Op::Put { .. } | Op::Update { .. }) && key.is_empty() && !knows() {
            return Err(Error::Invalid { why: "a put names an empty key" });
        }
        if matches!(op, Op::Update { value: Some(_), lease: Some(_), .. }) {
            return Err(Error::Invalid { why: "an update keeps nothing: that is a put" });
        }
        if key.len() > MAX_KEY {
            return Err(Error::TooLarge { what: "key", limit: MAX_KEY });
        }
        if value > MAX_VALUE {
            return Err(Error::TooLarge { what: "value", limit: MAX_VALUE });
        }
        bytes += key.len() + value;
    }
    Ok(bytes)
}

/// What the steps of a branch may write, whichever branches their inner transactions take.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<Span<'a>>,
}

impl Writes<'_> {
    fn meets(&self, other: &Self) -> bool {
        let deletes = |one: &Self, other: &Self| {
            one.deletes.iter().any(|span| other.puts.range::<[u8], _>(span.bounds()).next().is_some())
        };
        !self.puts.is_disjoint(&other.puts) || deletes(self, other) || deletes(other, self)
    }
}

/// All that these steps write; refused if any writes what another does. That two delete the same is harmless.
fn writes(ops: &[Op]) -> Result<Writes<'_>, Error> {
    let mut all = Writes::default();
    for op in ops {
        let mut one = Writes::default();
        match op {
            Op::Put { key, .. } | Op::Update { key, .. } => {
                one.puts.insert(key);
            }
            Op::Delete { start, end } => one.deletes.push(Span::new(start, end)),
            Op::Range(_) => {}
            Op::Txn(inner) => {
                // Only one of the branches is taken: they may write the same.
                let (success, failure) = (writes(&inner.success)?, writes(&inner.failure)?);
                one.puts.extend(success.puts.into_iter().chain(failure.puts));
                one.deletes.extend(success.deletes.into_iter().chain(failure.deletes));
            }
        }
        if all.meets(&one) {
            return Err(Error::Invalid { why: WRITTEN_TWICE });
        }
        all.puts.extend(one.puts);
        all.deletes.append(&mut one.deletes);
    }
    Ok(all)
}

/// Why a transaction is refused that writes a key twice.
pub(crate) const WRITTEN_TWICE: &str = "a transaction writes a key twice";
