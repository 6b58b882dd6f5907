//! What watchers say of revisions, as a help where the history leaves it open which step made one. A hint is no proof: what
//! watchers say is checked when there is an order.

use std::collections::HashMap;

use bytes::Bytes;

use super::Nanos;
use super::watching::{Saw, Watch};
use crate::kv::{Event, Revision, WatchFrom};
use crate::mvcc::Span;
use crate::mvcc::history::Revised;

/// All that was said.
#[derive(Default)]
pub(super) struct Hints<'a> {
    events: HashMap<Revision, Vec<&'a Event>>,
    /// When a revision was first spoken of.
    since: HashMap<Revision, Nanos>,
    covered: Vec<Covered<'a>>,
    /// The newest revision that was spoken of.
    pub(super) newest: Revision,
}

/// Keys of which a watcher says that it has told everything between two revisions.
struct Covered<'a> {
    start: &'a Bytes,
    end: &'a Bytes,
    first: Revision,
    last: Revision,
}

impl<'a> Hints<'a> {
    pub(super) fn of(watches: &'a [Watch]) -> Self {
        let mut hints = Self::default();
        for watch in watches {
            let batches = watch.seen.iter().filter_map(|seen| match &seen.saw {
                Saw::Batch(batch) => Some((seen.at, batch)),
                Saw::Compacted | Saw::Ended => None,
            });
            let mut covered: Option<(Revision, Revision)> = None;
            for (at, batch) in batches {
                for event in &batch.events {
                    let since = hints.since.entry(event.revision()).or_insert(at);
                    *since = at.min(*since);
                    let events = hints.events.entry(event.revision()).or_default();
                    if !events.contains(&event) {
                        events.push(event);
                    }
                }
                let first = match watch.from {
                    WatchFrom::Revision(revision) => revision,
                    WatchFrom::Now => batch.events.first().map_or(batch.revision + 1, Event::revision),
                };
                covered = Some((covered.map_or(first, |(first, _)| first), batch.revision));
            }
            if let Some((first, last)) = covered {
                hints.newest = hints.newest.max(last);
                hints.covered.push(Covered { start: &watch.start, end: &watch.end, first, last });
            }
        }
        hints
    }

    /// How much of what watchers say speaks against a revision's having changed this, and not before `earliest`: events that it
    /// does not explain, changes that those who watched the key do not tell, and that it was told of before.
    pub(super) fn doubts(&self, revised: &Revised, earliest: Nanos) -> usize {
        let events = self.events.get(&revised.revision).map_or(&[][..], Vec::as_slice);
        let explains = |event: &Event| match event {
            Event::Put { entry, .. } => revised.changes.iter().any(|change| change.now.as_deref() == Some(entry)),
            Event::Delete { key, .. } => {
                revised.changes.iter().any(|change| change.now.is_none() && change.key() == key)
            }
        };
        let untold = |key: &Bytes| events.iter().all(|event| event.key() != key) && self.covers(revised.revision, key);
        let unexplained = events.iter().filter(|event| !explains(event)).count();
        let early = self.since.get(&revised.revision).is_some_and(|since| *since < earliest);
        usize::from(early) + unexplained + revised.changes.iter().filter(|change| untold(change.key())).count()
    }

    fn covers(&self, revision: Revision, key: &Bytes) -> bool {
        self.covered.iter().any(|covered| {
            (covered.first..=covered.last).contains(&revision) && Span::new(covered.start, covered.end).contains(key)
        })
    }
}
