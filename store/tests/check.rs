//! The checker of histories accepts what a correct store does and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use store::check::{
    Clock, History, Nanos, Outcome, Record, Recorder, Refusal, Reply, Request, Rules, Saw, Seen, Step, Violation,
    Watch, linearizable,
};
use store::{
    Backend, Compare, CompareTarget, Entry, Event, LeaseId, Memory, Op, OpResult, Range, RangeReply, Revision, Txn,
    TxnReply, WatchBatch, WatchFrom,
};

#[path = "check/random.rs"]
mod random;

/// The revision of an empty store: what is written here counts from it.
fn empty() -> Revision {
    futures::executor::block_on(Memory::new().status()).unwrap().revision
}

/// `a=1@2.1.1`: a key, its value, and (counted from the empty store) the revisions that last wrote and created it, and version.
fn entry(text: &str) -> Entry {
    let (key, rest) = text.split_once('=').unwrap();
    let (value, numbers) = rest.split_once('@').unwrap();
    let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().unwrap()).collect();
    let [modified, created, version] = numbers[..] else { panic!("{text}") };
    Entry {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision: empty() + created,
        mod_revision: empty() + modified,
        version,
        lease: 0,
    }
}

fn record(client: u64, times: std::ops::Range<Nanos>, request: Request, outcome: Outcome) -> Record {
    Record { client, called: times.start, returned: Some(times.end), request, outcome }
}

fn put_request(key: &str, value: &str) -> Request {
    let put = Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: 0 };
    Request::Txn(Txn { success: vec![put], ..Txn::default() })
}

fn put(client: u64, times: std::ops::Range<Nanos>, key: &str, value: &str, told: (u64, Option<&str>)) -> Record {
    let results = vec![OpResult::Put(told.1.map(entry))];
    let reply = TxnReply { succeeded: true, revision: empty() + told.0, results };
    record(client, times, put_request(key, value), Outcome::Ok(Reply::Txn(reply)))
}

/// A put of which nobody knows whether it was done.
fn lost(client: u64, called: Nanos, key: &str, value: &str) -> Record {
    Record { returned: None, ..record(client, called..called, put_request(key, value), Outcome::Unknown) }
}

fn read(client: u64, times: std::ops::Range<Nanos>, key: &str, revision: u64, found: &[&str]) -> Record {
    let entries: Vec<_> = found.iter().map(|text| entry(text)).collect();
    let reply = RangeReply { count: entries.len() as u64, entries, more: false, revision: empty() + revision };
    record(client, times, Request::Range(Range::prefix(key.to_owned())), Outcome::Ok(Reply::Range(reply)))
}

fn refused(records: &[Record], words: &str) -> Violation {
    let violation = linearizable(records).expect_err("the history is impossible");
    assert!(violation.to_string().contains(words), "{words}: {violation}");
    violation
}

fn steps(records: &[Record]) -> Vec<Step> {
    linearizable(records).unwrap_or_else(|violation| panic!("{violation}")).steps
}

#[test]
fn nothing_is_possible() {
    assert!(steps(&[]).is_empty());
}

#[test]
fn a_read_beside_a_write_may_see_it_or_not() {
    let write = put(1, 0..10, "a", "x", (1, None));
    let before = read(2, 1..9, "a", 0, &[]);
    let after = read(3, 2..8, "a", 1, &["a=x@1.1.1"]);
    assert_eq!(steps(&[write, before, after]), [Step::Operation(1), Step::Operation(0), Step::Operation(2)]);
}

#[test]
fn a_stale_read_is_found() {
    let write = put(1, 0..10, "a", "x", (1, None));
    let stale = read(2, 11..12, "a", 0, &[]);
    let violation = refused(&[write.clone(), stale], "the revision went back");
    assert_eq!(violation.window.len(), 2, "{violation}");
    // With the right revision, and the old content.
    refused(&[write, read(2, 11..12, "a", 1, &[])], "client 2 was told \"nothing (0) at revision");
}

#[test]
fn a_lost_write_is_found() {
    let first = put(1, 0..10, "a", "x", (1, None));
    let again = put(2, 11..20, "a", "y", (1, None));
    refused(&[first.clone(), again], "was given to two operations");
    let second = put(2, 11..20, "b", "y", (2, None));
    refused(&[first, second, read(3, 21..22, "", 2, &["b=y@2.2.1"])], "it should have been \"a=x@");
}

#[test]
fn a_dirty_read_is_found() {
    let failed = record(1, 0..10, put_request("a", "x"), Outcome::Failed);
    refused(&[failed, read(2, 5..20, "a", 1, &["a=x@1.1.1"])], "nothing can have made revision");
    let later = put(1, 10..20, "a", "x", (1, None));
    refused(&[read(2, 0..5, "a", 1, &["a=x@1.1.1"]), later], "was seen before revision");
}

#[test]
fn a_write_that_is_done_twice_is_found() {
    let once = put(1, 0..10, "a", "x", (1, None));
    let twice = read(2, 11..12, "a", 2, &["a=x@2.1.2"]);
    refused(&[once, twice], "nothing can have made revision");
}

#[test]
fn a_revision_that_was_seen_in_two_ways_is_found() {
    let one = read(1, 0..10, "a", 1, &["a=x@1.1.1"]);
    let other = read(2, 0..10, "a", 1, &["a=y@1.1.1"]);
    refused(&[one, other, lost(3, 0, "a", "x"), lost(3, 0, "a", "y")], "was seen in two ways");
}

#[test]
fn a_lost_call_may_be_done_late_or_never() {
    let unknown = lost(1, 0, "a", "x");
    let without = read(2, 10..20, "a", 0, &[]);
    let with = read(2, 30..40, "a", 1, &["a=x@1.1.1"]);
    assert_eq!(steps(&[unknown.clone(), without.clone()]), [Step::Operation(1)]);
    let all = [unknown, without, with.clone()];
    assert_eq!(steps(&all), [Step::Operation(1), Step::Operation(0), Step::Operation(2)]);
    refused(&[with, lost(1, 41, "a", "x")], "nothing can have made revision");
}

#[test]
fn of_two_lost_calls_that_do_the_same_it_was_the_first() {
    let read = read(3, 10..20, "a", 1, &["a=x@1.1.1"]);
    let steps = steps(&[lost(1, 0, "a", "x"), lost(2, 5, "a", "x"), read]);
    assert_eq!(
        steps,
        [Step::Operation(0), Step::Operation(2)],
        "a watcher may have seen it before the second was called"
    );
}

#[test]
fn what_lost_calls_did_is_told_by_what_was_seen() {
    let mut records: Vec<_> = (0..200).map(|i| lost(i, 0, &format!("k{i}"), "x")).collect();
    // Three of two hundred were done, and only the last read tells which, long after.
    for i in 0..100 {
        records.push(read(900, 10 + 10 * i..15 + 10 * i, "other", 3, &[]));
    }
    records.push(read(900, 5000..5010, "k", 3, &["k150=x@2.2.1", "k199=x@1.1.1", "k7=x@3.3.1"]));
    let order = steps(&records);
    assert_eq!(order[..3], [Step::Operation(199), Step::Operation(150), Step::Operation(7)]);
}

fn lease(client: u64, times: std::ops::Range<Nanos>, request: Request, outcome: Result<Reply, Refusal>) -> Record {
    record(client, times, request, outcome.map_or_else(Outcome::Refused, Outcome::Ok))
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_never_before() {
    const SECOND: Nanos = 1_000_000_000;
    let granted = lease(1, 0..10, Request::Grant { id: 0, ttl: 1 }, Ok(Reply::Granted(1)));
    let kept = |at| lease(1, at..at + 10, Request::KeepAlive(1), Ok(Reply::KeptAlive(1)));
    let gone = |at| lease(1, at..at + 10, Request::KeepAlive(1), Err(Refusal::LeaseNotFound(1)));
    assert_eq!(steps(&[granted.clone(), gone(SECOND)])[1..], [Step::Expired(1), Step::Operation(1)]);
    steps(&[granted.clone(), kept(100 * SECOND)]);
    refused(&[granted.clone(), gone(SECOND / 2)], "but it should have been \"1 s\"");
    refused(&[granted.clone(), kept(SECOND / 2), gone(SECOND)], "there is no lease 1");
    refused(&[granted.clone(), gone(SECOND), kept(2 * SECOND)], "there is no lease 1");
    // Its key goes with it, at a revision of its own.
    let leased = Op::Put { key: "a".into(), value: "x".into(), lease: 1 };
    let reply = TxnReply { succeeded: true, revision: empty() + 1, results: vec![OpResult::Put(None)] };
    let request = Request::Txn(Txn { success: vec![leased], ..Txn::default() });
    let put = record(1, 11..20, request, Outcome::Ok(Reply::Txn(reply)));
    let all = [granted.clone(), put.clone(), read(2, SECOND..SECOND + 1, "a", 2, &[])];
    assert_eq!(steps(&all)[2..], [Step::Expired(1), Step::Operation(2)]);
    refused(&[granted, put, read(2, 30..40, "a", 2, &[])], "nothing can have made revision");
}

#[test]
fn a_lease_that_is_revoked_twice_is_found() {
    let granted = lease(1, 0..10, Request::Grant { id: 0, ttl: 60 }, Ok(Reply::Granted(1)));
    let revoked = |at| lease(1, at..at + 10, Request::Revoke(1), Ok(Reply::Done));
    steps(&[granted.clone(), revoked(20)]);
    refused(&[granted, revoked(20), revoked(40)], "there is no lease 1");
}

#[test]
fn what_is_compacted_is_refused_and_nothing_else() {
    let puts = [put(1, 0..10, "a", "x", (1, None)), put(1, 11..20, "a", "y", (2, Some("a=x@1.1.1")))];
    let past = Range { revision: empty() + 1, ..Range::prefix("a") };
    let old = |times, outcome| record(2, times, Request::Range(past.clone()), outcome);
    let reply = RangeReply { count: 1, entries: vec![entry("a=x@1.1.1")], more: false, revision: empty() + 2 };
    let (served, gone) = (Outcome::Ok(Reply::Range(reply)), Outcome::Refused(Refusal::Compacted(empty() + 1)));
    let compacted = record(3, 30..40, Request::Compact(empty() + 2), Outcome::Ok(Reply::Done));
    let with = |rest: Vec<Record>| [puts.to_vec(), rest].concat();
    steps(&with(vec![compacted.clone(), old(35..36, served.clone()), old(35..36, gone.clone())]));
    refused(&with(vec![compacted.clone(), old(41..50, served)]), "is compacted");
    refused(&with(vec![old(41..50, gone.clone())]), "it should have been \"a=x");
    // By itself it may forget what its rules permit.
    let history = History { records: with(vec![old(41..50, gone)]), watches: vec![] };
    history.check(&Rules { keeps: 1, ..Rules::default() }).unwrap_err();
    history.check(&Rules { keeps: 0, ..Rules::default() }).unwrap();
}

/// Three revisions: `a` and `b` are made at once, `a` is changed, `b` is removed.
fn written() -> Vec<Record> {
    let ops = vec![
        Op::Put { key: "a".into(), value: "1".into(), lease: 0 },
        Op::Put { key: "b".into(), value: "1".into(), lease: 0 },
    ];
    let results = vec![OpResult::Put(None), OpResult::Put(None)];
    let reply = TxnReply { succeeded: true, revision: empty() + 1, results };
    let both = record(1, 10..20, Request::Txn(Txn { success: ops, ..Txn::default() }), Outcome::Ok(Reply::Txn(reply)));
    let delete = Txn { success: vec![Op::Delete { start: "b".into(), end: "".into() }], ..Txn::default() };
    let results = vec![OpResult::Delete(vec![entry("b=1@1.1.1")])];
    let reply = TxnReply { succeeded: true, revision: empty() + 3, results };
    let delete = record(1, 50..60, Request::Txn(delete), Outcome::Ok(Reply::Txn(reply)));
    vec![both, put(1, 30..40, "a", "2", (2, Some("a=1@1.1.1"))), delete]
}

fn events() -> [Event; 4] {
    let put = |now, prev: Option<&str>| Event::Put { entry: entry(now), prev: prev.map(entry) };
    let delete = Event::Delete { key: "b".into(), revision: empty() + 3, prev: Some(entry("b=1@1.1.1")) };
    [put("a=1@1.1.1", None), put("b=1@1.1.1", None), put("a=2@2.1.2", Some("a=1@1.1.1")), delete]
}

/// A watch of everything, with what it saw at each of these moments: events, and how far it said it was.
fn watched(from: WatchFrom, seen: &[(Nanos, &[&Event], u64)]) -> Watch {
    let batch = |events: &[&Event], reached| WatchBatch {
        events: events.iter().copied().cloned().collect(),
        revision: empty() + reached,
    };
    let seen = seen.iter().map(|(at, events, reached)| Seen { at: *at, saw: Saw::Batch(batch(events, *reached)) });
    Watch { client: 9, called: 1, opened: Some(2), start: "a".into(), end: "c".into(), from, seen: seen.collect() }
}

fn check(watch: Watch) -> Result<(), String> {
    let history = History { records: written(), watches: vec![watch] };
    history.check(&Rules::default()).map(drop).map_err(|violation| violation.to_string())
}

#[track_caller]
fn wrong(watch: Watch, words: &str) {
    let violation = check(watch).expect_err(words);
    assert!(violation.contains(words), "{words}: {violation}");
}

#[test]
fn a_watch_that_tells_everything_once_is_right() {
    let [a, b, changed, removed] = &events();
    check(watched(WatchFrom::Now, &[(3, &[], 0), (60, &[a, b], 1), (61, &[changed, removed], 3)])).unwrap();
    check(watched(WatchFrom::Revision(1), &[(70, &[a, b, changed, removed], 3)])).unwrap();
    let from = WatchFrom::Revision(empty() + 2);
    check(watched(from, &[(70, &[changed], 2), (71, &[], 2), (72, &[removed], 3)])).unwrap();
}

#[test]
fn each_wrong_of_a_watch_is_found() {
    let [a, b, changed, removed] = &events();
    let all = WatchFrom::Revision(1);
    wrong(watched(all, &[(70, &[a, b], 1), (71, &[removed], 3)]), "it skipped a=2");
    wrong(watched(all, &[(70, &[a, b], 1), (71, &[], 3)]), "it skipped a=2");
    wrong(watched(WatchFrom::Now, &[(70, &[changed], 2)]), "it skipped a=1");
    wrong(watched(all, &[(70, &[a, b], 1), (71, &[a, b], 1)]), "was handed out before");
    wrong(watched(all, &[(70, &[a, a, b], 1)]), "it hands this out twice");
    wrong(watched(WatchFrom::Revision(empty() + 2), &[(70, &[b], 1)]), "is before its start");
    wrong(watched(all, &[(70, &[changed, a, b], 2)]), "comes after");
    wrong(watched(all, &[(70, &[a], 1), (71, &[b], 1)]), "it split revision");
    wrong(watched(all, &[(9, &[a, b], 1)]), "it tells the future");
    wrong(watched(all, &[(45, &[a, b, changed], 3)]), "which is to come");
    wrong(watched(all, &[(70, &[a, b, changed], 1)]), "less than");
    wrong(watched(all, &[(70, &[a, b, changed], 2), (71, &[], 1)]), "after it had reached");
    let other = Event::Put { entry: entry("a=3@2.1.2"), prev: Some(entry("a=1@1.1.1")) };
    wrong(watched(all, &[(70, &[a, b, &other], 2)]), "it tells a=3");
    let without = Event::Put { entry: entry("a=2@2.1.2"), prev: None };
    wrong(watched(all, &[(70, &[a, b, &without], 2)]), "but before it was a=1");
    let elsewhere = Event::Put { entry: entry("z=2@2.1.2"), prev: None };
    wrong(watched(all, &[(70, &[a, b, changed, &elsewhere], 2)]), "no such thing happened in its range");
    let mut gone = watched(all, &[]);
    gone.seen.push(Seen { at: 70, saw: Saw::Compacted });
    wrong(gone, "but only 0 can have been");
    let mut ended = watched(all, &[]);
    ended.seen.push(Seen { at: 70, saw: Saw::Ended });
    check(ended.clone()).unwrap();
    ended.seen.extend(watched(all, &[(71, &[a, b], 1)]).seen);
    wrong(ended, "it went on after its end");
}

/// Real time, for histories of real stores.
fn clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || Nanos::try_from(start.elapsed().as_nanos()).unwrap())
}

#[tokio::test]
async fn a_lease_that_ends_by_itself_is_part_of_the_order() {
    let store = Recorder::new(Arc::new(Memory::new()), clock());
    let lease: LeaseId = store.grant(1).await.unwrap();
    let mut stream = store.watch("a".into(), "".into(), WatchFrom::Now).await.unwrap();
    let leased = Op::Put { key: "a".into(), value: "x".into(), lease };
    store.txn(Txn { success: vec![leased], ..Txn::default() }).await.unwrap();
    let deleted = async {
        while let Some(batch) = stream.next().await {
            if batch.unwrap().events.iter().any(|event| matches!(event, Event::Delete { .. })) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), deleted).await.unwrap();
    store.range(Range::key("a")).await.unwrap();
    store.keep_alive(lease).await.unwrap_err();
    let order = store.history().check(&Rules::default()).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(order.steps.contains(&Step::Expired(lease)), "{:?}", order.steps);
}

#[tokio::test]
async fn a_call_that_is_given_up_is_of_unknown_outcome() {
    let store = Recorder::new(Arc::new(Memory::new()), clock());
    drop(store.range(Range::key("a")));
    assert!(store.history().records.is_empty(), "it was never asked");
    let mut call = std::pin::pin!(store.txn(Txn {
        compare: vec![Compare::equal("a", CompareTarget::ModRevision(0))],
        success: vec![Op::Put { key: "a".into(), value: "x".into(), lease: 0 }],
        ..Txn::default()
    }));
    assert!(futures::poll!(&mut call).is_ready());
    let history = store.history();
    assert!(matches!(history.records[0].outcome, Outcome::Ok(_)), "{:?}", history.records[0]);
}
