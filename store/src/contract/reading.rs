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
    let error = store.compact(one).await.expect_err("it is gone already");
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
    assert_eq!(store.status().await.expect("status").compacted, two);
}
