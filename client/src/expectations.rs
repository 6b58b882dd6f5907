//! What a controller wrote and its cache does not show yet: until it does, counting would be wrong.
//!
//! Creations are awaited by revision: a cache that has seen the newest revision that was written has seen all of them
//! (resource versions of one kind are comparable, KEP-5504). Deletions are awaited by absence. Both are forgotten after
//! [`PATIENCE`], for a cache that was listed anew may never show what came and went.

use std::time::{Duration, Instant};

use ahash::AHashMap;
use kube::Resource;
use parking_lot::Mutex;

use crate::{Key, Object, Reader};

/// How long a cache may take to show a write.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The awaited writes of each owner. Shared by all reconciles of one controller.
#[derive(Debug, Default)]
pub struct Expectations {
    owners: Mutex<AHashMap<Key, Awaited>>,
}

#[derive(Debug, Default)]
struct Awaited {
    revision: u64,
    deleted: Vec<(Key, String)>,
    since: Option<Instant>,
}

/// The resource version of an object as a number; 0 when it has none.
pub fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default()
}

impl Expectations {
    /// `owner`'s controller created or changed an object: the answer was this.
    pub fn wrote<K: Resource>(&self, owner: &Key, answer: &K, now: Instant) {
        let mut owners = self.owners.lock();
        let awaited = owners.entry(owner.clone()).or_default();
        awaited.revision = awaited.revision.max(revision_of(answer));
        awaited.since = Some(now);
    }

    /// `owner`'s controller deleted this object.
    pub fn deleted<K: Resource>(&self, owner: &Key, object: &K, now: Instant) {
        let mut owners = self.owners.lock();
        let awaited = owners.entry(owner.clone()).or_default();
        let key = Key::new(
            object.meta().namespace.clone().unwrap_or_default(),
            object.meta().name.clone().unwrap_or_default(),
        );
        awaited.deleted.push((key, object.meta().uid.clone().unwrap_or_default()));
        awaited.since = Some(now);
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.owners.lock().remove(owner);
    }

    /// Whether the cache shows all that was written for `owner`. If not, how long it may still take; a change of the cache
    /// comes earlier, as a rule.
    pub fn missing<K: Object>(&self, owner: &Key, cache: &Reader<K>, now: Instant) -> Option<Duration> {
        let mut owners = self.owners.lock();
        let awaited = owners.get_mut(owner)?;
        awaited.deleted.retain(|(key, uid)| {
            cache
                .get(key)
                .is_some_and(|o| o.meta().uid.as_deref() == Some(uid.as_str()) && o.meta().deletion_timestamp.is_none())
        });
        let left = awaited.since.map_or(Duration::ZERO, |since| (since + PATIENCE).saturating_duration_since(now));
        let shown = awaited.deleted.is_empty() && cache.revision() >= awaited.revision;
        if shown || left.is_zero() {
            owners.remove(owner);
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::cache::testing::Feed;

    fn pod(name: &str, revision: u64) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("web".into());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.resource_version = Some(revision.to_string());
        pod
    }

    #[test]
    fn a_cache_that_lags_is_waited_for_but_not_for_ever() {
        let (mut feed, cache) = Feed::<Pod>::new();
        let (now, owner, expectations) = (Instant::now(), Key::new("web", "set"), Expectations::default());
        assert_eq!(expectations.missing(&owner, &cache, now), None);
        expectations.wrote(&owner, &pod("a", 7), now);
        assert_eq!(expectations.missing(&owner, &cache, now), Some(PATIENCE));
        feed.apply(pod("other", 6));
        assert!(expectations.missing(&owner, &cache, now).is_some());
        feed.apply(pod("a", 7));
        assert_eq!(expectations.missing(&owner, &cache, now), None);
        expectations.wrote(&owner, &pod("b", 9), now);
        assert_eq!(expectations.missing(&owner, &cache, now + PATIENCE), None, "patience is over");
    }

    #[test]
    fn a_deletion_is_shown_by_absence_or_by_its_timestamp() {
        let (mut feed, cache) = Feed::<Pod>::new();
        let (now, owner, expectations) = (Instant::now(), Key::new("web", "set"), Expectations::default());
        for name in ["a", "b"] {
            feed.apply(pod(name, 1));
            expectations.deleted(&owner, &pod(name, 1), now);
        }
        feed.delete(&Key::new("web", "a"));
        assert!(expectations.missing(&owner, &cache, now).is_some());
        let mut dying = pod("b", 3);
        let time = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        dying.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
        feed.apply(dying);
        assert_eq!(expectations.missing(&owner, &cache, now), None);
    }
}
