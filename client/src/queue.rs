//! A queue of keys with times: what to look at, when, and how long to wait after failures.
//!
//! # Guarantees
//! * A key is in the queue once; of two times the earlier wins.
//! * A key that was popped is not popped again before [`Queue::done`]; what is added meanwhile waits until then.
//! * Each failure of a key doubles its delay, from [`FIRST_DELAY`] to [`LONGEST_DELAY`]; one success forgets them (as
//!   upstream's `ItemExponentialFailureRateLimiter`, with a lower cap so that a cure is seen within a minute).
//!
//! # Absent
//! No clock and no waiting: `now` is handed in, and [`Queue::next_due`] says how long a shell may sleep.

use std::{
    collections::BTreeSet,
    hash::Hash,
    time::{Duration, Instant},
};

use ahash::AHashMap;

/// The delay after a key's first failure.
pub const FIRST_DELAY: Duration = Duration::from_millis(5);

/// The longest delay after any number of failures.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Queue<K> {
    waiting: BTreeSet<(Instant, u64, K)>,
    place: AHashMap<K, (Instant, u64)>,
    running: AHashMap<K, Option<Instant>>,
    failures: AHashMap<K, u32>,
    added: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeSet::new(),
            place: AHashMap::new(),
            running: AHashMap::new(),
            failures: AHashMap::new(),
            added: 0,
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Makes the key due at `at`, or earlier if it already is.
    pub fn add(&mut self, key: K, at: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = Some(again.map_or(at, |before| before.min(at)));
            return;
        }
        if let Some(&(before, order)) = self.place.get(&key) {
            if before <= at {
                return;
            }
            self.waiting.remove(&(before, order, key.clone()));
        }
        self.added += 1;
        self.place.insert(key.clone(), (at, self.added));
        self.waiting.insert((at, self.added, key));
    }

    /// The key that has been due longest, if any is due. The caller owns it until [`Queue::done`].
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        if self.waiting.first()?.0 > now {
            return None;
        }
        let (_, _, key) = self.waiting.pop_first()?;
        self.place.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// When the next key becomes due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _, _)| *at)
    }

    /// Gives a popped key back: it succeeded, and is wanted again at `again` if at all.
    pub fn done(&mut self, key: K, again: Option<Instant>) {
        self.failures.remove(&key);
        self.give_back(key, again);
    }

    /// Gives a popped key back: it failed, and is due again after its delay, which is returned.
    pub fn failed(&mut self, key: K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(20)).min(LONGEST_DELAY);
        *failures += 1;
        // What changed meanwhile does not shorten the delay: it may be our own failed attempts that changed it.
        self.running.insert(key.clone(), None);
        self.give_back(key, Some(now + delay));
        delay
    }

    /// Keys that wait, due or not.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn give_back(&mut self, key: K, again: Option<Instant>) {
        let meanwhile = self.running.remove(&key).flatten();
        if let Some(at) = again.into_iter().chain(meanwhile).min() {
            self.add(key, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_earlier_of_two_times_wins() {
        let t = Instant::now();
        let mut queue = Queue::default();
        queue.add("a", t + 10 * MS);
        queue.add("a", t + 2 * MS);
        queue.add("a", t + 20 * MS);
        assert_eq!((queue.len(), queue.next_due()), (1, Some(t + 2 * MS)));
        assert_eq!(queue.pop(t + MS), None);
        assert_eq!(queue.pop(t + 2 * MS), Some("a"));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_running_key_waits_for_itself() {
        let t = Instant::now();
        let mut queue = Queue::default();
        queue.add("a", t);
        assert_eq!(queue.pop(t), Some("a"));
        queue.add("a", t);
        assert_eq!(queue.pop(t + MS), None, "it is still running");
        queue.done("a", Some(t + 50 * MS));
        assert_eq!(queue.pop(t + MS), Some("a"), "what changed meanwhile is looked at before the time asked for");
        queue.done("a", None);
        assert!(queue.is_empty());
    }

    #[test]
    fn failures_double_the_delay_and_success_forgets_them() {
        let t = Instant::now();
        let mut queue = Queue::default();
        let mut delays = Vec::new();
        for _ in 0..20 {
            queue.add("a", t);
            let due = queue.next_due().unwrap();
            queue.pop(due);
            delays.push(queue.failed("a", t));
        }
        assert_eq!(delays[..3], [5 * MS, 10 * MS, 20 * MS]);
        assert_eq!(delays[19], LONGEST_DELAY);
        queue.add("a", t);
        queue.pop(t);
        queue.done("a", None);
        queue.add("a", t);
        queue.pop(t);
        assert_eq!(queue.failed("a", t), FIRST_DELAY);
    }

    proptest! {
        /// However adds, pops and dones interleave: never two of one key, none is lost, and nothing comes before its time.
        #[test]
        fn no_key_is_lost_or_doubled(steps in prop::collection::vec((0u8..3, 0u8..5, 0u64..20), 1..200)) {
            let start = Instant::now();
            let (mut now, mut queue) = (start, Queue::default());
            let mut wanted = std::collections::BTreeMap::<u8, Instant>::new();
            let mut running = std::collections::BTreeSet::new();
            for (what, key, after) in steps {
                let at = now + Duration::from_millis(after);
                match what {
                    0 => {
                        queue.add(key, at);
                        let time = wanted.entry(key).or_insert(at);
                        *time = (*time).min(at);
                    }
                    1 => {
                        now = at;
                        if let Some(key) = queue.pop(now) {
                            prop_assert!(running.insert(key));
                            prop_assert!(wanted.remove(&key).is_some_and(|due| due <= now));
                        }
                    }
                    _ => if running.remove(&key) { queue.done(key, None); },
                }
            }
            for key in running { queue.done(key, None); }
            let mut left = std::collections::BTreeSet::new();
            while let Some(key) = queue.pop(now + Duration::from_secs(1)) { left.insert(key); }
            prop_assert_eq!(left, wanted.into_keys().collect());
        }
    }
}
