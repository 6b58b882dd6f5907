//! The past: changes by revision, reads at a revision, and what of it is kept.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{BEGINNING, Millis, Mvcc, Span, size};
use crate::backend::Error;
use crate::kv::{Entry, Event, Revision};
use crate::planted::{self, Bug};

/// How much history a store keeps by itself. The newest state is always kept; this is about what was superseded, which
/// reads at a revision and watches from a past revision need.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// At most so many revisions.
    pub revisions: usize,
    /// At most so many bytes of memory: superseded keys and values, and what it costs to keep them ([`CHANGE`], [`VERSION`]).
    pub bytes: u64,
    /// Revisions older than this go, but for the newest `floor`.
    pub age: Duration,
    /// So many revisions stay however old they are (unless `bytes` is exceeded), so that on a quiet cluster a client that
    /// was away for an hour resumes its watch instead of listing again.
    pub floor: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { revisions: 1_000_000, bytes: 64 << 20, age: Duration::from_secs(24 * 3600), floor: 1_000 }
    }
}

/// What the record of one change takes beside the version that it ended, bytes: two allocations and a place in the log.
pub const CHANGE: u64 = 128;

/// What a superseded version takes beside its key and value, bytes: its fields, their allocations and a place in the map.
pub const VERSION: u64 = 256;

/// One key's change: `now` is none for a removal; `prev` is none for a creation.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) now: Option<Arc<Entry>>,
    pub(crate) prev: Option<Arc<Entry>>,
}

impl Change {
    pub(crate) fn key(&self) -> &Bytes {
        &self.now.as_ref().or(self.prev.as_ref()).expect("invariant: a change has a side").key
    }

    pub(crate) fn event(&self, revision: Revision) -> Event {
        let prev = self.prev.as_ref().filter(|_| !planted::is(Bug::PrevForgotten)).map(|entry| Entry::clone(entry));
        match &self.now {
            Some(entry) => Event::Put { entry: Entry::clone(entry), prev },
            None => Event::Delete { key: self.key().clone(), revision, prev },
        }
    }
}

/// Everything that one revision changed.
#[derive(Debug)]
pub(crate) struct Revised {
    pub(crate) revision: Revision,
    pub(crate) at: Millis,
    pub(crate) changes: Box<[Change]>,
    /// What dropping this frees.
    pub(super) bytes: u64,
}

impl Revised {
    pub(super) fn new(revision: Revision, at: Millis, changes: Vec<Change>) -> Self {
        let cost = |change: &Change| CHANGE + change.prev.as_deref().map_or(0, |prev| VERSION + size(prev));
        let bytes = changes.iter().map(cost).sum();
        Self { revision, at, changes: changes.into(), bytes }
    }
}

impl Mvcc {
    /// Calls `take` with each entry of the range as it was at a readable revision, in key order, until it breaks off.
    pub(crate) fn each_at<B>(
        &self,
        revision: Revision,
        start: &Bytes,
        end: &Bytes,
        take: &mut dyn FnMut(&Arc<Entry>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let span = Span::new(start, end);
        let mut current = self.current(span).filter(|entry| entry.mod_revision <= revision).peekable();
        // A key has at most one version at a revision, so the two ordered streams never hold the same key.
        let old = self
            .past
            .range((start.clone(), 0)..)
            .take_while(|((key, _), _)| span.contains(key))
            .filter(|((_, ended), entry)| entry.mod_revision <= revision && revision < *ended)
            .map(|(_, entry)| entry);
        for entry in old {
            while let Some(earlier) = current.next_if(|current| current.key < entry.key) {
                take(earlier)?;
            }
            take(entry)?;
        }
        current.try_for_each(take)
    }

    /// The first revision from which on all that changed is known.
    pub(crate) fn oldest_change(&self) -> Revision {
        // Nothing changed in the revision that a store begins with.
        if self.compacted <= BEGINNING { BEGINNING } else { self.base + 1 }
    }

    /// What changed in each revision from `from` on, which must not be before [`Self::oldest_change`].
    pub(crate) fn changes_from(&self, from: Revision) -> impl Iterator<Item = &Arc<Revised>> {
        let skip = from.saturating_sub(self.base + 1);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.log.len());
        self.log.focus().narrow(skip..).into_iter()
    }

    /// Up to where history should be forgotten now, when there is enough of it to be worth a command.
    pub fn due_compaction(&self, window: &Window) -> Option<Revision> {
        let mut drop = self.log.len().saturating_sub(window.revisions);
        let oldest = self.now.saturating_sub(u64::try_from(window.age.as_millis()).unwrap_or(u64::MAX));
        let spare = self.log.len().saturating_sub(window.floor);
        if spare > 0 && self.log.front().is_some_and(|first| first.at < oldest) {
            let aged = self.log.binary_search_by(|item| match item.at < oldest {
                true => std::cmp::Ordering::Less,
                false => std::cmp::Ordering::Greater,
            });
            drop = drop.max(aged.unwrap_or_else(|at| at).min(spare));
        }
        // A command that frees a sixteenth of what there is costs next to nothing.
        let slack = self.log.len() / 16;
        if self.past_bytes > window.bytes {
            let mut left = self.past_bytes;
            let enough = window.bytes - window.bytes / 16;
            let heavy = self.log.iter().take_while(|item| {
                let more = left > enough;
                left -= item.bytes;
                more
            });
            drop = drop.max(heavy.count());
        } else if drop <= slack {
            return None;
        }
        let revision = self.revision.min(self.base + drop as u64 + 1);
        (drop > 0 && revision > self.compacted).then_some(revision)
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Future { asked: revision, newest: self.revision });
        }
        if revision <= self.compacted {
            return Err(Error::Compacted { asked: revision, oldest: self.compacted });
        }
        // The changes of the revision itself stay, so that it can be watched from, too.
        while self.log.front().is_some_and(|item| item.revision < revision) {
            let item = self.log.pop_front().expect("invariant: front was there");
            for prev in item.changes.iter().filter_map(|change| change.prev.as_ref()) {
                self.past.remove(&(prev.key.clone(), item.revision));
            }
            self.past_bytes -= item.bytes;
        }
        self.compacted = revision;
        self.base = self.base.max(revision - 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Op, Range, Txn};
    use crate::mvcc::{Action, Command};

    fn put(state: &mut Mvcc, now: Millis, key: &str, bytes: usize) {
        let put = Op::Put { key: key.to_owned().into(), value: vec![0; bytes].into(), lease: 0 };
        let action = Action::Txn(Txn { success: vec![put], ..Txn::default() });
        state.apply(&Command::new(now, action)).unwrap();
    }

    fn filled(writes: u64, bytes: usize) -> Mvcc {
        let mut state = Mvcc::default();
        (0..writes).for_each(|i| put(&mut state, i * 1000, "key", bytes));
        state
    }

    #[test]
    fn each_bound_of_the_window_is_kept() {
        let all = Window { revisions: usize::MAX, bytes: u64::MAX, age: Duration::MAX, floor: 0 };
        let state = filled(1000, 100);
        assert_eq!(state.due_compaction(&all), None);
        assert_eq!(state.due_compaction(&Window { revisions: 400, ..all }), Some(602));
        assert_eq!(state.due_compaction(&Window { revisions: 990, ..all }), None, "ten are not worth a command");
        let aged = Window { revisions: 10_000, age: Duration::from_secs(99), ..all };
        assert_eq!(state.due_compaction(&Window { floor: 100, ..aged }), Some(902));
        assert_eq!(state.due_compaction(&Window { floor: 300, ..aged }), Some(702), "the floor stays");
        let each = CHANGE + VERSION + 103;
        let heavy = state.due_compaction(&Window { bytes: 100 * each, floor: 900, ..all }).unwrap();
        assert!((902..922).contains(&heavy), "100 versions, less some: {heavy}");
    }

    #[test]
    fn compaction_frees_what_it_forgets() {
        let mut state = filled(1000, 100);
        let each = CHANGE + VERSION + 103;
        state.apply(&Command::new(0, Action::Compact(992))).unwrap();
        assert_eq!((state.log.len(), state.past.len(), state.past_bytes), (10, 10, 10 * each));
        state.apply(&Command::new(0, Action::Compact(1001))).unwrap();
        assert_eq!(
            (state.log.len(), state.past.len(), state.past_bytes),
            (1, 1, each),
            "the newest can be watched from"
        );
        assert_eq!(state.bytes(), 103);
    }

    #[test]
    fn a_clone_does_not_move() {
        let mut state = filled(10, 1);
        let snapshot = state.clone();
        put(&mut state, 0, "other", 1);
        let all = Range { end: Bytes::from_static(&[0]), ..Range::default() };
        assert_eq!(snapshot.range(&all).unwrap().count, 1);
        assert_eq!(state.range(&all).unwrap().count, 2);
    }
}
