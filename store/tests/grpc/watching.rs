//! Watches over the API, message by message.

use std::time::Duration;

use etcd_client::{EventType, PutOptions, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use store::{Backend, Options};

use crate::served::Served;

const DEADLINE: Duration = Duration::from_secs(20);

async fn next(stream: &mut WatchStream) -> WatchResponse {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await.expect("it says something");
    message.unwrap().expect("it goes on")
}

/// The next answer that is about events.
async fn next_events(stream: &mut WatchStream) -> WatchResponse {
    let reply = next(stream).await;
    assert!(!reply.created() && !reply.canceled(), "{reply:?}");
    reply
}

/// `+key=value` or `-key`, each with `<value` if it tells what was before.
fn told(reply: &WatchResponse) -> Vec<String> {
    let told = reply.events().iter().map(|event| {
        let pair = event.kv().unwrap();
        let before = event.prev_kv().map_or(String::new(), |prev| format!("<{}", prev.value_str().unwrap()));
        match event.event_type() {
            EventType::Put => format!("+{}={}{before}", pair.key_str().unwrap(), pair.value_str().unwrap()),
            EventType::Delete => format!("-{}{before}", pair.key_str().unwrap()),
        }
    });
    told.collect()
}

fn revision(reply: &WatchResponse) -> i64 {
    reply.header().unwrap().revision()
}

#[tokio::test]
async fn several_watches_share_a_stream() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.put("a", "0", None).await.unwrap();
    let mut stream = client.watch("a", None).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled());
    assert_eq!((created.watch_id(), revision(&created)), (0, 2));
    let prefix = || WatchOptions::new().with_range("b").with_prev_key();
    stream.watch("a", Some(prefix().with_filters([WatchFilterType::NoPut]))).await.unwrap();
    stream.watch("a", Some(prefix().with_watch_id(7).with_filters([WatchFilterType::NoDelete]))).await.unwrap();
    assert_eq!((next(&mut stream).await.watch_id(), next(&mut stream).await.watch_id()), (1, 7));
    stream.watch("x", Some(WatchOptions::new().with_watch_id(7))).await.unwrap();
    let refused = next(&mut stream).await;
    assert!(refused.created() && refused.canceled());
    assert_eq!(
        (refused.watch_id(), refused.cancel_reason()),
        (-1, "mvcc: duplicate watch ID provided on the WatchStream")
    );
    stream.watch("x", Some(WatchOptions::new().with_range("w"))).await.unwrap();
    assert_eq!(next(&mut stream).await.cancel_reason(), "mvcc: watcher range is empty");

    client.put("a", "1", None).await.unwrap();
    client.delete("a", None).await.unwrap();
    let mut heard = std::collections::BTreeMap::<i64, Vec<String>>::new();
    while heard.values().map(Vec::len).sum::<usize>() < 4 {
        let reply = next_events(&mut stream).await;
        let last = reply.events().last().unwrap().kv().unwrap().mod_revision();
        assert!(revision(&reply) >= last);
        heard.entry(reply.watch_id()).or_default().extend(told(&reply));
    }
    let want = [(0, vec!["+a=1", "-a"]), (1, vec!["-a<1"]), (7, vec!["+a=1<0"])];
    assert_eq!(heard, want.map(|(id, told)| (id, told.into_iter().map(str::to_owned).collect())).into());

    stream.cancel(7).await.unwrap();
    stream.cancel(99).await.unwrap();
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled());
    assert_eq!((canceled.watch_id(), canceled.compact_revision()), (7, 0));
    client.put("a", "2", None).await.unwrap();
    assert_eq!(next_events(&mut stream).await.watch_id(), 0, "the cancelled one is silent, as is the unknown one");
    served.stop().await;
}

#[tokio::test]
async fn what_is_compacted_is_told_with_where_to_begin() {
    let served = Served::start().await;
    let mut client = served.client().await;
    for i in 0..5 {
        client.put("a", i.to_string(), None).await.unwrap();
    }
    client.compact(4, None).await.unwrap();
    let mut stream = client.watch("a", Some(WatchOptions::new().with_start_revision(3))).await.unwrap();
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled());
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled() && !canceled.created());
    assert_eq!((canceled.watch_id(), canceled.compact_revision()), (created.watch_id(), 4));
    stream.watch("a", Some(WatchOptions::new().with_start_revision(4).with_prev_key())).await.unwrap();
    assert!(next(&mut stream).await.created());
    assert_eq!(told(&next_events(&mut stream).await), ["+a=2<1", "+a=3<2", "+a=4<3"]);
    served.stop().await;
}

#[tokio::test]
async fn progress_is_told_on_request_once_all_have_got_so_far() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let mut stream = client.watch("quiet", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("loud", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    for round in 0..20 {
        client.put("loud", round.to_string(), None).await.unwrap();
        let newest = client.put("other", round.to_string(), None).await.unwrap().header().unwrap().revision();
        stream.request_progress().await.unwrap();
        let mut heard = 0;
        let progress = loop {
            let reply = next(&mut stream).await;
            match reply.events() {
                [] => break reply,
                events => heard += events.len(),
            }
        };
        assert_eq!((progress.watch_id(), heard), (-1, 1), "after the event before it");
        assert!(revision(&progress) >= newest);
    }
    served.stop().await;
}

#[tokio::test]
async fn progress_is_told_by_itself_to_those_who_want_it() {
    let every = Duration::from_millis(300);
    let options = Options { sync: false, ..Options::default() };
    let served = Served::with(options, |server| server.with_watch_progress(every)).await;
    let mut client = served.client().await;
    let mut stream = client.watch("quiet", Some(WatchOptions::new().with_progress_notify())).await.unwrap();
    assert!(next(&mut stream).await.created());
    stream.watch("silent", None).await.unwrap();
    let silent = next(&mut stream).await.watch_id();
    for _ in 0..3 {
        let newest = client.put("other", "x", None).await.unwrap().header().unwrap().revision();
        loop {
            let reply = next_events(&mut stream).await;
            assert!(reply.events().is_empty() && reply.watch_id() != silent);
            if revision(&reply) >= newest {
                break;
            }
        }
    }
    served.stop().await;
}

#[tokio::test]
async fn large_revisions_come_in_fragments_where_they_are_taken() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let value = vec![b'x'; 700 << 10];
    for round in 0..3 {
        let keys = ["f/a", "f/b"].map(|key| etcd_client::TxnOp::put(key, value.clone(), None));
        client.txn(etcd_client::Txn::new().and_then(keys)).await.unwrap_or_else(|error| panic!("{round}: {error}"));
    }
    let options = WatchOptions::new().with_prefix().with_start_revision(2).with_prev_key();
    for fragments in [false, true] {
        let options = if fragments { options.clone().with_fragment() } else { options.clone() };
        let client = served.client().await;
        let mut client = client.watch_client().max_decoding_message_size(1 << 30);
        let mut stream = client.watch("f/", Some(options)).await.unwrap();
        assert!(next(&mut stream).await.created());
        let (mut keys, mut replies, mut reached) = (Vec::new(), 0, 0);
        while keys.len() < 6 {
            let reply = next_events(&mut stream).await;
            let revisions: Vec<_> = reply.events().iter().map(|event| event.kv().unwrap().mod_revision()).collect();
            assert!(revisions.iter().all(|revision| *revision > reached || fragments), "a revision is not split");
            reached = *revisions.last().unwrap();
            assert!(revision(&reply) >= reached);
            keys.extend(revisions);
            replies += 1;
        }
        assert_eq!(keys, [2, 2, 3, 3, 4, 4]);
        // With what was before each of the later revisions holds 2.8 MB.
        assert_eq!(replies, if fragments { 5 } else { 3 });
    }
    served.stop().await;
}

/// A client that does not read is not waited for, and still misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_catches_up_from_history() {
    let options = Options { sync: false, watcher_limit: 50, ..Options::default() };
    let served = Served::with(options, |server| server).await;
    let mut client = served.client().await;
    let mut stream = client.watch("slow/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    assert!(next(&mut stream).await.created());
    const WRITES: usize = 3_000;
    for i in 0..WRITES {
        let put = store::Op::Put { key: format!("slow/{i}").into(), value: vec![b'x'; 5_000].into(), lease: 0 };
        served.store.txn(store::Txn { success: vec![put], ..store::Txn::default() }).await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < WRITES {
        let reply = next_events(&mut stream).await;
        heard.extend(reply.events().iter().map(|event| event.kv().unwrap().mod_revision()));
    }
    let first = heard[0];
    assert!(heard.iter().copied().eq((0..).take(WRITES).map(|i: i64| first + i)), "each once, in order");
    served.stop().await;
}

/// Watches and keep-alives end with the server; it does not wait for them.
#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let mut stream = client.watch("a", None).await.unwrap();
    assert!(next(&mut stream).await.created());
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let (_keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
    client.put("a", "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    assert_eq!(told(&next_events(&mut stream).await), ["+a=1"]);
    tokio::time::timeout(Duration::from_secs(4), served.stop()).await.expect("it does not wait for its clients");
    let end = tokio::time::timeout(DEADLINE, stream.message()).await.expect("it ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    let end = tokio::time::timeout(DEADLINE, answers.message()).await.expect("it ends");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}
