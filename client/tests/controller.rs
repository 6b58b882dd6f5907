//! The reconcile loop, driven by a stream of keys.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use client::{Caches, Controller, Error, Key, Next, Reconcile, local};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Seen {
    looks: BTreeMap<String, Vec<Instant>>,
    running: BTreeMap<String, usize>,
}

/// Does what a key's name says: `fail`s twice, `panic`s once, or wants to look `again` soon.
struct Script(Arc<Mutex<Seen>>, mpsc::UnboundedSender<()>);

impl Reconcile for Script {
    type Object = Pod;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let looks = {
            let mut seen = self.0.lock();
            let running = seen.running.entry(key.name.clone()).or_default();
            *running += 1;
            assert_eq!(*running, 1, "{key} is looked at twice at once");
            let looks = seen.looks.entry(key.name.clone()).or_default();
            looks.push(Instant::now());
            looks.len()
        };
        tokio::task::yield_now().await;
        self.0.lock().running.insert(key.name.clone(), 0);
        self.1.send(()).ok();
        match (key.name.as_str(), looks) {
            ("fail", 1 | 2) => Err(Error::object::<Pod>(key, "of the test")),
            ("panic", 1) => panic!("of the test"),
            ("again", 1) => Ok(Next::After(Duration::from_millis(30))),
            _ => Ok(Next::AwaitChange),
        }
    }
}

#[tokio::test]
async fn keys_are_looked_at_until_they_succeed_and_never_twice_at_once() {
    let nobody = tower::service_fn(async |_: http::Request<kube::client::Body>| {
        Ok::<_, kube::Error>(http::Response::new(String::new()))
    });
    let caches = Caches::new(local::client(nobody, std::convert::identity));
    let (keys, mut wanted) = mpsc::unbounded_channel();
    let (told, mut looks) = mpsc::unbounded_channel();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let script = Script(Arc::clone(&seen), told);
    let shutdown = CancellationToken::new();
    let stream = futures::stream::poll_fn(move |cx| wanted.poll_recv(cx));
    let running = tokio::spawn(Controller::of_keys("test", &caches, script).also(stream).run(shutdown.clone()));
    for _ in 0..50 {
        for name in ["fail", "panic", "again", "well"] {
            keys.send(Key::new("", name)).unwrap();
        }
    }
    let enough = async {
        let count = |name| seen.lock().looks.get(name).map_or(0, Vec::len);
        while count("fail") < 3 || count("panic") < 2 || count("again") < 2 || count("well") < 1 {
            looks.recv().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), enough).await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
    let seen = seen.lock();
    let fail = &seen.looks["fail"];
    assert!(fail[2] - fail[1] >= Duration::from_millis(10), "the second failure waits longer");
}
