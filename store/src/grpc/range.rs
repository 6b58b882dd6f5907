//! Ranges: what of a request the store does, and what is done to the entries that it found.
//!
//! Sorting and filters are for the eye of the asker, so they are not the store's: as in etcd everything in the range is read,
//! then filtered, sorted and cut.

use std::cmp::Ordering;

use tonic::Status;

use super::pb::range_request::{SortOrder, SortTarget};
use super::pb::{RangeRequest, RangeResponse, ResponseHeader};
use super::proto::mvccpb::KeyValue;
use super::{fault, signed, unsigned};
use crate::kv::{Entry, Range, RangeReply};

/// Refuses what etcd refuses.
pub(super) fn check(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(fault::empty_key());
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(fault::invalid_sort());
    }
    Ok(())
}

/// What the store is asked.
pub(super) fn asked(request: &RangeRequest) -> Range {
    let limit = usize::try_from(request.limit).unwrap_or(0);
    Range {
        start: request.key.clone(),
        end: request.range_end.clone(),
        // What is filtered or sorted is cut afterwards.
        limit: if request.sort_order != 0 || filters(request) { 0 } else { limit },
        revision: unsigned(request.revision),
        count_only: request.count_only,
        count_all: true,
        serializable: request.serializable,
    }
}

/// What is answered.
pub(super) fn answer(request: &RangeRequest, reply: RangeReply, header: Option<ResponseHeader>) -> RangeResponse {
    let (count, mut more, mut entries) = (reply.count, reply.more, reply.entries);
    if filters(request) {
        entries.retain(|entry| passes(request, entry));
    }
    sort(request, &mut entries);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && entries.len() > limit {
        entries.truncate(limit);
        more = true;
    }
    let pair =
        |entry| if request.keys_only { KeyValue { value: Default::default(), ..pair(entry) } } else { pair(entry) };
    RangeResponse { header, kvs: entries.into_iter().map(pair).collect(), more, count: signed(count) }
}

/// An entry in etcd's words.
pub(super) fn pair(entry: Entry) -> KeyValue {
    KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: signed(entry.create_revision),
        mod_revision: signed(entry.mod_revision),
        version: signed(entry.version),
        lease: entry.lease,
    }
}

fn filters(request: &RangeRequest) -> bool {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    bounds.iter().any(|bound| *bound != 0)
}

fn passes(request: &RangeRequest, entry: &Entry) -> bool {
    let within = |revision, least: i64, most: i64| {
        let revision = signed(revision);
        (least == 0 || revision >= least) && (most == 0 || revision <= most)
    };
    within(entry.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(entry.create_revision, request.min_create_revision, request.max_create_revision)
}

fn sort(request: &RangeRequest, entries: &mut [Entry]) {
    let (order, target) = (request.sort_order(), request.sort_target());
    // They come in the order of their keys; another target without an order means the lowest first.
    if target == SortTarget::Key && order != SortOrder::Descend {
        return;
    }
    let compare = |a: &Entry, b: &Entry| match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    let compare =
        |a: &Entry, b: &Entry| -> Ordering { if order == SortOrder::Descend { compare(b, a) } else { compare(a, b) } };
    entries.sort_by(compare);
}
