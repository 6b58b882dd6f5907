//! Expiry: the store leases of objects that die by themselves, one lease for all that are written within a minute.

use std::sync::Arc;

use ahash::AHashMap;
use store::{Backend, LeaseId};
use tokio::sync::Mutex;

/// Objects written within this time share a lease, seconds; they may live that much longer.
const BUCKET: i64 = 60;

/// The leases in use, by time to live: when it was granted, and which.
#[derive(Default)]
pub struct Expiry {
    current: Mutex<AHashMap<i64, (i64, LeaseId)>>,
}

impl Expiry {
    /// A lease for an object that is to live `ttl` seconds from `now` (seconds since 1970).
    pub async fn lease(&self, backend: &Arc<dyn Backend>, ttl: i64, now: i64) -> Result<LeaseId, store::Error> {
        let mut current = self.current.lock().await;
        if let Some((granted, lease)) = current.get(&ttl)
            && (0..BUCKET).contains(&(now - granted))
        {
            return Ok(*lease);
        }
        let lease = backend.grant(ttl + BUCKET).await?;
        current.insert(ttl, (now, lease));
        Ok(lease)
    }

    /// Forgets the current leases: one of them is not known to the store any more.
    pub async fn forget(&self) {
        self.current.lock().await.clear();
    }
}
