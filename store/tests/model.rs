//! Whatever is done to it and however often it is opened again, an embedded store holds what the model holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use store::{
    Backend, Compare, CompareTarget, Embedded, Error, Event, Memory, Op, Options, Range, Relation, Txn, WatchFrom,
};

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Grant,
    GrantAs(i64),
    /// Of the leases granted so far, this one (modulo their number).
    Revoke(usize),
    /// To this share of the revisions, in percent.
    Compact(u64),
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    (0..12_u8).prop_map(|i| Bytes::from(format!("k{i:02}")))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), 0..400_usize, 0..4_i64).prop_map(|(key, size, lease)| {
            Op::Put { key, value: vec![b'v'; size].into(), lease: if lease < 2 { 0 } else { lease - 1 } }
        }),
        2 => key().prop_map(|start| Op::Delete { start, end: Bytes::new() }),
        1 => (key(), key()).prop_map(|(start, end)| Op::Delete { start, end }),
        1 => Just(Op::Range(Range::prefix("k"))),
        1 => (key(), prop::option::of(0..400_usize), prop::option::of(0..3_i64)).prop_map(|(key, size, lease)| {
            Op::Update { key, value: size.map(|size| vec![b'u'; size].into()), lease }
        }),
    ]
}

fn relation() -> impl Strategy<Value = Relation> {
    prop_oneof![Just(Relation::Equal), Just(Relation::NotEqual), Just(Relation::Less), Just(Relation::Greater)]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..20_u64).prop_map(CompareTarget::ModRevision),
        (0..20_u64).prop_map(CompareTarget::CreateRevision),
        (0..3_u64).prop_map(CompareTarget::Version),
        (0..3_i64).prop_map(CompareTarget::Lease),
        (0..400_usize).prop_map(|size| CompareTarget::Value(vec![b'v'; size].into())),
    ];
    let end = prop_oneof![2 => Just(Bytes::new()), 1 => key()];
    (key(), end, relation(), target).prop_map(|(start, end, relation, target)| Compare { start, end, target, relation })
}

fn txn() -> impl Strategy<Value = Txn> {
    prop_oneof![
        4 => flat(),
        1 => (flat(), flat()).prop_map(|(mut outer, inner)| {
            outer.success.push(Op::Txn(inner));
            outer
        }),
    ]
}

fn flat() -> impl Strategy<Value = Txn> {
    (prop::collection::vec(compare(), 0..2), prop::collection::vec(op(), 1..4), prop::collection::vec(op(), 0..2))
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => txn().prop_map(Step::Txn),
        2 => Just(Step::Grant),
        1 => (0..6_i64).prop_map(Step::GrantAs),
        1 => (0..4_usize).prop_map(Step::Revoke),
        1 => (0..120_u64).prop_map(Step::Compact),
        2 => Just(Step::Reopen),
    ]
}

/// Everything that can be seen of a store.
async fn seen(store: &dyn Backend) -> String {
    let mut seen = String::new();
    let status = store.status().await.unwrap();
    seen += &format!("{} {} {}\n", status.revision, status.compacted, status.live_bytes);
    // Which ends next is a matter of milliseconds between the two.
    let mut leases = store.leases().await.unwrap();
    leases.sort_unstable();
    seen += &format!("{leases:?} {:?}\n", store.hash(0).await.unwrap());
    for revision in status.compacted..=status.revision {
        let reply = store.range(Range { revision, ..Range::prefix("k") }).await;
        seen += &format!("{revision} {reply:?}\n");
    }
    let from = WatchFrom::Revision(status.compacted);
    let mut stream = store.watch("k".into(), "l".into(), from).await.unwrap();
    let mut reached = 0;
    while reached < status.revision {
        let batch = stream.next().await.unwrap().unwrap();
        reached = batch.revision;
        for event in batch.events {
            seen += &match event {
                Event::Put { entry, prev } => format!("+ {entry:?} {prev:?}\n"),
                Event::Delete { key, revision, prev } => format!("- {key:?} {revision} {prev:?}\n"),
            };
        }
    }
    seen
}

fn told<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

async fn act(store: &dyn Backend, step: &Step) -> String {
    match step {
        Step::Txn(txn) => told(store.txn(txn.clone()).await),
        Step::Grant => told(store.grant(3600).await),
        Step::GrantAs(id) => told(store.grant_as(*id, 3600).await),
        Step::Revoke(lease) => told(store.revoke(i64::try_from(*lease).unwrap()).await),
        Step::Compact(share) => {
            let revision = store.status().await.unwrap().revision * share / 100;
            told(store.compact(revision).await)
        }
        Step::Reopen => String::new(),
    }
}

async fn compared(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { sync: false, segment_bytes: 4 << 10, snapshot_bytes: 2 << 10, ..Options::default() };
    let (model, mut store) = (Memory::new(), Embedded::open(dir.path(), options()).unwrap());
    for step in steps {
        if let Step::Reopen = step {
            store.close().await;
            store = Embedded::open(dir.path(), options()).unwrap();
            assert_eq!(seen(&store).await, seen(&model).await);
        }
        assert_eq!(act(&store, &step).await, act(&model, &step).await, "{step:?}");
    }
    store.close().await;
    let store = Embedded::open(dir.path(), options()).unwrap();
    assert_eq!(seen(&store).await, seen(&model).await);
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn embedded_is_what_the_model_is(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compared(steps));
    }
}
