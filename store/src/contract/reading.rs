//! Promises about ranges and compaction.

use super::*;

pub(super) async fn ranges_have_etcd_bounds(store: Store) {
    commit(&store, ["a", "aa", "ab", "b"].map(|key| put_op(&format!("bounds/{key}"), "")).to_vec()).await;
    let cases: [(&str, &str, &[&str]); 7] = [
        ("bounds/a", "", &["bounds/a"]),
        ("bounds/x", "", &[]),
        ("bounds/a", "bounds/b", &["bounds/a", "bounds/aa", "bounds/ab"]),
        ("bounds/aa", "bounds/aa", &[]),
        ("bounds/b", "bounds/a", &[]),
        ("bounds/ab", "bounds/b\0", &["bounds/ab", "bounds/b"]),
        ("bounds/", "bounds0", &["bounds/a", "bounds/aa", "bounds/ab", "bounds/b"]),
    ];
    for (start, end, want) in cases {
        let range = Range { start: start.into(), end: end.into(), ..Range::default() };
        let reply = store.range(range).await.expect("a range");
        let keys: Vec<_> = reply.entries.iter().map(|entry| text(&entry.key)).collect();
        assert_eq!(
            (keys.as_slice(), reply.count),
            (&want.iter().map(ToString::to_string).collect::<Vec<_>>()[..], want.len() as u64),
            "{start:?}..{end:?}"
        );
    }
    let all = Range { start: "bounds/b".into(), end: Bytes::from_static(&[0]), ..Range::default() };
    let reply = store.range(all).await.expect("everything after");
    assert_eq!(text(&reply.entries[0].key), "bounds/b");
}

pub(super) async fn limits_count_and_say_that_there_is_more(store: Store) {
    let keys: Vec<_> = (0..10).map(|i| put_op(&format!("pages/{i}"), "")).collect();
    let revision = commit(&store, keys).await.revision;
    let read = async |limit, count_only| {
        let range = Range { limit, count_only, ..Range::prefix("pages/") };
        store.range(range).await.expect("a page")
    };
    let page = read(3, false).await;
    assert_eq!((page.entries.len(), page.count, page.more, page.revision), (3, 3, true, revision));
    let all = read(10, false).await;
    assert_eq!((all.entries.len(), all.count, all.more), (10, 10, false));
    let count = read(0, true).await;
    assert_eq!((count.entries.len(), count.count), (0, 10));

    // The rest of a list is read at the revision of its first page, whatever happens meanwhile.
    commit(&store, vec![delete_op("pages/7"), put_op("pages/99", "new")]).await;
    let rest = Range { start: "pages/3".into(), limit: 0, revision, ..Range::prefix("pages/") };
    let rest = store.range(rest).await.expect("the rest");
    let keys: Vec<_> = rest.entries.iter().map(|entry| text(&entry.key)).collect();
    assert_eq!(keys, ["pages/3", "pages/4", "pages/5", "pages/6", "pages/7", "pages/8", "pages/9"]);
    assert_eq!(rest.revision, revision + 1, "the reply tells the newest revision");
}

pub(super) async fn the_past_is_read_as_it_was(store: Store) {
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (format!("past/{key}"), (*value).to_owned())).collect()
    };
    let one = put(&store, "past/a", "1").await;
    let two = commit(&store, vec![put_op("past/b", "1"), put_op("past/a", "2")]).await.revision;
    let three = commit(&store, vec![delete_op("past/a")]).await.revision;
    let four = commit(&store, vec![put_op("past/a", "4"), put_op("past/0", "4")]).await.revision;
    assert_eq!(keys_at(&store, "past/", one).await, pairs(&[("a", "1")]));
    assert_eq!(keys_at(&store, "past/", two).await, pairs(&[("a", "2"), ("b", "1")]));
    assert_eq!(keys_at(&store, "past/", three).await, pairs(&[("b", "1")]));
    assert_eq!(keys_at(&store, "past/", four).await, pairs(&[("0", "4"), ("a", "4"), ("b", "1")]));
    assert_eq!(keys_at(&store, "past/", 0).await, keys_at(&store, "past/", four).await);
    let single = Range { revision: two, ..Range::key("past/a") };
    let single = store.range(single).await.expect("one key in the past");
    assert_eq!((single.count, text(&single.entries[0].value), single.entries[0].version), (1, "2".to_owned(), 2));
}

pub(super) async fn the_future_is_refused(store: Store) {
    let now = put(&store, "future/a", "1").await;
    let error = store.range(Range { revision: now + 1, ..Range::key("future/a") }).await.expect_err("not yet");
    assert!(matches!(error, Error::Future { asked, .. } if asked == now + 1), "{error}");
    let error = store.compact(now + 1).await.expect_err("not yet");
    assert!(matches!(error, Error::Future { .. }), "{error}");
}

pub(super) async fn a_read_in_a_transaction_sees_its_writes(store: Store) {
    put(&store, "inside/a", "1").await;
    let ops = vec![put_op("inside/a", "2"), delete_op("inside/b"), Op::Range(Range::prefix("inside/"))];
    let reply = commit(&store, ops).await;
    let OpResult::Range(found) = &reply.results[2] else { panic!("{:?}", reply.results) };
    assert_eq!((found.count, text(&found.entries[0].value)), (1, "2".to_owned()));
    assert_eq!(found.entries[0].mod_revision, reply.revision);
}

pub(super) async fn what_is_compacted_cannot_be_read(store: Store) {
    let one = put(&store, "compact/a", "1").await;
    let two = put(&store, "compact/a", "2").await;
    let three = put(&store, "compact/a", "3").await;
    store.compact(two).await.expect("it can be compacted");
    let error = store.range(Range { revision: one, ..Range::key("compact/a") }).await.expect_err("it is gone");
    assert!(matches!(error, Error::Compacted { asked, oldest } if asked == one && oldest == two), "{error}");
    assert_eq!(keys_at(&store, "compact/", two).await, [("compact/a".to_owned(), "2".to_owned())]);
    assert_eq!(keys_at(&store, "compact/", three).await, [("compact/a".to_owned(), "3".to_owned())]);
    let error = store.compact(two).await.expect_err("it is gone already");
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    assert_eq!(store.status().await.expect("status").compacted, two);
}

pub(super) async fn all_can_be_counted_beyond_a_limit(store: Store) {
    let revision = commit(&store, (0..10).map(|i| put_op(&format!("counted/{i}"), "")).collect()).await.revision;
    commit(&store, vec![delete_op("counted/9")]).await;
    let read = async |limit, revision| {
        let range = Range { limit, revision, count_all: true, ..Range::prefix("counted/") };
        let reply = store.range(range).await.expect("a page");
        (reply.entries.len(), reply.count, reply.more)
    };
    assert_eq!(read(3, 0).await, (3, 9, true));
    assert_eq!(read(9, 0).await, (9, 9, false));
    assert_eq!(read(0, 0).await, (9, 9, false));
    assert_eq!(read(3, revision).await, (3, 10, true));
    let serializable = Range { serializable: true, ..Range::prefix("counted/") };
    assert_eq!(store.range(serializable).await.expect("a range").count, 9, "one member knows it all");
}

pub(super) async fn a_transaction_that_only_reads_compares(store: Store) {
    let revision = put(&store, "readonly/a", "1").await;
    let txn = |value: &str| Txn {
        compare: vec![compare("readonly/a", CompareTarget::Value(value.to_owned().into()))],
        success: vec![Op::Range(Range::key("readonly/a"))],
        failure: vec![Op::Txn(Txn { success: vec![Op::Range(Range::prefix("readonly/x"))], ..Txn::default() })],
    };
    let reply = store.txn(txn("1")).await.expect("a transaction");
    let [OpResult::Range(found)] = &reply.results[..] else { panic!("{:?}", reply.results) };
    assert_eq!((reply.succeeded, reply.revision, found.count), (true, revision, 1));
    let reply = store.txn(txn("2")).await.expect("a transaction");
    let [OpResult::Txn(inner)] = &reply.results[..] else { panic!("{:?}", reply.results) };
    assert!(!reply.succeeded && inner.succeeded);
    let future = Op::Range(Range { revision: revision + 1, ..Range::key("readonly/a") });
    let error = store.txn(Txn { success: vec![future], ..Txn::default() }).await.expect_err("not yet");
    assert!(matches!(error, Error::Future { .. }), "{error}");
}

pub(super) async fn a_read_of_a_revision_in_a_transaction_sees_none_of_its_writes(store: Store) {
    let before = commit(&store, vec![put_op("frozen/a", "1"), put_op("frozen/b", "1")]).await.revision;
    let then = || Op::Range(Range { revision: before, ..Range::prefix("frozen/") });
    let reply =
        commit(&store, vec![put_op("frozen/a", "2"), delete_op("frozen/b"), put_op("frozen/c", "2"), then()]).await;
    let OpResult::Range(found) = &reply.results[3] else { panic!("{:?}", reply.results) };
    let found: Vec<_> = found.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect();
    assert_eq!(found, keys_at(&store, "frozen/", before).await);
    assert_eq!(found.len(), 2);
}

pub(super) async fn a_hash_changes_with_what_is_held(store: Store) {
    let one = put(&store, "hash/a", "1").await;
    let first = store.hash(0).await.expect("a hash");
    assert_eq!((first.revision, first.newest), (one, one));
    assert_eq!(store.hash(0).await.expect("a hash").hash, first.hash, "nothing has changed");
    put(&store, "hash/a", "2").await;
    assert_ne!(store.hash(0).await.expect("a hash").hash, first.hash);
    assert_eq!(store.hash(one).await.expect("a hash").hash, first.hash, "as it was");
    assert!(matches!(store.hash(one + 100).await, Err(Error::Future { .. })));
}

/// Whatever was done before on this store: the revision before its first write can be named, and nothing was there.
pub(super) async fn a_store_begins_at_revision_one(store: Store) {
    let status = store.status().await.expect("status");
    assert!(status.revision >= 1, "0 means the newest to its readers: {status:?}");
    if status.compacted <= 1 {
        let everything = Range { end: Bytes::from_static(&[0]), revision: 1, ..Range::default() };
        assert_eq!(store.range(everything).await.expect("the beginning").count, 0);
        let mut stream =
            store.watch(Bytes::new(), Bytes::from_static(&[0]), WatchFrom::Revision(1)).await.expect("all");
        let events = next_batch(&mut stream).await.expect("it goes on").expect("it does not fail").events;
        assert_eq!(events.first().map(revision_of), Some(2), "the first write is the second revision");
    }
}
