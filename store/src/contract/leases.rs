//! Promises about leases.

use super::*;

pub(super) async fn keys_die_with_a_revoked_lease(store: Store) {
    let mut stream = watch(&store, "revoked/", WatchFrom::Now).await;
    let lease = store.grant(600).await.expect("a lease");
    assert_ne!(lease, 0);
    for key in ["revoked/a", "revoked/b"] {
        put_leased(&store, key, lease).await.expect("a leased put");
    }
    put(&store, "revoked/c", "stays").await;
    assert_eq!(get(&store, "revoked/a").await.map(|entry| entry.lease), Some(lease));
    let before = store.status().await.expect("status").revision;
    store.revoke(lease).await.expect("it can be revoked");
    let events = next_events(&mut stream, 5).await;
    let mut removed: Vec<_> = events[3..].iter().map(told).collect();
    removed.sort();
    assert_eq!(removed, ["-revoked/a<v", "-revoked/b<v"]);
    assert!(events[3..].iter().all(|event| revision_of(event) == before + 1), "all at one revision");
    assert_eq!(keys_at(&store, "revoked/", 0).await, [("revoked/c".to_owned(), "stays".to_owned())]);
    let error = store.revoke(lease).await.expect_err("it is gone");
    assert!(matches!(error, Error::LeaseNotFound(id) if id == lease), "{error}");
}

pub(super) async fn keys_die_when_time_is_up(store: Store) {
    let mut stream = watch(&store, "timed/", WatchFrom::Now).await;
    let lease = store.grant(1).await.expect("a lease");
    put_leased(&store, "timed/a", lease).await.expect("a leased put");
    let events = next_events(&mut stream, 2).await;
    assert_eq!(told(&events[1]), "-timed/a<v");
    assert_eq!(get(&store, "timed/a").await, None);
}

pub(super) async fn a_lease_kept_alive_lives_on(store: Store) {
    let (kept, left) = (store.grant(2).await.expect("a lease"), store.grant(2).await.expect("a lease"));
    let mut stream = watch(&store, "alive/", WatchFrom::Now).await;
    put_leased(&store, "alive/kept", kept).await.expect("a leased put");
    put_leased(&store, "alive/left", left).await.expect("a leased put");
    next_events(&mut stream, 2).await;
    let keeping = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(300));
            loop {
                every.tick().await;
                assert!(store.keep_alive(kept).await.expect("it lives") >= 2);
            }
        })
    };
    let events = next_events(&mut stream, 1).await;
    assert_eq!(told(&events[0]), "-alive/left<v");
    assert!(get(&store, "alive/kept").await.is_some(), "it was kept alive");
    keeping.abort();
    store.revoke(kept).await.expect("it can be revoked");
}

pub(super) async fn a_key_written_again_without_its_lease_stays(store: Store) {
    let lease = store.grant(600).await.expect("a lease");
    put_leased(&store, "freed/a", lease).await.expect("a leased put");
    put(&store, "freed/a", "free").await;
    put_leased(&store, "freed/b", lease).await.expect("a leased put");
    commit(&store, vec![delete_op("freed/b")]).await;
    put(&store, "freed/b", "new").await;
    store.revoke(lease).await.expect("it can be revoked");
    let want = [("freed/a".to_owned(), "free".to_owned()), ("freed/b".to_owned(), "new".to_owned())];
    assert_eq!(keys_at(&store, "freed/", 0).await, want);
}

pub(super) async fn an_unknown_lease_is_refused(store: Store) {
    let before = store.status().await.expect("status").revision;
    let unknown = 0x7fff_0000_dead_beef;
    let refused = [
        put_leased(&store, "unknown/a", unknown).await.map(drop),
        store.keep_alive(unknown).await.map(drop),
        store.revoke(unknown).await,
    ];
    for result in refused {
        let error = result.expect_err("there is no such lease");
        assert!(matches!(error, Error::LeaseNotFound(id) if id == unknown), "{error}");
    }
    assert!(store.grant(0).await.is_err(), "a lease lasts at least a second");
    assert_eq!(store.status().await.expect("status").revision, before);
}

pub(super) async fn a_lease_can_be_given_its_id(store: Store) {
    let id = 0x0bad_cafe_0000_0001;
    assert_eq!(store.grant_as(id, 600).await.expect("a lease"), id);
    let error = store.grant_as(id, 600).await.expect_err("there is one");
    assert!(matches!(error, Error::LeaseExists(found) if found == id), "{error}");
    put_leased(&store, "chosen/a", id).await.expect("a leased put");
    let (other, third) = (store.grant(600).await.expect("a lease"), store.grant(600).await.expect("a lease"));
    assert!(other != id && third != id && other != third);
    assert!(store.leases().await.expect("all leases").contains(&id));
    for lease in [id, other, third] {
        store.revoke(lease).await.expect("it can be revoked");
    }
    assert_eq!(get(&store, "chosen/a").await, None);
    assert_eq!(store.grant_as(id, 600).await.expect("it is free again"), id);
    store.revoke(id).await.expect("it can be revoked");
}

pub(super) async fn a_lease_tells_its_time_and_keys(store: Store) {
    let (long, short) = (store.grant(600).await.expect("a lease"), store.grant(300).await.expect("a lease"));
    for key in ["told/b", "told/a"] {
        put_leased(&store, key, long).await.expect("a leased put");
    }
    let lease = store.lease(long).await.expect("it is there");
    assert_eq!((lease.id, lease.granted_seconds), (long, 600));
    assert!((500..=600).contains(&lease.remaining_seconds), "{lease:?}");
    assert_eq!(lease.keys.iter().map(|key| text(key)).collect::<Vec<_>>(), ["told/a", "told/b"]);
    let leases = store.leases().await.expect("all leases");
    assert!(leases.contains(&short) && leases.contains(&long), "{leases:?}");
    store.revoke(long).await.expect("it can be revoked");
    store.revoke(short).await.expect("it can be revoked");
    let error = store.lease(long).await.expect_err("it is gone");
    assert!(matches!(error, Error::LeaseNotFound(id) if id == long), "{error}");
}
