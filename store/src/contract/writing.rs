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
        ("compare/a", CompareTarget::Lease(0), true),
        ("compare/a", CompareTarget::Lease(1), false),
        ("compare/none", CompareTarget::Lease(0), true),
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
            Compare::key("conflict/b", Relation::Greater, CompareTarget::ModRevision(0)),
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

pub(super) async fn relations_are_those_of_numbers_and_bytes(store: Store) {
    put(&store, "relation/a", "b").await;
    let modified = put(&store, "relation/a", "m").await;
    let lease = store.grant(600).await.expect("a lease");
    put_leased(&store, "relation/leased", lease).await.expect("a leased put");
    // What the key has stands to these as less, equal and greater.
    let cases = [
        ("relation/a", [modified + 1, modified, modified - 1].map(CompareTarget::ModRevision)),
        ("relation/a", [3, 2, 1].map(CompareTarget::Version)),
        ("relation/a", ["mm", "m", "lz"].map(|value| CompareTarget::Value(value.into()))),
        ("relation/leased", [lease + 1, lease, lease - 1].map(CompareTarget::Lease)),
    ];
    let relations = [
        (Relation::Less, [true, false, false]),
        (Relation::Equal, [false, true, false]),
        (Relation::Greater, [false, false, true]),
        (Relation::NotEqual, [true, false, true]),
    ];
    for (key, targets) in cases {
        for (relation, holds) in relations {
            for (target, holds) in targets.clone().into_iter().zip(holds) {
                let compare = vec![Compare::key(key, relation, target.clone())];
                let reply = store.txn(Txn { compare, ..Txn::default() }).await.expect("a compare");
                assert_eq!(reply.succeeded, holds, "{key} {relation:?} {target:?}");
            }
        }
    }
    let absent = [(Relation::Less, 1, true), (Relation::Greater, 0, false), (Relation::NotEqual, 0, false)];
    for (relation, number, holds) in absent {
        let compare = vec![Compare::key("relation/none", relation, CompareTarget::ModRevision(number))];
        assert_eq!(store.txn(Txn { compare, ..Txn::default() }).await.expect("a compare").succeeded, holds);
    }
    let compare = vec![Compare::key("relation/none", Relation::NotEqual, CompareTarget::Value("x".into()))];
    let reply = store.txn(Txn { compare, ..Txn::default() }).await.expect("a compare");
    assert!(!reply.succeeded, "no comparison of a value that does not exist holds");
    store.revoke(lease).await.expect("it can be revoked");
}

pub(super) async fn a_range_is_compared_key_by_key(store: Store) {
    let revision =
        commit(&store, vec![put_op("each/a", "1"), put_op("each/b", "1"), put_op("each/c", "2")]).await.revision;
    let holds = async |start: &str, end: &str, relation, target| {
        let compare = vec![Compare { start: start.to_owned().into(), end: end.to_owned().into(), target, relation }];
        store.txn(Txn { compare, ..Txn::default() }).await.expect("a compare").succeeded
    };
    assert!(holds("each/a", "each/c", Relation::Equal, CompareTarget::Value("1".into())).await);
    assert!(!holds("each/a", "each/d", Relation::Equal, CompareTarget::Value("1".into())).await, "c has another");
    assert!(holds("each/", "each0", Relation::Less, CompareTarget::ModRevision(revision + 1)).await);
    assert!(!holds("each/", "each0", Relation::Less, CompareTarget::ModRevision(revision)).await);
    assert!(holds("each/x", "each/z", Relation::Equal, CompareTarget::ModRevision(0)).await, "nothing is there");
    assert!(!holds("each/x", "each/z", Relation::Equal, CompareTarget::Value(Bytes::new())).await);
}

fn update(key: &str, value: Option<&str>, lease: Option<LeaseId>) -> Op {
    Op::Update { key: key.to_owned().into(), value: value.map(|value| value.to_owned().into()), lease }
}

pub(super) async fn an_update_keeps_what_it_is_not_given(store: Store) {
    let lease = store.grant(600).await.expect("a lease");
    let created = put_leased(&store, "update/a", lease).await.expect("a leased put").revision;
    let reply = commit(&store, vec![update("update/a", Some("new"), None)]).await;
    let [OpResult::Put(Some(prev))] = &reply.results[..] else { panic!("{:?}", reply.results) };
    assert_eq!(text(&prev.value), "v");
    let entry = get(&store, "update/a").await.expect("it is there");
    assert_eq!((text(&entry.value), entry.lease, entry.version), ("new".to_owned(), lease, 2));
    commit(&store, vec![update("update/a", None, Some(0))]).await;
    commit(&store, vec![update("update/a", None, None)]).await;
    let entry = get(&store, "update/a").await.expect("it is there");
    assert_eq!((text(&entry.value), entry.lease, entry.version), ("new".to_owned(), 0, 4));
    assert_eq!(entry.create_revision, created);
    store.revoke(lease).await.expect("it can be revoked");
    assert!(get(&store, "update/a").await.is_some(), "it has left its lease");

    let before = store.status().await.expect("status").revision;
    let success = vec![put_op("update/b", "x"), update("update/none", Some("x"), None)];
    let error = store.txn(Txn { success, ..Txn::default() }).await.expect_err("there is no such key");
    assert!(matches!(error, Error::KeyNotFound), "{error}");
    assert_eq!(store.status().await.expect("status").revision, before);
}

pub(super) async fn what_is_inside_is_compared_before_anything_is_written(store: Store) {
    let before = put(&store, "inner/a", "1").await;
    let inner = |value: &str, success, failure| {
        let value = CompareTarget::Value(value.to_owned().into());
        Op::Txn(Txn { compare: vec![compare("inner/a", value)], success, failure })
    };
    let innermost = inner("1", vec![put_op("inner/c", "then")], vec![put_op("inner/c", "else")]);
    let success = vec![
        put_op("inner/a", "2"),
        inner("1", vec![put_op("inner/b", "then"), innermost], vec![put_op("inner/b", "else")]),
        inner("2", vec![], vec![Op::Range(Range::prefix("inner/"))]),
    ];
    let reply = commit(&store, success).await;
    assert_eq!(reply.revision, before + 1, "one revision for all");
    let [OpResult::Put(_), OpResult::Txn(second), OpResult::Txn(third)] = &reply.results[..] else {
        panic!("{:?}", reply.results)
    };
    assert!(second.succeeded && !third.succeeded, "compared with what was before");
    let [OpResult::Put(None), OpResult::Txn(innermost)] = &second.results[..] else { panic!("{:?}", second.results) };
    assert!(innermost.succeeded);
    let [OpResult::Range(seen)] = &third.results[..] else { panic!("{:?}", third.results) };
    let seen: Vec<_> = seen.entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect();
    assert_eq!(seen, keys_at(&store, "inner/", 0).await, "a read sees what was done before it");
    assert_eq!(seen.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["2", "then", "then"]);
}

pub(super) async fn no_key_is_written_twice_by_inner_transactions(store: Store) {
    let before = put(&store, "twice/b", "1").await;
    let inner = |success, failure| Op::Txn(Txn { compare: vec![], success, failure });
    let one = || vec![put_op("twice/b", "2")];
    for success in [
        vec![put_op("twice/b", "3"), inner(one(), vec![])],
        vec![inner(vec![], one()), put_op("twice/b", "3")],
        vec![inner(one(), vec![]), inner(one(), vec![])],
        vec![inner(vec![inner(one(), vec![])], vec![]), put_op("twice/b", "3")],
        vec![delete_op("twice/b"), inner(one(), vec![])],
    ] {
        let error = store.txn(Txn { success, ..Txn::default() }).await.expect_err("twice");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert_eq!(store.status().await.expect("status").revision, before);
    let reply = commit(&store, vec![inner(one(), one())]).await;
    assert_eq!(reply.revision, before + 1, "only one of its branches is taken");
}

pub(super) async fn a_refused_step_inside_undoes_all(store: Store) {
    let before = put(&store, "refused/a", "1").await;
    let leased = Op::Put { key: "refused/b".into(), value: "x".into(), lease: 0x7fff_0000_dead_beef };
    let future = Op::Range(Range { revision: before + 100, ..Range::key("refused/a") });
    for bad in [leased, future, update("refused/none", None, None)] {
        let inner = Op::Txn(Txn { success: vec![bad], ..Txn::default() });
        let txn = Txn { success: vec![put_op("refused/a", "2"), inner], ..Txn::default() };
        store.txn(txn).await.expect_err("a step inside is refused");
    }
    assert_eq!(keys_at(&store, "refused/", 0).await, [("refused/a".to_owned(), "1".to_owned())]);
    assert_eq!(store.status().await.expect("status").revision, before);
}
