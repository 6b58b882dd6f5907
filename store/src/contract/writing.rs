//! Promises about transactions.

use super::*;
use crate::backend::{MAX_KEY, MAX_TXN_OPS, MAX_VALUE};

pub(super) async fn a_put_tells_what_it_replaced(store: Store) {
    let first = commit(&store, vec![put_op("replaced/a", "1")]).await;
    assert!(matches!(first.results[..], [OpResult::Put(None)]), "{:?}", first.results);
    let second = commit(&store, vec![put_op("replaced/a", "2")]).await;
    let [OpResult::Put(Some(prev))] = &second.results[..] else { panic!("{:?}", second.results) };
    assert_eq!((text(&prev.value), prev.mod_revision, prev.version), ("1".to_owned(), first.revision, 1));
    let now = get(&store, "replaced/a").await.expect("it is there");
    assert_eq!(now.value, "2");
    assert_eq!((now.create_revision, now.mod_revision, now.version), (first.revision, second.revision, 2));
}

pub(super) async fn one_revision_per_transaction_that_changes_something(store: Store) {
    let before = put(&store, "once/a", "1").await;
    let many = commit(&store, vec![put_op("once/a", "2"), put_op("once/b", "2"), delete_op("once/none")]).await;
    assert_eq!(many.revision, before + 1);
    assert_eq!(get(&store, "once/b").await.map(|entry| entry.mod_revision), Some(before + 1));
    let nothing = commit(&store, vec![delete_op("once/none")]).await;
    assert_eq!(nothing.revision, before + 1, "a delete of nothing changes nothing");
    assert_eq!(store.status().await.expect("status").revision, before + 1);
}

pub(super) async fn every_compare_target_is_compared(store: Store) {
    let created = put(&store, "compare/a", "1").await;
    let modified = put(&store, "compare/a", "2").await;
    let cases = [
        ("compare/a", CompareTarget::ModRevision(modified), true),
        ("compare/a", CompareTarget::ModRevision(created), false),
        ("compare/a", CompareTarget::ModRevision(0), false),
        ("compare/none", CompareTarget::ModRevision(0), true),
        ("compare/a", CompareTarget::CreateRevision(created), true),
        ("compare/a", CompareTarget::CreateRevision(modified), false),
        ("compare/none", CompareTarget::CreateRevision(0), true),
        ("compare/a", CompareTarget::Version(2), true),
        ("compare/a", CompareTarget::Version(1), false),
        ("compare/none", CompareTarget::Version(0), true),
        ("compare/a", CompareTarget::Value(Bytes::from_static(b"2")), true),
        ("compare/a", CompareTarget::Value(Bytes::from_static(b"1")), false),
        ("compare/none", CompareTarget::Value(Bytes::new()), false),
        ("compare/a", CompareTarget::ModRevisionLess(modified + 1), true),
        ("compare/a", CompareTarget::ModRevisionLess(modified), false),
        ("compare/none", CompareTarget::ModRevisionLess(1), true),
        ("compare/a", CompareTarget::ModRevisionGreater(modified - 1), true),
        ("compare/a", CompareTarget::ModRevisionGreater(modified), false),
        ("compare/none", CompareTarget::ModRevisionGreater(0), false),
    ];
    for (key, target, holds) in cases {
        let txn = Txn { compare: vec![compare(key, target.clone())], ..Txn::default() };
        assert_eq!(store.txn(txn).await.expect("a compare").succeeded, holds, "{key} {target:?}");
    }
}

pub(super) async fn a_conflict_takes_the_other_branch_and_writes_nothing(store: Store) {
    let revision = put(&store, "conflict/a", "1").await;
    let txn = Txn {
        compare: vec![
            compare("conflict/a", CompareTarget::ModRevision(revision)),
            compare("conflict/b", CompareTarget::ModRevisionGreater(0)),
        ],
        success: vec![put_op("conflict/a", "2")],
        failure: vec![Op::Range(Range::key("conflict/a"))],
    };
    let reply = store.txn(txn).await.expect("a conflict is not an error");
    assert!(!reply.succeeded, "all compares must hold, not one");
    let [OpResult::Range(found)] = &reply.results[..] else { panic!("{:?}", reply.results) };
    assert_eq!(found.entries[0].value, "1");
    assert_eq!(reply.revision, revision, "a read makes no revision");
}

pub(super) async fn a_deleted_range_is_returned(store: Store) {
    commit(&store, ["a", "b", "c", "d"].map(|key| put_op(&format!("range/{key}"), key)).to_vec()).await;
    let middle = Op::Delete { start: Bytes::from_static(b"range/b"), end: Bytes::from_static(b"range/d") };
    let reply = commit(&store, vec![middle]).await;
    assert_eq!(deleted(&reply.results[0]), ["range/b", "range/c"]);
    let left: Vec<_> = keys_at(&store, "range/", 0).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["range/a", "range/d"]);
    let reply = commit(&store, vec![delete_op("range/a"), delete_op("range/d")]).await;
    assert_eq!((deleted(&reply.results[0]).len(), deleted(&reply.results[1]).len()), (1, 1));
}

pub(super) async fn a_key_that_comes_back_starts_anew(store: Store) {
    put(&store, "anew/a", "1").await;
    put(&store, "anew/a", "2").await;
    commit(&store, vec![delete_op("anew/a")]).await;
    assert_eq!(get(&store, "anew/a").await, None);
    let revision = put(&store, "anew/a", "3").await;
    let entry = get(&store, "anew/a").await.expect("it is there");
    assert_eq!((entry.version, entry.create_revision, entry.mod_revision), (1, revision, revision));
}

pub(super) async fn limits_are_refused_and_nothing_is_written(store: Store) {
    let before = put(&store, "limits/a", "1").await;
    let large = Bytes::from(vec![b'x'; MAX_VALUE + 1]);
    let half = large.slice(..MAX_VALUE / 2 + 1);
    let op = |key: &str, value: &Bytes| Op::Put { key: Bytes::from(key.to_owned()), value: value.clone(), lease: 0 };
    let many: Vec<_> = (0..=MAX_TXN_OPS).map(|i| put_op(&format!("limits/{i}"), "x")).collect();
    for success in [
        vec![op("limits/b", &large)],
        vec![op("limits/b", &half), op("limits/c", &half)],
        vec![put_op(&"k".repeat(MAX_KEY + 1), "x")],
        many,
    ] {
        let error = store.txn(Txn { success, ..Txn::default() }).await.expect_err("it is too large");
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    let error = store.txn(Txn { success: vec![put_op("", "x")], ..Txn::default() }).await.expect_err("no key");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(store.status().await.expect("status").revision, before);

    let allowed: Vec<_> = (0..MAX_TXN_OPS).map(|i| put_op(&format!("limits/{i}"), "x")).collect();
    assert_eq!(commit(&store, allowed).await.revision, before + 1);
    commit(&store, vec![op("limits/b", &large.slice(..1 << 20))]).await;
    assert_eq!(get(&store, "limits/b").await.map(|entry| entry.value.len()), Some(1 << 20));
}

pub(super) async fn no_key_is_written_twice_in_one_transaction(store: Store) {
    let before = put(&store, "twice/a", "1").await;
    let prefix = Op::Delete { start: Bytes::from_static(b"twice/"), end: Bytes::from_static(b"twice0") };
    for success in [
        vec![put_op("twice/a", "2"), put_op("twice/a", "3")],
        vec![put_op("twice/a", "2"), delete_op("twice/a")],
        vec![prefix, put_op("twice/a", "2")],
    ] {
        let error = store.txn(Txn { success, ..Txn::default() }).await.expect_err("twice");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert_eq!(store.status().await.expect("status").revision, before);
    let again = commit(&store, vec![delete_op("twice/a"), delete_op("twice/a")]).await;
    assert_eq!(deleted(&again.results[1]), Vec::<String>::new(), "the second delete finds nothing");
}
