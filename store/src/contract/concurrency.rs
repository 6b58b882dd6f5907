//! Promises under concurrent callers.

use std::collections::BTreeMap;

use super::*;

const WRITERS: usize = 8;
const ROUNDS: usize = 40;

/// Runs `body` for each writer at once, and waits for all.
async fn at_once<F: Future<Output = ()> + Send + 'static>(body: impl Fn(usize) -> F) {
    let tasks: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(body(writer))).collect();
    for task in tasks {
        task.await.expect("a writer does not panic");
    }
}

async fn increment(store: &Store, key: &str) -> u64 {
    loop {
        let entry = get(store, key).await;
        let (revision, value) =
            entry.map_or((0, 0), |e| (e.mod_revision, text(&e.value).parse::<u64>().expect("a number")));
        let txn = Txn {
            compare: vec![compare(key, CompareTarget::ModRevision(revision))],
            success: vec![put_op(key, &(value + 1).to_string())],
            failure: vec![],
        };
        if store.txn(txn).await.expect("a transaction").succeeded {
            return value + 1;
        }
    }
}

pub(super) async fn concurrent_increments_are_all_counted(store: Store) {
    let got = Arc::new(parking_lot::Mutex::new(Vec::new()));
    at_once(|_| {
        let (store, got) = (store.clone(), got.clone());
        async move {
            for _ in 0..ROUNDS {
                let value = increment(&store, "count/a").await;
                got.lock().push(value);
            }
        }
    })
    .await;
    let mut got = std::mem::take(&mut *got.lock());
    got.sort_unstable();
    assert_eq!(got, (1..=(WRITERS * ROUNDS) as u64).collect::<Vec<_>>(), "each number was reached exactly once");
}

pub(super) async fn watchers_see_every_write_once_and_in_order(store: Store) {
    let live = watch(&store, "order/", WatchFrom::Now).await;
    let start = store.status().await.expect("status").revision + 1;
    let written = Arc::new(parking_lot::Mutex::new(BTreeMap::new()));
    let writing = {
        let (store, written) = (store.clone(), written.clone());
        tokio::spawn(async move {
            at_once(|writer| {
                let (store, written) = (store.clone(), written.clone());
                async move {
                    for round in 0..ROUNDS {
                        let (key, value) = (format!("order/{}", (writer + round) % 5), format!("{writer}.{round}"));
                        let revision = put(&store, &key, &value).await;
                        let twice = written.lock().insert(revision, (key, value));
                        assert_eq!(twice, None, "revision {revision} was given twice");
                    }
                }
            })
            .await;
        })
    };
    // One watch opened before, some amid the writes from the same start: all must tell the same story.
    let mut streams = vec![live];
    for _ in 0..3 {
        streams.push(watch(&store, "order/", WatchFrom::Revision(start)).await);
        put(&store, "elsewhere", "x").await;
    }
    let mut stories = Vec::new();
    for stream in &mut streams {
        stories.push(next_events(stream, WRITERS * ROUNDS).await);
    }
    writing.await.expect("the writers do not panic");
    let written = std::mem::take(&mut *written.lock());
    for story in stories {
        let seen: Vec<_> = story
            .iter()
            .map(|event| match event {
                Event::Put { entry, .. } => (entry.mod_revision, (text(&entry.key), text(&entry.value))),
                Event::Delete { .. } => panic!("nothing was deleted"),
            })
            .collect();
        assert_eq!(seen, written.clone().into_iter().collect::<Vec<_>>());
    }
}

pub(super) async fn a_write_is_seen_by_every_later_read(store: Store) {
    at_once(|writer| {
        let store = store.clone();
        async move {
            for round in 0..ROUNDS {
                let key = format!("later/{writer}");
                let revision = put(&store, &key, &round.to_string()).await;
                let entry = get(&store, &key).await.expect("it was written");
                assert_eq!((text(&entry.value), entry.mod_revision), (round.to_string(), revision));
                assert!(store.status().await.expect("status").revision >= revision);
            }
        }
    })
    .await;
}
