//! Our words in etcd's, and back.

use bytes::Bytes;
use etcd_client::{
    CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, TxnOp, TxnOpResponse,
    TxnResponse,
};

use crate::backend::Error;
use crate::kv::{Compare, CompareTarget, Entry, Op, OpResult, Range, RangeReply, Revision, Txn, TxnReply};

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
    (start_key(&range.start, &range.end), options)
}

pub(super) fn txn(txn: &Txn) -> etcd_client::Txn {
    etcd_client::Txn::new()
        .when(txn.compare.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.success.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.failure.iter().map(op).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    let key = compare.key.to_vec();
    match &compare.target {
        CompareTarget::ModRevision(revision) => Etcd::mod_revision(key, CompareOp::Equal, signed(*revision)),
        CompareTarget::ModRevisionLess(revision) => Etcd::mod_revision(key, CompareOp::Less, signed(*revision)),
        CompareTarget::ModRevisionGreater(revision) => Etcd::mod_revision(key, CompareOp::Greater, signed(*revision)),
        CompareTarget::CreateRevision(revision) => Etcd::create_revision(key, CompareOp::Equal, signed(*revision)),
        CompareTarget::Version(version) => Etcd::version(key, CompareOp::Equal, signed(*version)),
        CompareTarget::Value(value) => Etcd::value(key, CompareOp::Equal, value.to_vec()),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            TxnOp::put(key.to_vec(), value.to_vec(), Some(PutOptions::new().with_lease(*lease).with_prev_key()))
        }
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

/// The revision that a step reads at, if it reads.
pub(super) fn asked_revision(op: &Op) -> Option<Revision> {
    if let Op::Range(range) = op { Some(range.revision) } else { None }
}

/// The lease that a transaction names: etcd does not say which it did not find.
pub(super) fn lease_named(txn: &Txn) -> i64 {
    let leases =
        txn.success.iter().chain(&txn.failure).map(|op| if let Op::Put { lease, .. } = op { *lease } else { 0 });
    leases.into_iter().find(|lease| *lease != 0).unwrap_or(0)
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

pub(super) fn range_reply(mut reply: GetResponse) -> RangeReply {
    let (more, revision) = (reply.more(), revision(reply.header()));
    let entries: Vec<_> = reply.take_kvs().into_iter().map(into_entry).collect();
    let count = if more { entries.len() as u64 } else { unsigned(reply.count()) };
    RangeReply { entries, count, more, revision }
}

pub(super) fn txn_reply(reply: &TxnResponse) -> Result<TxnReply, Error> {
    let revision = revision(reply.header());
    let results = reply.op_responses().into_iter().map(|result| match result {
        TxnOpResponse::Put(mut put) => Ok(OpResult::Put(put.take_prev_key().map(into_entry))),
        TxnOpResponse::Delete(mut delete) => {
            Ok(OpResult::Delete(delete.take_prev_kvs().into_iter().map(into_entry).collect()))
        }
        TxnOpResponse::Get(get) => Ok(OpResult::Range(RangeReply { revision, ..range_reply(get) })),
        TxnOpResponse::Txn(_) => {
            let why = "etcd answered with a step that was not asked for".to_owned();
            Err(Error::Uncertain { operation: "a transaction", why })
        }
    });
    Ok(TxnReply { succeeded: reply.succeeded(), revision, results: results.collect::<Result<_, _>>()? })
}
