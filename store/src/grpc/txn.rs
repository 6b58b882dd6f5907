//! Transactions in etcd's words and back.

use tonic::Status;

use super::pb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
use super::pb::request_op::Request;
use super::pb::response_op::Response;
use super::pb::{
    self, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use super::{fault, range, signed};
use crate::backend::MAX_TXN_OPS;
use crate::kv::{Compare, CompareTarget, Entry, Op, OpResult, Relation, Revision, Txn, TxnReply};

/// What the store is asked; refused where etcd refuses it.
pub(super) fn asked(request: &TxnRequest) -> Result<Txn, Status> {
    with_room(request, MAX_TXN_OPS)
}

/// A transaction may have `room` steps, those inside it what it leaves.
fn with_room(request: &TxnRequest, room: usize) -> Result<Txn, Status> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    let room = room.checked_sub(most).ok_or_else(fault::too_many_ops)?;
    let ops = |ops: &[RequestOp]| ops.iter().map(|op| step(op, room)).collect::<Result<Vec<_>, _>>();
    Ok(Txn {
        compare: request.compare.iter().map(compare).collect::<Result<_, _>>()?,
        success: ops(&request.success)?,
        failure: ops(&request.failure)?,
    })
}

fn step(op: &RequestOp, room: usize) -> Result<Op, Status> {
    match &op.request {
        Some(Request::RequestRange(request)) => {
            range::check(request)?;
            Ok(Op::Range(range::asked(request)))
        }
        Some(Request::RequestPut(request)) => put(request.clone()),
        Some(Request::RequestDeleteRange(request)) => delete(request.clone()),
        Some(Request::RequestTxn(request)) => with_room(request, room).map(Op::Txn),
        None => Err(fault::key_not_found()),
    }
}

/// A put, or the update of what is there.
pub(super) fn put(request: PutRequest) -> Result<Op, Status> {
    let PutRequest { key, value, lease, ignore_value, ignore_lease, prev_kv: _ } = request;
    if key.is_empty() {
        return Err(fault::empty_key());
    }
    if ignore_value && !value.is_empty() {
        return Err(fault::value_provided());
    }
    if ignore_lease && lease != 0 {
        return Err(fault::lease_provided());
    }
    if !ignore_value && !ignore_lease {
        return Ok(Op::Put { key, value, lease });
    }
    Ok(Op::Update { key, value: (!ignore_value).then_some(value), lease: (!ignore_lease).then_some(lease) })
}

pub(super) fn delete(request: DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(fault::empty_key());
    }
    Ok(Op::Delete { start: request.key, end: request.range_end })
}

fn compare(request: &pb::Compare) -> Result<Compare, Status> {
    if request.key.is_empty() {
        return Err(fault::empty_key());
    }
    let relation = match request.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::NotEqual => Relation::NotEqual,
        CompareResult::Less => Relation::Less,
        CompareResult::Greater => Relation::Greater,
    };
    // A target without its number is compared with 0, one with the number of another too.
    let number = |of: fn(&TargetUnion) -> Option<i64>| request.target_union.as_ref().and_then(of).unwrap_or(0);
    let (target, relation) = match request.target() {
        Target::Version => counted(CompareTarget::Version, relation, number(version)),
        Target::Create => counted(CompareTarget::CreateRevision, relation, number(create_revision)),
        Target::Mod => counted(CompareTarget::ModRevision, relation, number(mod_revision)),
        Target::Lease => (CompareTarget::Lease(number(lease)), relation),
        Target::Value => match &request.target_union {
            Some(TargetUnion::Value(value)) => (CompareTarget::Value(value.clone()), relation),
            _ => (CompareTarget::Value(Default::default()), relation),
        },
    };
    Ok(Compare { start: request.key.clone(), end: request.range_end.clone(), target, relation })
}

fn version(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::Version(number) = union { Some(*number) } else { None }
}

fn create_revision(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::CreateRevision(number) = union { Some(*number) } else { None }
}

fn mod_revision(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::ModRevision(number) = union { Some(*number) } else { None }
}

fn lease(union: &TargetUnion) -> Option<i64> {
    if let TargetUnion::Lease(number) = union { Some(*number) } else { None }
}

/// What is counted is never below 0: every such comparison has one that comes to the same.
fn counted(target: fn(u64) -> CompareTarget, relation: Relation, number: i64) -> (CompareTarget, Relation) {
    match (u64::try_from(number), relation) {
        (Ok(number), relation) => (target(number), relation),
        (Err(_), Relation::Equal | Relation::Less) => (target(0), Relation::Less),
        (Err(_), Relation::NotEqual | Relation::Greater) => (target(u64::MAX), Relation::NotEqual),
    }
}

/// What is answered.
pub(super) fn answer(request: &TxnRequest, reply: TxnReply, header: Option<ResponseHeader>) -> TxnResponse {
    let after = reply.revision;
    let before = if wrote(&reply) { after.saturating_sub(1) } else { after };
    let mut clock = Clock { before, after, changed: false };
    TxnResponse { header, ..branch(request, reply, &mut clock) }
}

/// At which revision each step was done: what comes before the first write sees the revision before.
struct Clock {
    before: Revision,
    after: Revision,
    changed: bool,
}

impl Clock {
    /// Inner headers tell only the revision.
    fn header(&self) -> Option<ResponseHeader> {
        let revision = signed(if self.changed { self.after } else { self.before });
        Some(ResponseHeader { revision, ..ResponseHeader::default() })
    }
}

fn wrote(reply: &TxnReply) -> bool {
    reply.results.iter().any(|result| match result {
        OpResult::Put(_) => true,
        OpResult::Delete(removed) => !removed.is_empty(),
        OpResult::Range(_) => false,
        OpResult::Txn(inner) => wrote(inner),
    })
}

fn branch(request: &TxnRequest, reply: TxnReply, clock: &mut Clock) -> TxnResponse {
    let ops = if reply.succeeded { &request.success } else { &request.failure };
    let responses = ops.iter().zip(reply.results).map(|(op, result)| {
        let response = done(op.request.as_ref(), result, clock);
        ResponseOp { response }
    });
    let header = Some(ResponseHeader::default());
    TxnResponse { header, succeeded: reply.succeeded, responses: responses.collect() }
}

fn done(request: Option<&Request>, result: OpResult, clock: &mut Clock) -> Option<Response> {
    Some(match (request?, result) {
        (Request::RequestPut(request), OpResult::Put(prev)) => {
            clock.changed = true;
            Response::ResponsePut(put_answer(request.prev_kv, prev, clock.header()))
        }
        (Request::RequestDeleteRange(request), OpResult::Delete(removed)) => {
            clock.changed |= !removed.is_empty();
            Response::ResponseDeleteRange(delete_answer(request.prev_kv, removed, clock.header()))
        }
        (Request::RequestRange(request), OpResult::Range(reply)) => {
            Response::ResponseRange(range::answer(request, reply, clock.header()))
        }
        (Request::RequestTxn(request), OpResult::Txn(reply)) => Response::ResponseTxn(branch(request, reply, clock)),
        (request, result) => unreachable!("a backend answered {request:?} with {result:?}"),
    })
}

pub(super) fn put_answer(wants_prev: bool, prev: Option<Entry>, header: Option<ResponseHeader>) -> PutResponse {
    PutResponse { header, prev_kv: prev.filter(|_| wants_prev).map(range::pair) }
}

pub(super) fn delete_answer(
    wants_prev: bool,
    removed: Vec<Entry>,
    header: Option<ResponseHeader>,
) -> DeleteRangeResponse {
    let deleted = signed(removed.len() as u64);
    let prev_kvs = if wants_prev { removed.into_iter().map(range::pair).collect() } else { Vec::new() };
    DeleteRangeResponse { header, deleted, prev_kvs }
}
