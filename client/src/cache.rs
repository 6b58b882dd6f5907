//! Watch caches: one list-and-watch per kind and process, shared by all who read that kind.
//!
//! # Guarantees
//! * A [`Reader`] sees objects in the order in which the API server committed them, and never goes back.
//! * After [`Reader::synced`] it holds at least what existed when it was asked for.
//! * Every change that a subscriber has not seen is delivered, in order; after a relist, what vanished meanwhile comes as
//!   [`Change::Deleted`].
//!
//! # Caveats
//! * What one just wrote may not be here yet: controllers keep expectations.

use std::{any::Any, collections::BTreeMap, fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use ahash::{AHashMap, AHashSet};
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{ObjectMeta, Selector, SelectorExt},
    runtime::{WatchStreamExt, utils::Backoff, watcher},
};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

/// How long a broken watch waits before it is tried again: doubled each time, up to [`LONGEST_RETRY`].
pub const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The longest wait before a broken watch is tried again: a node must notice soon that its server is back.
pub const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// What every cached kind can do.
pub trait Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// Names an object of one kind; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace, or empty.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// The key in this metadata.
    pub fn of_meta(meta: &ObjectMeta) -> Self {
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }

    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One change of the cache.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// Created or changed.
    Applied {
        /// As it was known before, if it was.
        old: Option<Arc<K>>,
        /// As it is now.
        new: Arc<K>,
    },
    /// Gone.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted(old) => old,
        }
    }
}

/// The read half of a cache. Cheap to clone.
pub struct Reader<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Reader<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    by_owner: AHashMap<String, AHashSet<Key>>,
    revision: u64,
    subscribers: Vec<mpsc::UnboundedSender<Change<K>>>,
}

impl<K: Object> Reader<K> {
    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.state.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.state.read().objects.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.state.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, in name order.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        let first = Key::new(namespace, "");
        state.objects.range(first..).take_while(|(k, _)| k.namespace == namespace).map(|(_, o)| Arc::clone(o)).collect()
    }

    /// The objects that name this uid among their owners, in no order.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        let keys = state.by_owner.get(uid).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// The objects of one namespace whose labels the selector chooses, in name order.
    pub fn select(&self, namespace: &str, selector: &Selector) -> Vec<Arc<K>> {
        let mut objects = self.list_in(namespace);
        objects.retain(|o| selector.matches(o.labels()));
        objects
    }

    /// The newest revision that this cache has seen: all that was written to this kind up to it is in here.
    pub fn revision(&self) -> u64 {
        self.shared.state.read().revision
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // invariant: the sender lives in `shared`, which self holds
        synced.wait_for(|done| *done).await.expect("cache writer outlives its readers");
    }

    /// All objects as `Applied`, then every change. The channel is unbounded: a subscriber must only note keys and return.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change<K>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.shared.state.write();
        for object in state.objects.values() {
            // the receiver is held below: this cannot fail
            drop(sender.send(Change::Applied { old: None, new: Arc::clone(object) }));
        }
        state.subscribers.push(sender);
        receiver
    }
}

impl<K: Object> State<K> {
    fn apply(&mut self, object: K) {
        let key = Key::of(&object);
        self.revision = self.revision.max(crate::expectations::revision_of(&object));
        let new = Arc::new(object);
        let old = self.objects.insert(key.clone(), Arc::clone(&new));
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        for owner in new.owner_references() {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        self.tell(&Change::Applied { old, new });
    }

    fn delete(&mut self, key: &Key) {
        if let Some(old) = self.objects.remove(key) {
            self.unindex(key, &old);
            self.tell(&Change::Deleted(old));
        }
    }

    fn unindex(&mut self, key: &Key, object: &K) {
        for owner in object.owner_references() {
            if let Some(keys) = self.by_owner.get_mut(&owner.uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
    }

    fn tell(&mut self, change: &Change<K>) {
        self.subscribers.retain(|s| s.send(change.clone()).is_ok());
    }
}

/// All watch caches of a process. A kind is watched from the first time that somebody asks for it.
#[derive(Clone)]
pub struct Caches {
    client: Client,
    readers: Arc<Mutex<AHashMap<ReaderId, AnyReader>>>,
}

/// A kind and a field selector.
type ReaderId = (std::any::TypeId, String);

/// A `Reader` of the id's kind.
type AnyReader = Box<dyn Any + Send + Sync>;

impl Caches {
    /// Caches over this connection.
    pub fn new(client: Client) -> Self {
        Self { client, readers: Arc::default() }
    }

    /// The same caches, for a component of this process that writes as somebody else: what is watched once is read by all.
    #[must_use]
    pub fn acting_as(&self, client: Client) -> Self {
        Self { client, readers: Arc::clone(&self.readers) }
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// All objects of a kind.
    pub fn reader<K: Object>(&self) -> Reader<K> {
        self.reader_of_fields("")
    }

    /// The objects of a kind that a field selector chooses, such as `spec.nodeName=a`. Must be called inside a runtime.
    pub fn reader_of_fields<K: Object>(&self, selector: &str) -> Reader<K> {
        let id = (std::any::TypeId::of::<K>(), selector.to_owned());
        let mut readers = self.readers.lock();
        if let Some(reader) = readers.get(&id).and_then(|r| r.downcast_ref::<Reader<K>>()) {
            return reader.clone();
        }
        let reader = start(Api::all(self.client.clone()), selector);
        readers.insert(id, Box::new(reader.clone()));
        reader
    }
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), by_owner: AHashMap::new(), revision: 0, subscribers: Vec::new() };
        Self { state: RwLock::new(state), synced: watch::Sender::new(false) }
    }
}

fn start<K: Object>(api: Api<K>, selector: &str) -> Reader<K> {
    let shared = Arc::new(Shared::default());
    let mut config = watcher::Config::default();
    if !selector.is_empty() {
        config = config.fields(selector);
    }
    let events = watcher(api, config).backoff(Retry::default());
    tokio::spawn(write(Arc::clone(&shared), events));
    Reader { shared }
}

/// The write half: the only task that changes the cache.
async fn write<K: Object>(
    shared: Arc<Shared<K>>,
    events: impl futures::Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
) {
    let mut listed: AHashSet<Key> = AHashSet::new();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let key = Key::of(&object);
                let mut state = shared.state.write();
                if state.objects.get(&key).is_none_or(|o| o.resource_version() != object.resource_version()) {
                    state.apply(object);
                }
                listed.insert(key);
            }
            Ok(watcher::Event::InitDone) => {
                let mut state = shared.state.write();
                let gone: Vec<_> = state.objects.keys().filter(|k| !listed.contains(*k)).cloned().collect();
                gone.iter().for_each(|key| state.delete(key));
                drop(state);
                shared.synced.send_replace(true);
            }
            Ok(watcher::Event::Apply(object)) => shared.state.write().apply(object),
            Ok(watcher::Event::Delete(object)) => {
                let mut state = shared.state.write();
                state.revision = state.revision.max(crate::expectations::revision_of(&object));
                state.delete(&Key::of(&object));
            }
            Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch will be retried"),
        }
    }
}

/// Doubling waits for a broken watch; the first success starts anew.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_RETRY);
        self.failures += 1;
        // Up to a quarter less, so that nodes do not all come back at once.
        Some(wait.mul_f64(rand::random_range(0.75..=1.0)))
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A cache that is written by hand, for tests of those who read it.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::sync::Arc;

    use super::{Key, Object, Reader, Shared};

    /// The write half.
    pub struct Feed<K> {
        shared: Arc<Shared<K>>,
    }

    impl<K: Object> Feed<K> {
        /// An empty cache that counts as synced.
        pub fn new() -> (Self, Reader<K>) {
            let shared = Arc::new(Shared::default());
            shared.synced.send_replace(true);
            (Self { shared: Arc::clone(&shared) }, Reader { shared })
        }

        /// The object was created or changed.
        pub fn apply(&mut self, object: K) {
            self.shared.state.write().apply(object);
        }

        /// The object is gone.
        pub fn delete(&mut self, key: &Key) {
            self.shared.state.write().delete(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
    use watcher::Event;

    use super::*;

    fn pod(name: &str, revision: u64, owner: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("web".into());
        pod.metadata.name = Some(name.into());
        pod.metadata.resource_version = Some(revision.to_string());
        pod.metadata.owner_references = Some(vec![OwnerReference { uid: owner.into(), ..OwnerReference::default() }]);
        pod
    }

    async fn after(events: Vec<Event<Pod>>) -> (Reader<Pod>, mpsc::UnboundedReceiver<Change<Pod>>) {
        let shared = Arc::new(Shared::default());
        let reader = Reader { shared: Arc::clone(&shared) };
        let changes = reader.subscribe();
        write(shared, stream::iter(events.into_iter().map(Ok))).await;
        (reader, changes)
    }

    fn told(mut changes: mpsc::UnboundedReceiver<Change<Pod>>) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(change) = changes.try_recv() {
            all.push(match change {
                Change::Applied { old: None, new } => format!("+{}", new.name_any()),
                Change::Applied { old: Some(_), new } => format!("~{}", new.name_any()),
                Change::Deleted(old) => format!("-{}", old.name_any()),
            });
        }
        all
    }

    #[tokio::test]
    async fn a_relist_tells_only_what_changed_and_what_vanished() {
        let first =
            [Event::Init, Event::InitApply(pod("a", 1, "x")), Event::InitApply(pod("b", 2, "x")), Event::InitDone];
        let second =
            [Event::Init, Event::InitApply(pod("b", 2, "x")), Event::InitApply(pod("c", 5, "y")), Event::InitDone];
        let (reader, changes) = after(first.into_iter().chain(second).collect()).await;
        assert_eq!(told(changes), ["+a", "+b", "+c", "-a"]);
        assert_eq!(reader.list_in("web").len(), 2);
        assert_eq!(reader.revision(), 5);
        reader.synced().await;
    }

    #[tokio::test]
    async fn the_owner_index_follows_changes() {
        let (reader, changes) = after(vec![
            Event::Apply(pod("a", 1, "x")),
            Event::Apply(pod("a", 2, "y")),
            Event::Apply(pod("b", 3, "y")),
            Event::Delete(pod("b", 4, "y")),
        ])
        .await;
        assert_eq!(told(changes), ["+a", "~a", "+b", "-b"]);
        assert!(reader.by_owner("x").is_empty());
        assert_eq!(reader.by_owner("y").len(), 1);
        assert_eq!(reader.revision(), 4, "a deletion is a revision too");
    }

    #[test]
    fn retries_double_up_to_their_limit() {
        let mut retry = Retry::default();
        let waits: Vec<_> = retry.by_ref().take(12).collect();
        assert!(waits[0] <= FIRST_RETRY && waits[11] <= LONGEST_RETRY && waits[11] > waits[0]);
        retry.reset();
        assert!(retry.next() <= Some(FIRST_RETRY));
    }
}
