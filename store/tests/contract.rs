//! Every backend keeps the contract.

use std::sync::Arc;

use store::Memory;
use store::contract::{Store, cases};

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
