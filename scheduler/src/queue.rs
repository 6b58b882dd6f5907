//! Pods that wait for a node: those to decide about now, those that failed a moment ago, and those that no node can take until
//! something changes.
//!
//! ```text
//!            pop                 refuse
//!  active ────────> (deciding) ────────> unschedulable
//!    ^                  │ fail                │ wake: a change that may cure a reason
//!    │                  v                     v
//!    └───────────── backoff <─────────────────┘   (at once to active when its backoff is over)
//! ```
//!
//! # Absent
//! No clock: `now` is handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use client::Key;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    filter,
    shape::Shape,
    snapshot::{NodeId, Snapshot},
};

/// The wait after a pod's first failure (upstream's `podInitialBackoffSeconds`).
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The wait after any number of failures (upstream's `podMaxBackoffSeconds`).
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// No pod stays unschedulable longer without another look, should a wake be missed.
pub const LONGEST_REST: Duration = Duration::from_secs(300);

/// A pod that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its shape.
    pub shape: Arc<Shape>,
    /// Decisions that failed so far.
    pub attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active { priority: i32, order: u64 },
    Backoff { until: Instant },
    Unschedulable,
    Deciding,
}

#[derive(Debug)]
struct Entry {
    waiting: Waiting,
    place: Place,
    /// When the last failure's backoff is over.
    until: Option<Instant>,
}

/// Unschedulable pods of one shape.
#[derive(Debug)]
struct Stuck {
    shape: Arc<Shape>,
    cures: u8,
    pods: BTreeMap<Key, Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    entries: AHashMap<Key, Entry>,
    active: BTreeMap<(std::cmp::Reverse<i32>, u64), Key>,
    backoff: BTreeSet<(Instant, Key)>,
    stuck: AHashMap<Arc<str>, Stuck>,
    added: u64,
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default()
}

impl Queue {
    /// A pod without a node was created or changed. One that changed where it may run is decided about again.
    pub fn apply(&mut self, pod: &Arc<Pod>) {
        let key = Key::of(&**pod);
        let shape = Arc::new(Shape::of(pod));
        let same_uid = |e: &Entry| e.waiting.pod.metadata.uid == pod.metadata.uid;
        if let Some(entry) = self.entries.get_mut(&key).filter(|e| same_uid(e) && e.waiting.shape.key == shape.key) {
            entry.waiting.pod = Arc::clone(pod);
            return;
        }
        self.remove(&key);
        let waiting = Waiting { pod: Arc::clone(pod), shape, attempts: 0 };
        self.entries.insert(key.clone(), Entry { waiting, place: Place::Deciding, until: None });
        self.activate(&key);
    }

    /// The pod is bound, gone, or no longer ours.
    pub fn remove(&mut self, key: &Key) {
        if self.entries.contains_key(key) {
            self.leave(key);
            self.entries.remove(key);
        }
    }

    /// The next pod to decide about: by priority, then by age. It stays here until [`Queue::remove`], [`Queue::refuse`] or
    /// [`Queue::fail`].
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        self.release(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key).expect("invariant: every active key has an entry");
        entry.place = Place::Deciding;
        Some(entry.waiting.clone())
    }

    /// No node can take the pod, until one of `cures` happens.
    pub fn refuse(&mut self, key: &Key, cures: u8, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.waiting.attempts += 1;
        entry.until = Some(now + backoff(entry.waiting.attempts));
        entry.place = Place::Unschedulable;
        let shape = &entry.waiting.shape;
        let empty = || Stuck { shape: Arc::clone(shape), cures: 0, pods: BTreeMap::new() };
        let stuck = self.stuck.entry(Arc::clone(&shape.key)).or_insert_with(empty);
        stuck.cures = cures;
        stuck.pods.insert(key.clone(), now);
    }

    /// The decision could not be carried out: again after a while.
    pub fn fail(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.waiting.attempts += 1;
        let until = now + backoff(entry.waiting.attempts);
        (entry.until, entry.place) = (Some(until), Place::Backoff { until });
        self.backoff.insert((until, key.clone()));
    }

    /// Something changed that may let pods in: something of `cures`, at that node if it is about one. Pods that look at one
    /// node alone and still do not fit there sleep on.
    pub fn wake(&mut self, cures: u8, at: Option<NodeId>, snapshot: &Snapshot, now: Instant) {
        let helps = |stuck: &Stuck| {
            let fits = || match at.and_then(|id| snapshot.node(id)) {
                Some(node) => filter::local(&stuck.shape, node).is_empty(),
                None => at.is_none(),
            };
            stuck.cures & cures != 0 && (!stuck.shape.local() || fits())
        };
        let woken: Vec<_> = self.stuck.iter().filter(|(_, s)| helps(s)).map(|(key, _)| Arc::clone(key)).collect();
        for shape in woken {
            let pods = self.stuck.remove(&shape).map(|s| s.pods).unwrap_or_default();
            pods.into_keys().for_each(|key| self.reconsider(&key, now));
        }
    }

    /// When something here happens by itself.
    pub fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let rest = self.stuck.values().flat_map(|s| s.pods.values()).min().map(|since| *since + LONGEST_REST);
        backoff.into_iter().chain(rest).min()
    }

    /// Pods to decide about now, in backoff, and unschedulable.
    pub fn lengths(&self) -> [usize; 3] {
        [self.active.len(), self.backoff.len(), self.stuck.values().map(|s| s.pods.len()).sum()]
    }

    fn release(&mut self, now: Instant) {
        while let Some((until, _)) = self.backoff.first()
            && *until <= now
        {
            let Some((_, key)) = self.backoff.pop_first() else { return };
            self.activate(&key);
        }
        let rested = |since: &Instant| now.duration_since(*since) >= LONGEST_REST;
        let keys: Vec<_> = self
            .stuck
            .values()
            .flat_map(|s| s.pods.iter().filter(|(_, since)| rested(since)).map(|(key, _)| key.clone()))
            .collect();
        for key in keys {
            self.leave(&key);
            self.reconsider(&key, now);
        }
    }

    fn reconsider(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match entry.until.filter(|until| *until > now) {
            Some(until) => {
                entry.place = Place::Backoff { until };
                self.backoff.insert((until, key.clone()));
            }
            None => self.activate(key),
        }
    }

    fn activate(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.added += 1;
        let (priority, order) = (priority(&entry.waiting.pod), self.added);
        entry.place = Place::Active { priority, order };
        self.active.insert((std::cmp::Reverse(priority), order), key.clone());
    }

    /// Takes the key out of whichever list it is in; its entry stays.
    fn leave(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.place {
            Place::Active { priority, order } => drop(self.active.remove(&(std::cmp::Reverse(priority), order))),
            Place::Backoff { until } => drop(self.backoff.remove(&(until, key.clone()))),
            Place::Unschedulable => {
                let shape = &entry.waiting.shape.key;
                let empty = self.stuck.get_mut(shape).is_some_and(|stuck| {
                    stuck.pods.remove(key);
                    stuck.pods.is_empty()
                });
                if empty {
                    self.stuck.remove(shape);
                }
            }
            Place::Deciding => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::cure;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.namespace = Some("web".into());
        pod.metadata.uid = Some(name.into());
        pod.spec.get_or_insert_default().priority = Some(priority);
        Arc::new(pod)
    }

    fn name(waiting: Option<Waiting>) -> Option<String> {
        waiting.and_then(|w| w.pod.metadata.name.clone())
    }

    #[test]
    fn priority_goes_first_and_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (pod_name, priority) in [("a", 0), ("b", 0), ("c", 7)] {
            queue.apply(&pod(pod_name, priority));
        }
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop(now))).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[test]
    fn a_refused_pod_wakes_for_a_cure_and_for_nothing_else() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let snapshot = Snapshot::default();
        queue.apply(&pod("a", 0));
        let waiting = queue.pop(now).unwrap();
        let key = Key::of(&*waiting.pod);
        queue.refuse(&key, cure::NODE | cure::LABELS, now);
        queue.apply(&waiting.pod);
        assert_eq!(queue.lengths(), [0, 0, 1], "a change of its status does not wake a pod");
        queue.wake(cure::POD_LEAVES, None, &snapshot, now);
        assert_eq!(queue.lengths(), [0, 0, 1]);
        queue.wake(cure::LABELS, None, &snapshot, now);
        assert_eq!(queue.lengths(), [0, 1, 0], "its backoff is not over");
        assert_eq!(queue.next_due(), Some(now + SECOND));
        assert!(queue.pop(now + SECOND).is_some());
        queue.refuse(&key, cure::LABELS, now + SECOND);
        queue.wake(cure::LABELS, None, &snapshot, now + 4 * SECOND);
        assert_eq!(queue.lengths(), [1, 0, 0]);
    }

    #[test]
    fn no_pod_is_forgotten() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.apply(&pod("a", 0));
        let key = Key::of(&*queue.pop(now).unwrap().pod);
        queue.refuse(&key, 0, now);
        assert!(queue.pop(now + LONGEST_REST - SECOND).is_none());
        assert!(queue.pop(now + LONGEST_REST).is_some());
        queue.remove(&key);
        assert_eq!((queue.lengths(), queue.next_due()), ([0, 0, 0], None));
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.apply(&pod("a", 0));
        let waits = [1, 2, 4, 8, 10, 10].map(|seconds| {
            let key = Key::of(&*queue.pop(now).unwrap().pod);
            queue.fail(&key, now);
            let due = queue.next_due().unwrap();
            assert_eq!(due - now, seconds * SECOND);
            now = due;
            seconds
        });
        assert_eq!(waits.len(), 6);
    }
}
