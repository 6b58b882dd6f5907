//! Users and roles of etcd's API, beyond what etcdctl shows: every service, restarts, several members, what is hidden.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseTimeToLiveOptions,
    LockOptions, Permission, PutOptions, Txn, TxnOp, UserAddOptions, WatchOptions,
};
use store::{Backend, Options, Range};

use crate::served::Served;

const DEADLINE: Duration = Duration::from_secs(20);

const ROOT: (&str, &str) = ("root", "secret");
const ANN: (&str, &str) = ("ann", "right");

/// Makes a root, and an ann who may read and write below `a/`, read below `r/`, and write below `w/`; asks for them from now on.
async fn enable(client: &mut Client) {
    client.user_add(ROOT.0, ROOT.1, None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add(ANN.0, ANN.1, None).await.unwrap();
    client.role_add("some").await.unwrap();
    for permission in [Permission::read_write("a/"), Permission::read("r/"), Permission::write("w/")] {
        client.role_grant_permission("some", permission.with_prefix()).await.unwrap();
    }
    client.user_grant_role("ann", "some").await.unwrap();
    client.auth_enable().await.unwrap();
}

/// What is answered: nothing, or etcd's words for what is wrong.
fn told<T>(answer: Result<T, Error>) -> String {
    match answer {
        Ok(_) => String::new(),
        Err(Error::GRpcStatus(status)) => status.message().trim_start_matches("etcdserver: ").to_owned(),
        Err(error) => panic!("no answer: {error}"),
    }
}

const DENIED: &str = "permission denied";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_may_not_is_refused_by_every_service() {
    let served = Served::start().await;
    let mut root = served.client().await;
    root.put("secret", "0", None).await.unwrap();
    enable(&mut root).await;
    let mut root = served.client_as(Some(ROOT)).await;
    let mut ann = served.client_as(Some(ANN)).await;
    let lease = root.lease_grant(100, None).await.unwrap().id();
    root.put("secret", "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();

    // Leases are as good as what dies with them.
    assert_eq!(told(ann.lease_revoke(lease).await), DENIED);
    assert_eq!(told(ann.put("a/1", "", Some(PutOptions::new().with_lease(lease))).await), DENIED);
    assert_eq!(told(ann.lease_time_to_live(lease, None).await), "");
    let with_keys = LeaseTimeToLiveOptions::new().with_keys();
    assert_eq!(told(ann.lease_time_to_live(lease, Some(with_keys)).await), DENIED);
    assert_eq!(told(ann.leases().await), DENIED);
    assert_eq!(told(ann.lease_keep_alive(lease).await), DENIED);

    // Locks and elections are keys.
    assert_eq!(told(ann.lock("secret", None).await), DENIED);
    let held = ann.lock("a/lock", None).await.unwrap();
    assert_eq!(told(ann.unlock(held.key()).await), "");
    assert_eq!(told(ann.unlock("secret").await), DENIED);
    assert_eq!(told(ann.campaign("secret", "ann", lease).await), DENIED);
    assert_eq!(told(ann.leader("secret").await), DENIED);
    let own = ann.lease_grant(100, None).await.unwrap().id();
    let elected = ann.campaign("a/election", "ann", own).await.unwrap().take_leader().unwrap();
    let resign = etcd_client::ResignOptions::new().with_leader(elected);
    assert_eq!(told(ann.resign(Some(resign)).await), "");
    assert_eq!(told(ann.lock("a/lock", Some(LockOptions::new().with_lease(lease))).await), DENIED);

    // What concerns the whole store is for roots.
    assert_eq!(told(ann.compact(1, None).await), DENIED);
    assert_eq!(told(ann.hash().await), DENIED);
    assert_eq!(told(ann.hash_kv(0).await), DENIED);
    assert_eq!(told(ann.defragment().await), DENIED);
    assert_eq!(told(ann.snapshot().await), DENIED);
    assert_eq!(told(ann.move_leader(1).await), DENIED);
    assert_eq!(told(ann.alarm(AlarmAction::Deactivate, AlarmType::None, None).await), DENIED);
    assert_eq!(told(ann.member_add(&["http://localhost:1".to_owned()], None).await), DENIED);
    assert_eq!(told(ann.member_remove(1).await), DENIED);
    assert_eq!(told(ann.member_update(1, &["http://localhost:1".to_owned()]).await), DENIED);
    assert_eq!(told(ann.member_promote(1).await), DENIED);
    for open in [told(ann.alarm(AlarmAction::Get, AlarmType::None, None).await), told(ann.status().await)] {
        assert_eq!(open, "");
    }
    assert_eq!(told(ann.member_list().await), "");
    assert_eq!(told(root.hash_kv(0).await), "");
    assert_eq!(told(root.snapshot().await), "");

    // A transaction takes all that it could do, however deep.
    let inner = Txn::new().or_else([TxnOp::get("secret", None)]);
    let txn = Txn::new().and_then([TxnOp::put("a/1", "", None), TxnOp::txn(inner)]);
    assert_eq!(told(ann.txn(txn).await), DENIED);
    let blind = DeleteOptions::new().with_prefix();
    let txn = Txn::new()
        .when([Compare::version("r/1", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("a/1", "", None), TxnOp::delete("w/", Some(blind.clone()))]);
    assert_eq!(told(ann.txn(txn).await), "");
    let txn = Txn::new().and_then([TxnOp::delete("w/", Some(blind.with_prev_key()))]);
    assert_eq!(told(ann.txn(txn).await), DENIED);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_takes_leave_to_read() {
    let served = Served::start().await;
    enable(&mut served.client().await).await;
    let mut ann = served.client_as(Some(ANN)).await;
    for (key, options) in
        [("secret", WatchOptions::new()), ("a/", WatchOptions::new().with_from_key()), ("w/1", WatchOptions::new())]
    {
        let mut stream = ann.watch(key, Some(options)).await.unwrap();
        let refused = tokio::time::timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
        assert!(refused.created() && refused.canceled() && refused.watch_id() == -1, "{refused:?}");
        let why = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(refused.cancel_reason(), why);
    }
    let mut stream = ann.watch("a/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    ann.put("a/1", "seen", None).await.unwrap();
    let seen = tokio::time::timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(seen.events()[0].kv().unwrap().value(), b"seen");
    served.stop().await;
}

/// What is kept of users is nowhere in what clients can read, watch, count or delete; only the revision tells that it changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_no_keys() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let mut stream = client.watch("", Some(WatchOptions::new().with_all_keys())).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    assert_eq!(served.store.range(Range::key("")).await.unwrap().entries.len(), 1, "it is here");
    for (key, options) in [("", GetOptions::new().with_all_keys()), ("\0", GetOptions::new().with_from_key())] {
        let reply = client.get(key, Some(options)).await.unwrap();
        assert_eq!((reply.kvs().len(), reply.count()), (0, 0), "{reply:?}");
        assert_eq!(reply.header().unwrap().revision(), 3);
    }
    let deleted = client.delete("", Some(DeleteOptions::new().with_all_keys())).await.unwrap();
    assert_eq!(deleted.deleted(), 0);
    for refused in [
        told(client.put("", "", None).await),
        told(client.get("", None).await),
        told(client.delete("", None).await),
        told(client.unlock("").await),
        told(client.txn(Txn::new().when([Compare::version("", CompareOp::Greater, 0)])).await),
        told(client.proclaim("", Some(etcd_client::ProclaimOptions::new().with_leader(Default::default()))).await),
        told(client.resign(Some(etcd_client::ResignOptions::new().with_leader(Default::default()))).await),
    ] {
        assert_eq!(refused, "key is not provided");
    }
    client.put("k", "", None).await.unwrap();
    let seen = tokio::time::timeout(DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((seen.events().len(), seen.events()[0].kv().unwrap().key()), (1, &b"k"[..]));
    assert_eq!(client.user_list().await.unwrap().users(), ["root"]);
    served.stop().await;
}

/// Two members of one store: what one has issued and answered holds at the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_agree_about_users() {
    let served = Served::start().await;
    let other = Served::beside(&served).await;
    enable(&mut served.client().await).await;
    // It hears of it by itself, and then asks for whatever comes.
    let mut stranger = other.client().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while told(stranger.put("k", "", None).await).is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the other member never asks who it is");
    }
    let mut root = served.client_as(Some(ROOT)).await;
    let mut ann = other.client_as(Some(ANN)).await;
    for _ in 0..10 {
        assert_eq!(told(ann.put("a/1", "", None).await), "");
        root.role_revoke_permission("some", "a/", Some(etcd_client::RoleRevokePermissionOptions::new().with_prefix()))
            .await
            .unwrap();
        assert_eq!(told(ann.put("a/1", "", None).await), DENIED, "it was answered that it may not");
        root.role_grant_permission("some", Permission::read_write("a/").with_prefix()).await.unwrap();
    }
    root.user_change_password(ANN.0, "new").await.unwrap();
    assert_eq!(told(ann.put("a/1", "", None).await), "invalid auth token");
    let both = other.client_of(&[&served.url, &other.url], Some((ANN.0, "new"))).await.unwrap();
    let asks = (0..20).map(|_| {
        let mut client = both.clone();
        async move { told(client.put("a/1", "", None).await) }
    });
    assert!(futures::future::join_all(asks).await.iter().all(String::is_empty), "a token is good at both");
    other.stop_serving().await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_survive_a_restart_and_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sync: false, ..Options::default() };
    let served = Served::open(dir.path(), options, |server| server).await;
    enable(&mut served.client().await).await;
    let source = store::backup::Source {
        backend: Arc::<store::Embedded>::clone(&served.store),
        start: bytes::Bytes::new(),
        end: bytes::Bytes::from_static(&[0]),
        page: 0,
        attachments: Vec::new(),
        time: 0,
    };
    let saved: Vec<_> = futures::TryStreamExt::try_collect(store::backup::stream(source)).await.unwrap();
    served.stop().await;

    let served = Served::open(dir.path(), options, |server| server).await;
    assert_eq!(told(served.client().await.get("a/1", None).await), DENIED);
    assert_eq!(told(served.client_as(Some(ANN)).await.get("a/1", None).await), "");
    served.stop().await;

    let dir = tempfile::tempdir().unwrap();
    let mut reader = store::backup::Reader::new();
    saved.iter().for_each(|part| reader.feed(part));
    let mut entries = Vec::new();
    while let Some(item) = reader.take_item().unwrap() {
        if let store::backup::Item::Entry(entry) = item {
            entries.push(Ok::<_, store::Error>(entry));
        }
    }
    store::backup::seed(&dir.path().join("store"), 100, entries.into_iter()).unwrap();
    let served = Served::open(dir.path(), options, |server| server).await;
    assert_eq!(told(served.client().await.get("a/1", None).await), DENIED);
    assert_eq!(told(served.client_as(Some(ANN)).await.get("a/1", None).await), "");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_expires_unless_it_is_used() {
    let ttl = Duration::from_secs(1);
    let served = Served::with(Options { sync: false, ..Options::default() }, |server| server.with_token_ttl(ttl)).await;
    enable(&mut served.client().await).await;
    let mut busy = served.client_as(Some(ANN)).await;
    let mut idle = served.client_as(Some(ANN)).await;
    let end = tokio::time::Instant::now() + 3 * ttl;
    while tokio::time::Instant::now() < end {
        assert_eq!(told(busy.get("a/1", None).await), "");
    }
    assert_eq!(told(idle.get("a/1", None).await), "invalid auth token");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_have_a_limit_and_need_not_be() {
    let served = Served::start().await;
    let mut client = served.client().await;
    assert_eq!(told(client.user_add("long", "x".repeat(73), None).await), "password is longer than 72 bytes");
    client.user_add("long", "x".repeat(72), None).await.unwrap();
    assert_eq!(told(client.user_change_password("long", "x".repeat(73)).await), "password is longer than 72 bytes");
    client.user_add("none", "", Some(UserAddOptions::new().with_no_pwd())).await.unwrap();
    // It has none, whatever it is changed to.
    client.user_change_password("none", "some").await.unwrap();
    enable(&mut client).await;
    let kept = served.store.range(Range::key("")).await.unwrap().entries.remove(0).value;
    for (user, password) in [ROOT, ANN] {
        assert!(!kept.windows(password.len()).any(|part| part == password.as_bytes()), "{user}'s is readable");
    }
    served.client_as(Some(("long", &"x".repeat(72)))).await;
    let refused = served.try_client_as(Some(("none", "some"))).await.err().unwrap();
    assert!(refused.to_string().contains("password was given for no password user"), "{refused}");
    let refused = served.try_client_as(Some(("long", &"x".repeat(80)))).await.err().unwrap();
    assert!(refused.to_string().contains("authentication failed, invalid user ID or password"), "{refused}");
    served.stop().await;
}
