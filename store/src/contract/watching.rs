//! Promises about watches.

use super::*;

fn all_told(events: &[Event]) -> Vec<String> {
    events.iter().map(told).collect()
}

pub(super) async fn from_now_means_after_now(store: Store) {
    put(&store, "now/a", "before").await;
    let mut stream = watch(&store, "now/", WatchFrom::Now).await;
    put(&store, "now/a", "after").await;
    assert_eq!(all_told(&next_events(&mut stream, 1).await), ["+now/a=after<before"]);
    put(&store, "now/b", "later").await;
    assert_eq!(all_told(&next_events(&mut stream, 1).await), ["+now/b=later"]);
}

pub(super) async fn from_the_past_repeats_the_past(store: Store) {
    put(&store, "again/a", "0").await;
    let start = put(&store, "again/a", "1").await;
    for i in 2..6 {
        put(&store, "again/a", &i.to_string()).await;
    }
    let mut stream = watch(&store, "again/", WatchFrom::Revision(start)).await;
    let want = ["+again/a=1<0", "+again/a=2<1", "+again/a=3<2", "+again/a=4<3", "+again/a=5<4"];
    assert_eq!(all_told(&next_events(&mut stream, 5).await), want);
    commit(&store, vec![delete_op("again/a")]).await;
    assert_eq!(all_told(&next_events(&mut stream, 1).await), ["-again/a<5"]);
}

pub(super) async fn events_know_what_was_before(store: Store) {
    let mut stream = watch(&store, "prev/", WatchFrom::Now).await;
    let created = put(&store, "prev/a", "1").await;
    let modified = put(&store, "prev/a", "2").await;
    let removed = commit(&store, vec![delete_op("prev/a")]).await.revision;
    let events = next_events(&mut stream, 3).await;
    assert_eq!(all_told(&events), ["+prev/a=1", "+prev/a=2<1", "-prev/a<2"]);
    let revisions: Vec<_> = events.iter().map(revision_of).collect();
    assert_eq!(revisions, [created, modified, removed]);
    let Event::Put { entry, prev: Some(prev) } = &events[1] else { panic!("{:?}", events[1]) };
    assert_eq!((entry.create_revision, entry.version, prev.version), (created, 2, 1));
}

pub(super) async fn only_the_range_is_heard(store: Store) {
    let mut one = store.watch("ours/b".into(), Bytes::new(), WatchFrom::Now).await.expect("a watch of one key");
    let mut some = store.watch("ours/b".into(), "ours/d".into(), WatchFrom::Now).await.expect("a watch of a range");
    for key in ["ours/a", "ours/b", "ours/bb", "ours/c", "ours/d", "ours/b"] {
        put(&store, key, "").await;
    }
    assert_eq!(all_told(&next_events(&mut one, 2).await), ["+ours/b=", "+ours/b=<"]);
    assert_eq!(all_told(&next_events(&mut some, 4).await), ["+ours/b=", "+ours/bb=", "+ours/c=", "+ours/b=<"]);
}

pub(super) async fn a_transaction_is_never_split(store: Store) {
    let mut live = watch(&store, "whole/", WatchFrom::Now).await;
    let first = put(&store, "whole/x", "").await;
    for round in 0..20 {
        let ops = (0..50).map(|i| put_op(&format!("whole/{i}"), &round.to_string())).collect();
        commit(&store, ops).await;
    }
    let mut replay = watch(&store, "whole/", WatchFrom::Revision(first + 1)).await;
    for stream in [&mut live, &mut replay] {
        let mut seen = 0;
        while seen < 1_000 {
            let batch = next_batch(stream).await.expect("it goes on").expect("it does not fail");
            let ours: Vec<_> = batch.events.iter().filter(|event| revision_of(event) > first).collect();
            assert_eq!(ours.len() % 50, 0, "a batch ends inside a revision");
            seen += ours.len();
        }
    }
}

pub(super) async fn a_revision_to_come_is_waited_for(store: Store) {
    let now = put(&store, "tocome/a", "0").await;
    let mut stream = watch(&store, "tocome/", WatchFrom::Revision(now + 3)).await;
    for i in 1..5 {
        put(&store, "tocome/a", &i.to_string()).await;
    }
    let events = next_events(&mut stream, 2).await;
    assert_eq!(all_told(&events), ["+tocome/a=3<2", "+tocome/a=4<3"]);
}

pub(super) async fn what_is_compacted_cannot_be_watched(store: Store) {
    let one = put(&store, "gone/a", "1").await;
    put(&store, "gone/a", "2").await;
    let three = put(&store, "gone/a", "3").await;
    store.compact(three).await.expect("it can be compacted");
    let opened = store.watch("gone/".into(), "gone0".into(), WatchFrom::Revision(one)).await;
    // A backend may find out at once or with the first batch.
    let error = match opened {
        Err(error) => error,
        Ok(mut stream) => next_batch(&mut stream).await.expect("it says why").expect_err("it is gone"),
    };
    assert!(matches!(error, Error::Compacted { asked, oldest } if asked == one && oldest >= three), "{error}");

    let mut stream = watch(&store, "gone/", WatchFrom::Revision(three + 1)).await;
    put(&store, "gone/a", "4").await;
    assert_eq!(all_told(&next_events(&mut stream, 1).await), ["+gone/a=4<3"]);
}

pub(super) async fn the_compacted_revision_itself_can_be_watched(store: Store) {
    put(&store, "edge/a", "1").await;
    let two = put(&store, "edge/a", "2").await;
    put(&store, "edge/a", "3").await;
    store.compact(two).await.expect("it can be compacted");
    let mut stream = watch(&store, "edge/", WatchFrom::Revision(two)).await;
    let events = next_events(&mut stream, 2).await;
    // Of what was before the compaction a backend may know nothing any more.
    let values: Vec<_> =
        events.iter().map(|event| told(event).split('<').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(values, ["+edge/a=2", "+edge/a=3"]);
    assert!(events.iter().map(revision_of).eq([two, two + 1]));
}
