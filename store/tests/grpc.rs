//! The store speaks etcd's API: to etcd's own command line, to the `etcd-client` crate, and as etcd itself does.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::sync::Arc;

use store::contract::{Store, cases};
use store::{Etcd, Options};

#[path = "grpc/answers.rs"]
mod answers;
#[path = "grpc/differential.rs"]
mod differential;
#[path = "contract/etcd.rs"]
mod etcd;
#[path = "grpc/etcdctl.rs"]
mod etcdctl;
#[path = "grpc/plain.rs"]
mod plain;
#[path = "grpc/served.rs"]
mod served;
#[path = "grpc/users.rs"]
mod users;
#[path = "grpc/watching.rs"]
mod watching;

use served::Served;

/// What goes through the API and back is what the contract says of any backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_behind_the_api_keeps_the_contract() {
    let served = Served::with(Options::default(), |server| server).await;
    let store = Etcd::connect(std::slice::from_ref(&served.url), Some(served.tls.clone())).await.unwrap();
    let store: Store = Arc::new(store);
    for case in cases() {
        if let Err(error) = tokio::spawn((case.run)(store.clone())).await {
            panic!("{}: {error}", case.name);
        }
    }
    drop(store);
    served.stop().await;
}

/// Nobody is let in without a certificate of the right authority.
#[tokio::test]
async fn a_stranger_is_not_let_in() {
    let served = Served::start().await;
    let other = etcd::Server::certificates();
    let mut stranger = served.tls.clone();
    (stranger.cert, stranger.key) = (other.client.0.into(), other.client.1.into());
    let refused = Etcd::connect(std::slice::from_ref(&served.url), Some(stranger)).await;
    assert!(matches!(refused, Err(store::Error::Unavailable { .. })), "{:?}", refused.err());
    let nobody = etcd_client::TlsOptions::new().ca_certificate(etcd_client::Certificate::from_pem(&served.tls.ca));
    let options = etcd_client::ConnectOptions::new().with_tls(nobody);
    let mut client = etcd_client::Client::connect([&served.url], Some(options)).await.unwrap();
    client.status().await.expect_err("it shows no certificate");
    served.client().await.status().await.expect("a known one is let in");
    served.stop().await;
}
