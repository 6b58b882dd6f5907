//! Every backend keeps the contract.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::sync::Arc;

use store::contract::{Store, cases};
use store::{Backend, Embedded, Etcd, Memory, Op, Options, Range, Txn};

#[path = "contract/etcd.rs"]
mod etcd;

/// Runs all cases on one store.
async fn keeps_contract(store: Store) {
    for case in cases() {
        if let Err(error) = tokio::spawn((case.run)(store.clone())).await {
            panic!("{}: {error}", case.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    keeps_contract(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path(), Options::default()).unwrap());
    keeps_contract(store.clone()).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let etcd = etcd::Server::start();
    keeps_contract(Arc::new(Etcd::connect(std::slice::from_ref(&etcd.plain), None).await.unwrap())).await;
}

#[tokio::test]
async fn etcd_is_reached_over_tls_with_a_client_certificate() {
    let etcd = etcd::Server::start();
    let secure = Etcd::connect(std::slice::from_ref(&etcd.secure), Some(etcd.tls.clone())).await.unwrap();
    let put = Op::Put { key: "secret".into(), value: "kept".into(), lease: 0 };
    secure.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
    let plain = Etcd::connect(std::slice::from_ref(&etcd.plain), None).await.unwrap();
    assert_eq!(plain.range(Range::key("secret")).await.unwrap().entries[0].value, "kept");

    let mut stranger = etcd.tls.clone();
    let other = etcd::Server::certificates();
    (stranger.cert, stranger.key) = (other.client.0.into(), other.client.1.into());
    let refused = Etcd::connect(std::slice::from_ref(&etcd.secure), Some(stranger)).await;
    assert!(matches!(refused, Err(store::Error::Unavailable { .. })), "{:?}", refused.err());
}
