//! Every backend keeps the contract.

use std::sync::Arc;

use store::contract::{Store, cases};
use store::{Embedded, Memory, Options};

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
