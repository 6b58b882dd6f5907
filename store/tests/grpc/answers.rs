//! Answers and errors, word for word.

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use store::Backend;

use crate::served::{CLUSTER, MEMBER, Served};

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::GRpcStatus(status)) => format!("{:?}: {}", status.code(), status.message()),
        other => panic!("it was not refused: {other:?}"),
    }
}

async fn put(client: &mut Client, key: &str, value: &str) -> i64 {
    client.put(key, value, None).await.unwrap().header().unwrap().revision()
}

#[tokio::test]
async fn errors_have_etcds_codes_and_words() {
    let served = Served::start().await;
    let mut client = served.client().await;
    put(&mut client, "a", "1").await;
    put(&mut client, "a", "2").await;
    client.compact(3, None).await.unwrap();
    client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(7))).await.unwrap();
    for (said, want) in keys_are_refused(&mut client).await {
        assert_eq!(said, want);
    }
    for (said, want) in upkeep_is_refused(&mut client, &served.url).await {
        assert_eq!(said, want);
    }
    assert_eq!(client.status().await.unwrap().header().unwrap().revision(), 3, "nothing was written");
    served.stop().await;
}

async fn keys_are_refused(client: &mut Client) -> Vec<(String, &'static str)> {
    let many: Vec<_> = (0..129).map(|i| TxnOp::put(format!("k{i}"), "", None)).collect();
    let twice = [TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)];
    let large = vec![b'x'; (3 << 19) + 1];
    vec![
        (said(client.get("", None).await), "InvalidArgument: etcdserver: key is not provided"),
        (said(client.put("", "x", None).await), "InvalidArgument: etcdserver: key is not provided"),
        (said(client.delete("", None).await), "InvalidArgument: etcdserver: key is not provided"),
        (
            said(client.put("a", "x", Some(PutOptions::new().with_ignore_value())).await),
            "InvalidArgument: etcdserver: value is provided",
        ),
        (
            said(client.put("a", "", Some(PutOptions::new().with_ignore_lease().with_lease(7))).await),
            "InvalidArgument: etcdserver: lease is provided",
        ),
        (
            said(client.put("none", "", Some(PutOptions::new().with_ignore_value())).await),
            "InvalidArgument: etcdserver: key not found",
        ),
        (
            said(client.get("a", Some(GetOptions::new().with_revision(2))).await),
            "OutOfRange: etcdserver: mvcc: required revision has been compacted",
        ),
        (
            said(client.get("a", Some(GetOptions::new().with_revision(99))).await),
            "OutOfRange: etcdserver: mvcc: required revision is a future revision",
        ),
        (said(client.compact(3, None).await), "OutOfRange: etcdserver: mvcc: required revision has been compacted"),
        (said(client.compact(99, None).await), "OutOfRange: etcdserver: mvcc: required revision is a future revision"),
        (
            said(client.txn(Txn::new().and_then(many)).await),
            "InvalidArgument: etcdserver: too many operations in txn request",
        ),
        (
            said(client.txn(Txn::new().and_then(twice)).await),
            "InvalidArgument: etcdserver: duplicate key given in txn request",
        ),
        (said(client.put("a", large, None).await), "InvalidArgument: etcdserver: request is too large"),
        (
            said(client.put("a", "x", Some(PutOptions::new().with_lease(9))).await),
            "NotFound: etcdserver: requested lease not found",
        ),
    ]
}

async fn upkeep_is_refused(client: &mut Client, url: &str) -> Vec<(String, &'static str)> {
    vec![
        (said(client.lease_revoke(9).await), "NotFound: etcdserver: requested lease not found"),
        (
            said(client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(7))).await),
            "FailedPrecondition: etcdserver: lease already exists",
        ),
        (said(client.lease_grant(i64::MAX, None).await), "OutOfRange: etcdserver: too large lease TTL"),
        (said(client.member_remove(1).await), "NotFound: etcdserver: member not found"),
        (
            said(client.member_promote(MEMBER).await),
            "FailedPrecondition: etcdserver: can only promote a learner member",
        ),
        (
            said(client.member_add(["nowhere"], None).await),
            "InvalidArgument: etcdserver: given member URLs are invalid",
        ),
        (said(client.member_add([url], None).await), "FailedPrecondition: etcdserver: Peer URLs already exists"),
        (said(client.move_leader(1).await), "FailedPrecondition: etcdserver: bad leader transferee"),
        (said(client.user_get("nobody").await), "FailedPrecondition: etcdserver: user name not found"),
        (
            said(client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await),
            "Unimplemented: etcdserver: alarms cannot be raised by hand",
        ),
    ]
}

#[tokio::test]
async fn members_status_and_maintenance_are_told() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let status = client.status().await.unwrap();
    assert_eq!((status.header().unwrap().revision(), status.leader(), status.raft_term()), (1, MEMBER, 2));
    assert_eq!((status.header().unwrap().cluster_id(), status.header().unwrap().member_id()), (CLUSTER, MEMBER));
    assert_eq!(status.version(), store::grpc::API_VERSION);
    let revision = put(&mut client, "a", "1").await;
    let members = client.member_list().await.unwrap();
    assert_eq!(members.members().len(), 1);
    assert_eq!((members.members()[0].name(), members.members()[0].id()), ("alone", MEMBER));
    assert!(client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().is_empty());
    assert!(client.defragment().await.unwrap().header().is_none());
    let first = client.hash_kv(0).await.unwrap();
    assert_eq!((first.hash_revision(), first.compact_version()), (revision, 1));
    put(&mut client, "a", "2").await;
    assert_eq!(client.hash_kv(revision).await.unwrap().hash(), first.hash());
    assert_ne!(client.hash().await.unwrap().hash(), first.hash());
    client.move_leader(MEMBER).await.expect("it leads already");
    served.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_an_image_and_its_checksum() {
    use sha2::Digest;
    let served = Served::start().await;
    let mut client = served.client().await;
    let lease = client.lease_grant(600, None).await.unwrap().id();
    for i in 0..200 {
        let options = PutOptions::new().with_lease(if i % 2 == 0 { lease } else { 0 });
        client.put(format!("k{:03}", i % 150), vec![b'v'; 10_000], Some(options)).await.unwrap();
    }
    client.delete("k007", None).await.unwrap();
    let mut stream = client.snapshot().await.unwrap();
    let (mut parts, mut left) = (Vec::new(), Vec::new());
    while let Some(part) = stream.message().await.unwrap() {
        assert!(!part.blob().is_empty());
        left.push(part.remaining_bytes());
        parts.push(part.blob().to_vec());
    }
    assert!(parts.len() > 3, "it comes in parts");
    assert_eq!(left.iter().position(|left| *left == 0), Some(parts.len() - 2), "0 follow the last but the checksum");
    let checksum = parts.pop().unwrap();
    let image = parts.concat();
    assert_eq!(checksum, sha2::Sha256::digest(&image).to_vec());
    assert_eq!((image.len() + checksum.len()) % 512, 32, "which is how etcd's tools know that there is one");

    let read = store::image::read(&mut &image[..]).unwrap();
    let range = store::Range { end: [0].to_vec().into(), ..store::Range::default() };
    let live = served.store.range(range).await.unwrap();
    assert_eq!((read.revision(), read.entries()), (live.revision, live.entries));
    assert_eq!((read.leases(), read.compacted()), (vec![(lease, 600)], 1));
    let mut cut = &image[..image.len() / 2];
    assert!(matches!(store::image::read(&mut cut), Err(store::image::Refused::Corrupt { .. })));
    let mut flipped = image.clone();
    flipped[image.len() / 2] ^= 1;
    assert!(matches!(store::image::read(&mut &flipped[..]), Err(store::image::Refused::Corrupt { .. })));
    served.stop().await;
}

#[tokio::test]
async fn ranges_are_sorted_filtered_and_counted() {
    let served = Served::start().await;
    let mut client = served.client().await;
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("b", "9"), ("d", "0")] {
        put(&mut client, key, value).await;
    }
    let all = || GetOptions::new().with_prefix();
    let cases: [(GetOptions, &str, i64, bool); 12] = [
        (all(), "a=3 b=9 c=2 d=0", 4, false),
        (all().with_limit(2), "a=3 b=9", 4, true),
        (all().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1), "d=0", 4, true),
        (all().with_sort(SortTarget::Value, SortOrder::Ascend), "d=0 c=2 a=3 b=9", 4, false),
        (all().with_sort(SortTarget::Mod, SortOrder::Descend), "d=0 b=9 c=2 a=3", 4, false),
        (all().with_sort(SortTarget::Create, SortOrder::Descend), "d=0 c=2 b=9 a=3", 4, false),
        (all().with_sort(SortTarget::Version, SortOrder::Descend).with_limit(1), "b=9", 4, true),
        (all().with_min_mod_revision(4).with_max_mod_revision(5), "b=9 c=2", 4, false),
        (all().with_min_create_revision(3).with_max_create_revision(4).with_limit(1), "b=9", 4, true),
        (all().with_keys_only().with_limit(1), "a=", 4, true),
        (all().with_count_only(), "", 4, false),
        (all().with_revision(3), "a=3 b=1", 2, false),
    ];
    for (options, want, count, more) in cases {
        let told = format!("{options:?}");
        let reply = client.get("", Some(options)).await.unwrap();
        let pairs: Vec<_> = reply
            .kvs()
            .iter()
            .map(|pair| format!("{}={}", pair.key_str().unwrap(), pair.value_str().unwrap()))
            .collect();
        assert_eq!((pairs.join(" ").as_str(), reply.count(), reply.more()), (want, count, more), "{told}");
    }
    served.stop().await;
}

#[tokio::test]
async fn each_step_of_a_transaction_tells_its_revision() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let before = put(&mut client, "a", "1").await;
    let inner = Txn::new()
        .when([Compare::value("a", CompareOp::NotEqual, "2")])
        .and_then([TxnOp::delete("a", Some(DeleteOptions::new().with_prev_key()))]);
    let txn = Txn::new().and_then([
        TxnOp::get("a", None),
        TxnOp::delete("none", None),
        TxnOp::put("b", "1", None),
        TxnOp::txn(inner),
        TxnOp::get("a", None),
    ]);
    let reply = client.txn(txn).await.unwrap();
    assert_eq!(reply.header().unwrap().revision(), before + 1);
    let told: Vec<_> = reply.op_responses().iter().map(|response| revision(response) - before).collect();
    assert_eq!(told, [0, 0, 1, -before, 1]);
    let [_, _, _, TxnOpResponse::Txn(inner), TxnOpResponse::Get(last)] = &reply.op_responses()[..] else { panic!() };
    let [TxnOpResponse::Delete(deleted)] = &inner.op_responses()[..] else { panic!() };
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value(), last.count()), (1, &b"1"[..], 0));
    served.stop().await;
}

fn revision(response: &TxnOpResponse) -> i64 {
    let header = match response {
        TxnOpResponse::Put(response) => response.header(),
        TxnOpResponse::Get(response) => response.header(),
        TxnOpResponse::Delete(response) => response.header(),
        TxnOpResponse::Txn(response) => response.header(),
    };
    header.unwrap().revision()
}

#[tokio::test]
async fn leases_are_granted_kept_and_told() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let granted = client.lease_grant(0, None).await.unwrap();
    assert_eq!(granted.ttl(), 2, "no lease is shorter than a leader's election");
    let lease = client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(77))).await.unwrap();
    assert_eq!((lease.id(), lease.ttl()), (77, 600));
    client.put("a", "1", Some(PutOptions::new().with_lease(77))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(77).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let kept = answers.message().await.unwrap().unwrap();
    assert_eq!((kept.id(), kept.ttl(), kept.header().unwrap().revision()), (77, 600, 2));
    let told =
        client.lease_time_to_live(77, Some(etcd_client::LeaseTimeToLiveOptions::new().with_keys())).await.unwrap();
    assert_eq!((told.granted_ttl(), told.keys()), (600, &[b"a".to_vec()][..]));
    assert!(client.lease_time_to_live(77, None).await.unwrap().keys().is_empty(), "they were not asked for");
    let leases: Vec<_> = client.leases().await.unwrap().leases().iter().map(etcd_client::LeaseStatus::id).collect();
    assert_eq!(leases.last(), Some(&77));
    client.lease_revoke(77).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl(), 0, "it is gone");
    assert_eq!(client.lease_time_to_live(77, None).await.unwrap().ttl(), -1);
    assert_eq!(client.get("a", None).await.unwrap().count(), 0);
    served.stop().await;
}

/// One after the other holds the lock; one that ends its call does not wait in the queue any longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_held_in_turn() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let options = || etcd_client::LockOptions::new().with_lease(lease);
    let first = client.lock("lock", Some(options())).await.unwrap();
    assert_eq!(first.key(), format!("lock/{lease:x}").as_bytes());
    assert_eq!(client.lock("lock", Some(options())).await.unwrap().key(), first.key(), "it has it already");

    let mut watch = client.watch("lock/", Some(etcd_client::WatchOptions::new().with_prefix())).await.unwrap();
    assert!(watch.message().await.unwrap().unwrap().created());
    let mut other = served.client().await;
    let impatient = tokio::spawn(async move { other.lock("lock", None).await.map(drop) });
    assert_eq!(watch.message().await.unwrap().unwrap().events()[0].event_type(), etcd_client::EventType::Put);
    impatient.abort();
    assert_eq!(watch.message().await.unwrap().unwrap().events()[0].event_type(), etcd_client::EventType::Delete);

    let mut other = served.client().await;
    let second = tokio::spawn(async move { other.lock("lock", None).await.unwrap().key().to_vec() });
    assert_eq!(watch.message().await.unwrap().unwrap().events()[0].event_type(), etcd_client::EventType::Put);
    assert!(!second.is_finished());
    client.unlock(first.key()).await.unwrap();
    let second = second.await.unwrap();
    assert_ne!(second, first.key());
    assert_eq!(client.get(second, None).await.unwrap().count(), 1);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_have_one_leader_who_is_followed() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let mut observed = client.observe("vote").await.unwrap();
    let leader = client.campaign("vote", "one", lease).await.unwrap();
    let leader = leader.leader().unwrap().clone();
    let mut said = async || {
        let reply = observed.message().await.unwrap().unwrap();
        reply.kv().unwrap().value_str().unwrap().to_owned()
    };
    assert_eq!(said().await, "one");
    let options = etcd_client::ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("uno", Some(options)).await.unwrap();
    assert_eq!(said().await, "uno");
    let other_lease = client.lease_grant(60, None).await.unwrap().id();
    let mut other = served.client().await;
    let second = tokio::spawn(async move { other.campaign("vote", "two", other_lease).await.map(drop) });
    client.resign(Some(etcd_client::ResignOptions::new().with_leader(leader.clone()))).await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(said().await, "two");
    assert_eq!(client.leader("vote").await.unwrap().kv().unwrap().value(), b"two");
    let options = etcd_client::ProclaimOptions::new().with_leader(leader);
    client.proclaim("late", Some(options)).await.expect_err("it leads no more");
    served.stop().await;
}
