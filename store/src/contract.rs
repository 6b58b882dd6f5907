//! The suite that every backend must pass: what [`crate::backend`] promises, as runnable cases.
//!
//! Each case works under a prefix of its own and makes no assumption on the store's revision, so all run on one store, one
//! after the other. A broken promise is a panic that says which.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use crate::backend::{Backend, Error, WatchStream};
use crate::kv::{
    Compare, CompareTarget, Entry, Event, LeaseId, Op, OpResult, Range, Relation, Revision, Txn, TxnReply, WatchBatch,
    WatchFrom, prefix_end,
};

mod concurrency;
mod leases;
mod reading;
mod watching;
mod writing;

/// A store to be held to its promises.
pub type Store = Arc<dyn Backend>;

/// One case.
pub struct Case {
    /// What is promised.
    pub name: &'static str,
    /// Panics when it is not kept.
    pub run: fn(Store) -> BoxFuture<'static, ()>,
}

/// How long anything that must happen may take.
const DEADLINE: Duration = Duration::from_secs(20);

macro_rules! cases {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// All cases, in the order in which they are to be run.
        pub fn cases() -> Vec<Case> {
            vec![$(Case { name: stringify!($name), run: |store| $module::$name(store).boxed() }),*]
        }
    };
}

cases! {
    writing::a_put_tells_what_it_replaced,
    writing::one_revision_per_transaction_that_changes_something,
    writing::every_compare_target_is_compared,
    writing::relations_are_those_of_numbers_and_bytes,
    writing::a_range_is_compared_key_by_key,
    writing::a_conflict_takes_the_other_branch_and_writes_nothing,
    writing::a_deleted_range_is_returned,
    writing::a_key_that_comes_back_starts_anew,
    writing::limits_are_refused_and_nothing_is_written,
    writing::no_key_is_written_twice_in_one_transaction,
    writing::an_update_keeps_what_it_is_not_given,
    writing::what_is_inside_is_compared_before_anything_is_written,
    writing::no_key_is_written_twice_by_inner_transactions,
    writing::a_refused_step_inside_undoes_all,
    reading::ranges_have_etcd_bounds,
    reading::limits_count_and_say_that_there_is_more,
    reading::all_can_be_counted_beyond_a_limit,
    reading::a_transaction_that_only_reads_compares,
    reading::the_past_is_read_as_it_was,
    reading::the_future_is_refused,
    reading::a_read_in_a_transaction_sees_its_writes,
    reading::a_read_of_a_revision_in_a_transaction_sees_none_of_its_writes,
    reading::a_hash_changes_with_what_is_held,
    reading::a_store_begins_at_revision_one,
    watching::from_now_means_after_now,
    watching::from_the_past_repeats_the_past,
    watching::events_know_what_was_before,
    watching::only_the_range_is_heard,
    watching::a_transaction_is_never_split,
    watching::a_revision_to_come_is_waited_for,
    concurrency::concurrent_increments_are_all_counted,
    concurrency::watchers_see_every_write_once_and_in_order,
    concurrency::a_write_is_seen_by_every_later_read,
    leases::keys_die_with_a_revoked_lease,
    leases::keys_die_when_time_is_up,
    leases::a_lease_kept_alive_lives_on,
    leases::a_key_written_again_without_its_lease_stays,
    leases::a_lease_can_be_given_its_id,
    leases::a_lease_tells_its_time_and_keys,
    leases::an_unknown_lease_is_refused,
    reading::what_is_compacted_cannot_be_read,
    watching::what_is_compacted_cannot_be_watched,
    watching::the_compacted_revision_itself_can_be_watched,
}

pub(crate) fn put_op(key: &str, value: &str) -> Op {
    Op::Put { key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()), lease: 0 }
}

pub(crate) fn delete_op(key: &str) -> Op {
    Op::Delete { start: Bytes::from(key.to_owned()), end: Bytes::new() }
}

pub(crate) async fn commit(store: &Store, success: Vec<Op>) -> TxnReply {
    store.txn(Txn { success, ..Txn::default() }).await.expect("a transaction without compares succeeds")
}

pub(crate) async fn put(store: &Store, key: &str, value: &str) -> Revision {
    commit(store, vec![put_op(key, value)]).await.revision
}

pub(crate) async fn put_leased(store: &Store, key: &str, lease: LeaseId) -> Result<TxnReply, Error> {
    let op = Op::Put { key: Bytes::from(key.to_owned()), value: Bytes::from_static(b"v"), lease };
    store.txn(Txn { success: vec![op], ..Txn::default() }).await
}

pub(crate) async fn get(store: &Store, key: &str) -> Option<Entry> {
    store.range(Range::key(key.to_owned())).await.expect("a key can be read").entries.pop()
}

pub(crate) async fn keys_at(store: &Store, prefix: &str, revision: Revision) -> Vec<(String, String)> {
    let range = Range { revision, ..Range::prefix(prefix.to_owned()) };
    let reply = store.range(range).await.expect("a prefix can be read");
    reply.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) async fn watch(store: &Store, prefix: &str, from: WatchFrom) -> WatchStream {
    let start = Bytes::from(prefix.to_owned());
    let end = prefix_end(&start);
    store.watch(start, end, from).await.expect("a watch opens")
}

pub(crate) async fn next_batch(stream: &mut WatchStream) -> Option<Result<WatchBatch, Error>> {
    tokio::time::timeout(DEADLINE, stream.next()).await.expect("a watch says something before the deadline")
}

/// The next so many events; checks that revisions only grow and that no batch claims less than it holds.
pub(crate) async fn next_events(stream: &mut WatchStream, want: usize) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    let mut reached = 0;
    while events.len() < want {
        let batch = next_batch(stream).await.expect("the watch goes on").expect("the watch does not fail");
        if let Some(first) = batch.events.first() {
            assert!(revision_of(first) > reached, "revision {} again after {reached}", revision_of(first));
        }
        events.extend(batch.events);
        let last = events.last().map_or(0, revision_of);
        assert!(batch.revision >= last.max(reached), "progress {} is behind {last}", batch.revision);
        reached = reached.max(last);
    }
    assert_eq!(events.len(), want, "no more events than were made");
    assert!(events.windows(2).all(|pair| revision_of(&pair[0]) <= revision_of(&pair[1])), "events are in order");
    events
}

pub(crate) fn revision_of(event: &Event) -> Revision {
    match event {
        Event::Put { entry, .. } => entry.mod_revision,
        Event::Delete { revision, .. } => *revision,
    }
}

/// `+key=value` or `-key`, with `<value` where it was known before.
pub(crate) fn told(event: &Event) -> String {
    let before = |prev: &Option<Entry>| prev.as_ref().map_or(String::new(), |prev| format!("<{}", text(&prev.value)));
    match event {
        Event::Put { entry, prev } => format!("+{}={}{}", text(&entry.key), text(&entry.value), before(prev)),
        Event::Delete { key, prev, .. } => format!("-{}{}", text(key), before(prev)),
    }
}

pub(crate) fn compare(key: &str, target: CompareTarget) -> Compare {
    Compare::equal(key.to_owned(), target)
}

pub(crate) fn deleted(result: &OpResult) -> Vec<String> {
    match result {
        OpResult::Delete(entries) => entries.iter().map(|entry| text(&entry.key)).collect(),
        other => panic!("a delete's result is {other:?}"),
    }
}
