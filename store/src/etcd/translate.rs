//! Our words in etcd's, and back.

use bytes::Bytes;
use etcd_client::{
    CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, TxnOp, TxnOpResponse,
    TxnResponse,
};

use crate::backend::Error;
use crate::kv::{Compare, CompareTarget, Entry, Op, OpResult, Range, RangeReply, Relation, Revision, Txn, TxnReply};

/// etcd's numbers are signed; ours never reach the sign.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision()))
}

/// etcd has no empty key; the first that it can have is a zero byte.
pub(super) fn start_key(start: &Bytes, end: &Bytes) -> Vec<u8> {
    if start.is_empty() && !end.is_empty() { vec![0] } else { start.to_vec() }
}

pub(super) fn get(range: &Range) -> (Vec<u8>, GetOptions) {
    let mut options = GetOptions::new().with_limit(i64::try_from(range.limit).unwrap_or(i64::MAX));
    options = options.with_revision(signed(range.revision));
    if !range.end.is_empty() {
        options = options.with_range(range.end.to_vec());
    }
    if range.count_only {
        options = options.with_count_only();
    }
    if range.serializable {
        options = options.with_serializable();
    }
    (start_key(&range.start, &range.end), options)
}

pub(super) fn txn(txn: &Txn) -> etcd_client::Txn {
    let mut success: Vec<_> = txn.success.iter().map(op).collect();
    if txn.success.is_empty() && txn.failure.is_empty() {
        // A transaction that only compares is answered by whichever member is asked, however far that one is behind; one with
        // a linearizable step is not (etcd's `isTxnSerializable`). Nobody reads what the step finds.
        success.push(TxnOp::get("\0", Some(GetOptions::new().with_count_only())));
    }
    etcd_client::Txn::new()
        .when(txn.compare.iter().map(compare).collect::<Vec<_>>())
        .and_then(success)
        .or_else(txn.failure.iter().map(op).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    let key = start_key(&compare.start, &compare.end);
    let relation = match compare.relation {
        Relation::Equal => CompareOp::Equal,
        Relation::NotEqual => CompareOp::NotEqual,
        Relation::Less => CompareOp::Less,
        Relation::Greater => CompareOp::Greater,
    };
    let condition = match &compare.target {
        CompareTarget::ModRevision(revision) => Etcd::mod_revision(key, relation, signed(*revision)),
        CompareTarget::CreateRevision(revision) => Etcd::create_revision(key, relation, signed(*revision)),
        CompareTarget::Version(version) => Etcd::version(key, relation, signed(*version)),
        CompareTarget::Value(value) => Etcd::value(key, relation, value.to_vec()),
        CompareTarget::Lease(lease) => Etcd::lease(key, relation, *lease),
    };
    if compare.end.is_empty() { condition } else { condition.with_range(compare.end.to_vec()) }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            TxnOp::put(key.to_vec(), value.to_vec(), Some(PutOptions::new().with_lease(*lease).with_prev_key()))
        }
        Op::Update { key, value, lease } => {
            let mut options = PutOptions::new().with_prev_key().with_lease(lease.unwrap_or(0));
            if value.is_none() {
                options = options.with_ignore_value();
            }
            if lease.is_none() {
                options = options.with_ignore_lease();
            }
            TxnOp::put(key.to_vec(), value.as_ref().map_or(Vec::new(), |value| value.to_vec()), Some(options))
        }
        Op::Txn(inner) => TxnOp::txn(txn(inner)),
        Op::Delete { start, end } => {
            let mut options = DeleteOptions::new().with_prev_key();
            if !end.is_empty() {
                options = options.with_range(end.to_vec());
            }
            TxnOp::delete(start_key(start, end), Some(options))
        }
        Op::Range(range) => {
            let (key, options) = get(range);
            TxnOp::get(key, Some(options))
        }
    }
}

/// The newest revision that any step reads at.
pub(super) fn asked_revision(txn: &Txn) -> Revision {
    let asked = txn.steps().map(|op| match op {
        Op::Range(range) => range.revision,
        Op::Txn(inner) => asked_revision(inner),
        Op::Put { .. } | Op::Update { .. } | Op::Delete { .. } => 0,
    });
    asked.max().unwrap_or(0)
}

/// The lease that a transaction names: etcd does not say which it did not find.
pub(super) fn lease_named(txn: &Txn) -> i64 {
    let named = txn.steps().map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Update { lease, .. } => lease.unwrap_or(0),
        Op::Txn(inner) => lease_named(inner),
        Op::Delete { .. } | Op::Range(_) => 0,
    });
    named.into_iter().find(|lease| *lease != 0).unwrap_or(0)
}

pub(super) fn entry(pair: &KeyValue) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(pair.key()),
        value: Bytes::copy_from_slice(pair.value()),
        create_revision: unsigned(pair.create_revision()),
        mod_revision: unsigned(pair.mod_revision()),
        version: unsigned(pair.version()),
        lease: pair.lease(),
    }
}

/// An entry whose bytes are taken over.
fn into_entry(pair: KeyValue) -> Entry {
    let (create_revision, mod_revision) = (unsigned(pair.create_revision()), unsigned(pair.mod_revision()));
    let (version, lease) = (unsigned(pair.version()), pair.lease());
    let (key, value) = pair.into_key_value();
    Entry { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease }
}

/// What a range found; of a page the count, unless that of all was asked for.
pub(super) fn range_reply(mut reply: GetResponse, count_all: bool) -> RangeReply {
    let (more, revision) = (reply.more(), revision(reply.header()));
    let entries: Vec<_> = reply.take_kvs().into_iter().map(into_entry).collect();
    let count = if more && !count_all { entries.len() as u64 } else { unsigned(reply.count()) };
    RangeReply { entries, count, more, revision }
}

/// What a transaction did; the steps of the branch taken tell what each result was asked for.
pub(super) fn txn_reply(txn: &Txn, reply: &TxnResponse, revision: Revision) -> Result<TxnReply, Error> {
    let ops = if reply.succeeded() { &txn.success } else { &txn.failure };
    let results = ops.iter().zip(reply.op_responses()).map(|(op, result)| {
        Ok(match (op, result) {
            (Op::Put { .. } | Op::Update { .. }, TxnOpResponse::Put(mut put)) => {
                OpResult::Put(put.take_prev_key().map(into_entry))
            }
            (Op::Delete { .. }, TxnOpResponse::Delete(mut delete)) => {
                OpResult::Delete(delete.take_prev_kvs().into_iter().map(into_entry).collect())
            }
            (Op::Range(range), TxnOpResponse::Get(get)) => {
                OpResult::Range(RangeReply { revision, ..range_reply(get, range.count_all) })
            }
            (Op::Txn(inner), TxnOpResponse::Txn(done)) => OpResult::Txn(txn_reply(inner, &done, revision)?),
            _ => {
                let why = "etcd answered with a step that was not asked for".to_owned();
                return Err(Error::Uncertain { operation: "a transaction", why });
            }
        })
    });
    Ok(TxnReply { succeeded: reply.succeeded(), revision, results: results.collect::<Result<_, _>>()? })
}
