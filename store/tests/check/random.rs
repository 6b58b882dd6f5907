//! Random histories of a correct store are accepted, and with one reply changed they are not.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use proptest::prelude::*;
use store::check::{Clock, History, Nanos, Outcome, Recorder, Reply, Rules, Saw, Watch};
use store::{Backend, Compare, CompareTarget, Entry, Error, Event, Memory, Op, OpResult, Range, Txn, WatchFrom};

/// What one client does next.
#[derive(Clone, Debug)]
enum Act {
    Put(u8, u8),
    Swap(u8),
    Delete(u8),
    Read(u8),
    ReadAll,
    ReadPast(u64),
    Lease(u8),
    Revoke,
    Compact(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Act::Put(key, value)),
        4 => (0..6_u8).prop_map(Act::Swap),
        2 => (0..6_u8).prop_map(Act::Delete),
        4 => (0..6_u8).prop_map(Act::Read),
        4 => Just(Act::ReadAll),
        2 => (0..100_u64).prop_map(Act::ReadPast),
        1 => (0..6_u8).prop_map(Act::Lease),
        1 => Just(Act::Revoke),
        1 => (0..100_u64).prop_map(Act::Compact),
    ]
}

fn key(key: u8) -> bytes::Bytes {
    format!("k{key}").into()
}

/// Refusals are as good as replies here: the recorder has them.
async fn run(store: &Recorder, acts: Vec<Act>) {
    let mut leases = Vec::new();
    let mut newest = 0;
    for act in acts {
        match act {
            Act::Put(k, value) => {
                let put = Op::Put { key: key(k), value: value.to_string().into(), lease: 0 };
                newest = store.txn(Txn { success: vec![put], ..Txn::default() }).await.map_or(newest, |r| r.revision);
            }
            Act::Swap(k) => {
                let found = store.range(Range::key(key(k))).await.expect("it is readable").entries;
                let at = found.first().map_or(0, |entry| entry.mod_revision);
                tokio::task::yield_now().await;
                let txn = Txn {
                    compare: vec![Compare::equal(key(k), CompareTarget::ModRevision(at))],
                    success: vec![Op::Put { key: key(k), value: "swapped".into(), lease: 0 }],
                    failure: vec![Op::Range(Range::key(key(k)))],
                };
                store.txn(txn).await.expect("it is done");
            }
            Act::Delete(k) => {
                let delete = Op::Delete { start: key(k), end: key(k + 2) };
                store.txn(Txn { success: vec![delete], ..Txn::default() }).await.expect("it is done");
            }
            Act::Read(k) => drop(store.range(Range::key(key(k))).await),
            Act::ReadAll => drop(store.range(Range::prefix("k")).await),
            Act::ReadPast(share) => {
                drop(store.range(Range { revision: newest * share / 100, ..Range::prefix("k") }).await);
            }
            Act::Lease(k) => {
                leases.extend(store.grant(3600).await);
                let lease = leases.last().copied().unwrap_or(77);
                let put = Op::Put { key: key(k), value: "leased".into(), lease };
                drop(store.txn(Txn { success: vec![put], ..Txn::default() }).await);
            }
            Act::Revoke => drop(store.revoke(leases.pop().unwrap_or(78)).await),
            Act::Compact(share) => drop(store.compact(newest * share / 100).await),
        }
    }
}

/// Watches until it is as far as the store was when all was done.
async fn watch(store: Recorder, from: WatchFrom, mut done: tokio::sync::watch::Receiver<bool>) {
    let mut stream = match store.watch("k".into(), "l".into(), from).await {
        Ok(stream) => stream,
        // the clients were faster
        Err(Error::Compacted { .. }) => return,
        Err(error) => panic!("it opens: {error}"),
    };
    let mut enough = None;
    let mut reached = 0;
    while enough.is_none_or(|enough| reached < enough) {
        tokio::select! {
            batch = stream.next() => match batch {
                Some(Ok(batch)) => reached = batch.revision,
                Some(Err(_)) | None => return,
            },
            () = async { drop(done.wait_for(|done| *done).await) }, if enough.is_none() => {
                enough = Some(store.status().await.expect("status").revision);
                store.request_progress().await.expect("progress is told");
            }
        }
    }
}

/// What these clients saw of a store under two threads.
fn history(clients: Vec<Vec<Act>>) -> History {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let clock: Clock = Arc::new(move || Nanos::try_from(start.elapsed().as_nanos()).expect("not for centuries"));
        let store = Recorder::new(Arc::new(Memory::new()), clock);
        let (done, told) = tokio::sync::watch::channel(false);
        let watchers: Vec<_> = [WatchFrom::Now, WatchFrom::Revision(1)]
            .into_iter()
            .zip(100..)
            .map(|(from, id)| tokio::spawn(watch(store.client(id), from, told.clone())))
            .collect();
        let clients: Vec<_> = (1..)
            .zip(clients)
            .map(|(id, acts)| {
                let store = store.client(id);
                tokio::spawn(async move { run(&store, acts).await })
            })
            .collect();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        done.send_replace(true);
        for watcher in watchers {
            watcher.await.expect("a watcher does not panic");
        }
        store.history()
    })
}

/// Changes something in an entry.
fn spoil(entry: &mut Entry, how: usize) {
    match how % 4 {
        0 => entry.value = "spoilt".into(),
        1 => entry.mod_revision += 1,
        2 => entry.version += 1,
        _ => entry.create_revision -= 1,
    }
}

/// Changes one reply or event (which, is chosen by `pick`); false when there is nothing of the kind.
fn mutate(history: &mut History, pick: usize, how: usize) -> bool {
    let answered = history.records.iter_mut().filter_map(|record| match &mut record.outcome {
        Outcome::Ok(reply @ (Reply::Range(_) | Reply::Txn(_))) => Some(reply),
        _ => None,
    });
    let mut replies: Vec<_> = answered.collect();
    if replies.is_empty() {
        return false;
    }
    let pick = pick % replies.len();
    match &mut replies[pick] {
        Reply::Range(reply) => match reply.entries.first_mut().filter(|_| !how.is_multiple_of(3)) {
            Some(entry) => spoil(entry, how),
            None => reply.count += 1,
        },
        Reply::Txn(reply) => match reply.results.first_mut().filter(|_| !how.is_multiple_of(3)) {
            Some(OpResult::Put(Some(entry))) => spoil(entry, how),
            Some(OpResult::Delete(removed)) if !removed.is_empty() => drop(removed.pop()),
            _ => reply.succeeded = !reply.succeeded,
        },
        Reply::Granted(_) | Reply::KeptAlive(_) | Reply::Done => unreachable!("they were left out"),
    }
    true
}

/// Changes what a watcher saw; false when it saw nothing.
fn mutate_watch(history: &mut History, pick: usize, how: usize) -> bool {
    // Where a watch from now starts, only the store knows: its first events may be missing.
    let told = |watch: &&mut Watch| matches!(watch.from, WatchFrom::Revision(_));
    let seen = history.watches.iter_mut().filter(told).flat_map(|watch| &mut watch.seen);
    let batches = seen.filter_map(|seen| match &mut seen.saw {
        Saw::Batch(batch) if !batch.events.is_empty() => Some(batch),
        Saw::Batch(_) | Saw::Compacted | Saw::Ended => None,
    });
    let mut batches: Vec<_> = batches.collect();
    if batches.is_empty() {
        return false;
    }
    let pick = pick % batches.len();
    let events = &mut batches[pick].events;
    let which = how % events.len();
    match how % 3 {
        0 => drop(events.remove(which)),
        1 => events.push(events[which].clone()),
        _ => match &mut events[which] {
            Event::Put { entry, .. } => spoil(entry, how),
            Event::Delete { revision, .. } => *revision += 1,
        },
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_a_correct_store_does_is_accepted_and_a_change_of_it_is_not(
        clients in prop::collection::vec(prop::collection::vec(act(), 1..40), 1..6),
        pick in any::<usize>(),
        how in any::<usize>(),
    ) {
        let good = history(clients);
        if let Err(violation) = good.check(&Rules::default()) {
            prop_assert!(false, "{violation}");
        }
        let mut bad = good.clone();
        prop_assert!(!mutate(&mut bad, pick, how) || bad.check(&Rules::default()).is_err());
        let mut bad = good;
        prop_assert!(!mutate_watch(&mut bad, pick, how) || bad.check(&Rules::default()).is_err());
    }
}

/// A long history of many clients, as a simulation or a night makes it, is checked in seconds.
#[test]
fn a_hundred_thousand_operations_are_checked_in_seconds() {
    let acts = |client: u8| {
        let act = move |i: u8| match i % 4 {
            0 => Act::Put(i % 6, client),
            1 => Act::Swap(i % 6),
            2 => Act::Read(i % 6),
            _ => Act::Put(client, i),
        };
        (0..=255).cycle().take(10_000).map(act).collect()
    };
    let mut history = history((0..8).map(acts).collect());
    history.watches.clear();
    let count = history.records.len();
    assert!(count >= 100_000, "{count}");
    let start = Instant::now();
    history.check(&Rules { keeps: 1, ..Rules::default() }).unwrap_or_else(|violation| panic!("{violation}"));
    let took = start.elapsed();
    println!("{count} operations in {took:?}");
    assert!(took.as_secs() < 60, "{count} operations took {took:?}");
}
