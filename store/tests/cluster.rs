//! Three real members in one process, over loopback and TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::contract::{Store, cases};
use store::embedded::cluster::{Cluster, MEMBER_NAME, PeerTls, Start};
use store::{Backend, Embedded, Error, Member, Membership, Op, Options, Range, Txn};

#[path = "cluster/certificates.rs"]
mod certificates;

use certificates::{Ca, ca, certificate};

/// How long anything that must happen may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A member as its operator sees it: a folder, an address, certificates that may change.
struct Seat {
    dir: tempfile::TempDir,
    listener: TcpListener,
    tls: Arc<Mutex<PeerTls>>,
    options: Options,
}

impl Seat {
    fn new(ca: &Ca) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { dir, listener, tls: Arc::new(Mutex::new(certificate(ca, &[MEMBER_NAME]))), options: options() }
    }

    fn url(&self) -> String {
        format!("https://{}", self.listener.local_addr().unwrap())
    }

    fn cluster(&self, name: &str, start: Start) -> Cluster {
        let tls = self.tls.clone();
        Cluster {
            name: name.to_owned(),
            listener: self.listener.try_clone().unwrap(),
            peer_urls: vec![self.url()],
            client_urls: vec![format!("https://{name}")],
            tls: Arc::new(move || Ok(tls.lock().clone())),
            start,
        }
    }

    fn open(&self, name: &str, start: Start) -> Arc<Embedded> {
        Arc::new(Embedded::open_member(self.dir.path(), self.options, self.cluster(name, start)).unwrap())
    }
}

fn options() -> Options {
    Options { sync: false, snapshot_bytes: 256 << 10, log_bytes: 64 << 10, ..Options::default() }
}

async fn put(store: &dyn Backend, key: &str, value: &str) -> Result<u64, Error> {
    let put = Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: 0 };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.map(|reply| reply.revision)
}

async fn get(store: &dyn Backend, key: &str) -> Option<String> {
    let mut reply = store.range(Range::key(key.to_owned())).await.unwrap();
    reply.entries.pop().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

/// Asks again until it is so.
async fn until<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let (deadline, mut again) = (Instant::now() + DEADLINE, tokio::time::interval(Duration::from_millis(10)));
    loop {
        again.tick().await;
        match ask().await {
            Ok(found) => return found,
            Err(error) => assert!(Instant::now() < deadline, "waited in vain: {what}: {error}"),
        }
    }
}

/// Adds a member through another, starts it and gives it a vote when it has caught up.
async fn join(through: &Embedded, seat: &Seat, name: &str) -> Arc<Embedded> {
    let added = until("a member is added", || async { through.add_member(vec![seat.url()], true).await }).await;
    let members = through.members(true).await.unwrap();
    let cluster = through.standing().cluster;
    let store = seat.open(name, Start::Join { cluster, member: added.id, members });
    until("a learner is promoted", || async { through.promote_member(added.id).await }).await;
    store
}

async fn three(ca: &Ca) -> (Vec<Seat>, Vec<Arc<Embedded>>) {
    three_with(ca, options()).await
}

async fn three_with(ca: &Ca, options: Options) -> (Vec<Seat>, Vec<Arc<Embedded>>) {
    let seats: Vec<_> = (0..3).map(|_| Seat { options, ..Seat::new(ca) }).collect();
    let mut stores = vec![seats[0].open("a", Start::Found)];
    for (seat, name) in seats[1..].iter().zip(["b", "c"]) {
        let store = join(&stores[0], seat, name).await;
        stores.push(store);
    }
    (seats, stores)
}

fn leader(stores: &[Arc<Embedded>]) -> usize {
    stores.iter().position(|store| store.standing().leader == store.standing().member).expect("one leads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_keeps_the_contract() {
    let (_seats, stores) = three(&ca()).await;
    let named = |member: &Member| !member.name.is_empty() && !member.client_urls.is_empty() && !member.learner;
    until("all have said who they are", || async {
        let members = stores[2].members(true).await.map_err(|error| error.to_string())?;
        if members.len() == 3 && members.iter().all(named) { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    for (number, store) in stores.iter().enumerate() {
        // Each case expects its keys to be its own: they are removed between members.
        let everything = Op::Delete { start: [0][..].to_vec().into(), end: [0][..].to_vec().into() };
        store.txn(Txn { success: vec![everything], ..Txn::default() }).await.unwrap();
        let subject: Store = store.clone();
        for case in cases() {
            if let Err(error) = tokio::spawn((case.run)(subject.clone())).await {
                panic!("member {number}: {}: {error}", case.name);
            }
        }
    }
    for store in &stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_within_a_second_when_the_leader_is_gone() {
    let (_seats, mut stores) = three(&ca()).await;
    put(&*stores[0], "before", "1").await.unwrap();
    let gone = stores.remove(leader(&stores));
    let since = Instant::now();
    drop(gone);
    for store in &stores {
        put(&**store, "after", "2").await.unwrap();
        assert_eq!(get(&**store, "before").await.as_deref(), Some("1"));
    }
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let (from, to) = (leader(&stores), 1 - leader(&stores));
    let successor = stores[to].standing().member;
    stores[from].move_leader(successor).await.unwrap();
    until("the lead is handed over", || async { if leader(&stores) == to { Ok(()) } else { Err("another leads") } })
        .await;
    put(&*stores[from], "moved", "3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_removed_and_an_empty_one_takes_its_place_from_a_snapshot() {
    let ca = ca();
    let (mut seats, mut stores) = three(&ca).await;
    let value = "x".repeat(4 << 10);
    for i in 0..300 {
        put(&*stores[i % 3], &format!("key-{}", i % 100), &value).await.unwrap();
    }
    // The leader itself: it hands over first.
    let old = leader(&stores);
    let (removed, id) = (stores.remove(old), seats.remove(old));
    let id = (removed.standing().member, id);
    stores[0].remove_member(id.0).await.unwrap();
    let why = tokio::time::timeout(DEADLINE, removed.ended()).await.unwrap();
    assert!(why.contains("removed"), "{why}");
    assert!(put(&*removed, "late", "x").await.is_err());
    removed.close().await;
    // Its own log may not say so; then the others do, as soon as it comes near them.
    match Embedded::open_member(id.1.dir.path(), options(), id.1.cluster("gone", Start::Found)) {
        Err(error) => assert!(error.to_string().contains("removed"), "{error}"),
        Ok(again) => {
            let why = tokio::time::timeout(DEADLINE, again.ended()).await.unwrap();
            assert!(why.contains("removed"), "{why}");
            again.close().await;
        }
    }

    seats.push(Seat::new(&ca));
    let fresh = join(&stores[0], &seats[2], "d").await;
    assert!(fresh.standing().member > 3, "an id is never given again");
    assert_eq!(get(&*fresh, "key-99").await, Some(value));
    let written = fresh.status().await.unwrap().revision;
    stores.push(fresh);
    stores.remove(0).close().await;
    let revision = put(&*stores[1], "two", "of three").await.unwrap();
    assert!(revision > written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_is_sent_what_it_missed() {
    let ca = ca();
    let (seats, mut stores) = three_with(&ca, Options { log_bytes: 64 << 20, ..options() }).await;
    let away = (leader(&stores) + 1) % 3;
    let (seat, name) = (&seats[away], ["a", "b", "c"][away]);
    stores.remove(away).close().await;
    // more than one message holds
    let value = "x".repeat(1 << 20);
    for i in 0..24 {
        put(&*stores[0], &format!("key-{i}"), &value).await.unwrap();
    }
    let back = seat.open(name, Start::Found);
    until("it has caught up", || async { back.range(Range::key("key-23")).await }).await;
    assert_eq!(get(&*back, "key-0").await, Some(value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_alone_grows_and_all_are_there_after_a_restart() {
    let ca = ca();
    let seats: Vec<_> = (0..2).map(|_| Seat::new(&ca)).collect();
    let alone = Embedded::open(seats[0].dir.path(), options()).unwrap();
    put(&alone, "old", "1").await.unwrap();
    let refused = alone.add_member(vec![seats[1].url()], true).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "it has no way to reach others: {refused:?}");
    let cluster = alone.standing().cluster;
    alone.close().await;
    let first = seats[0].open("a", Start::Found);
    assert_eq!(first.standing().cluster, cluster, "it is the same cluster");
    let second = join(&first, &seats[1], "b").await;
    assert_eq!(get(&*second, "old").await.as_deref(), Some("1"));
    put(&*second, "new", "2").await.unwrap();
    first.close().await;
    second.close().await;
    let stores = [seats[0].open("a", Start::Found), seats[1].open("b", Start::Found)];
    for store in &stores {
        until("there is a leader again", || async { put(&**store, "again", "3").await }).await;
        assert_eq!(get(&**store, "new").await.as_deref(), Some("2"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_restart_and_strangers_stay_out() {
    let old = ca();
    let (seats, stores) = three(&old).await;
    let new = ca();
    // First all trust both, then each shows one of the new, then the old is trusted no more.
    let both = [old.pem(), new.pem()].concat();
    for seat in &seats {
        seat.tls.lock().ca = both.clone().into();
    }
    for seat in &seats {
        let fresh = certificate(&new, &[MEMBER_NAME]);
        *seat.tls.lock() = PeerTls { ca: both.clone().into(), ..fresh };
    }
    for seat in &seats {
        seat.tls.lock().ca = new.pem().into();
    }
    // A member that starts again opens all its connections anew.
    let follower = (leader(&stores) + 1) % 3;
    stores[follower].close().await;
    let back = seats[follower].open("back", Start::Found);
    until("it takes part again", || async { put(&*back, "rotated", "1").await }).await;

    for stranger in [certificate(&ca(), &[MEMBER_NAME]), certificate(&new, &["somebody"])] {
        let seat = Seat { tls: Arc::new(Mutex::new(stranger)), ..Seat::new(&new) };
        let added = until("added", || async { back.add_member(vec![seat.url()], true).await }).await;
        let members = back.members(true).await.unwrap();
        let cluster = back.standing().cluster;
        let outside = seat.open("stranger", Start::Join { cluster, member: added.id, members });
        let waits = Options { patience: Duration::from_secs(1), ..options() }.patience;
        let heard = tokio::time::timeout(waits * 2, outside.range(Range::key("rotated"))).await;
        assert!(!matches!(heard, Ok(Ok(_))), "{heard:?}");
        assert_eq!(outside.standing().leader, 0, "it heard of no leader");
        back.remove_member(added.id).await.unwrap();
    }
}
