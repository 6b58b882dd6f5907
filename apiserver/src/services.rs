//! Allocation at the right moment: one writer of Services at a time is given addresses and ports that no other has.

use api::field::Errors;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    allocate,
    cache::Cache,
    registry::{Stored, downcast, downcast_mut},
};

/// Who holds this may allocate.
#[derive(Default)]
pub struct Allocation(Mutex<()>);

impl Allocation {
    /// Waits for the turn of a write that may allocate; none for all others.
    pub async fn turn(&self, kind: &api::Kind) -> Option<MutexGuard<'_, ()>> {
        if api::Kind::of::<Service>() == Some(kind) { Some(self.0.lock().await) } else { None }
    }
}

/// Gives a Service what it wants. The cache must hold all Services written before; the caller must have the turn.
pub fn allocate(cache: &Cache, object: &mut dyn Stored) -> Errors {
    let Some(service) = downcast_mut::<Service>(object) else { return Errors::new() };
    let Some(kind) = api::Kind::of::<Service>().and_then(|kind| cache.kind(kind)) else { return Errors::new() };
    let own = |other: &Service| {
        other.metadata.name == service.metadata.name && other.metadata.namespace == service.metadata.namespace
    };
    let snapshot = kind.snapshot(0);
    let decoded: Vec<_> = snapshot.objects.values().filter_map(|item| item.decode(&*kind.entry).ok()).collect();
    let others: Vec<_> = decoded.iter().filter_map(|o| downcast::<Service>(&**o)).filter(|o| !own(o)).collect();
    allocate::allocate(service, &others)
}
