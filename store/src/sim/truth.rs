//! What really happened, as far as any member has said: what each revision changed. All that members and watches say later
//! must agree with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::kv::{Entry, Event, Revision, WatchBatch};
use crate::mvcc::codec::Writer;
use crate::mvcc::history::Revised;
use crate::mvcc::{Mvcc, Span};

/// See the module.
#[derive(Default)]
pub(crate) struct Truth {
    revisions: BTreeMap<Revision, Vec<Event>>,
    /// Checksum of the whole state after an entry of the log.
    states: BTreeMap<u64, u32>,
}

impl Truth {
    /// A member says what a revision changed.
    pub(crate) fn revision(&mut self, revised: &Arc<Revised>) -> Result<(), String> {
        let events: Vec<Event> = revised.changes.iter().map(|change| change.event(revised.revision)).collect();
        let known = self.revisions.entry(revised.revision).or_insert_with(|| events.clone());
        if *known != events {
            return Err(format!("revision {} is {events:?} here, but was {known:?}", revised.revision));
        }
        Ok(())
    }

    /// A member holds this after applying so much.
    pub(crate) fn state(&mut self, applied: u64, state: &Mvcc) -> Result<(), String> {
        let sum = checksum(state);
        let known = *self.states.entry(applied).or_insert(sum);
        if known != sum {
            return Err(format!("the state after entry {applied} is not what it was on another member"));
        }
        Ok(())
    }

    pub(crate) fn newest(&self) -> Revision {
        self.revisions.keys().next_back().copied().unwrap_or(0)
    }

    /// Whether a revision wrote this.
    pub(crate) fn wrote(&self, revision: Revision, key: &[u8], value: &[u8]) -> bool {
        let events = self.revisions.get(&revision).map_or(&[][..], Vec::as_slice);
        events.iter().any(|event| matches!(event, Event::Put { entry, .. } if entry.key == key && entry.value == value))
    }

    /// All values that were ever written, with where.
    pub(crate) fn written(&self) -> impl Iterator<Item = (Revision, Bytes)> {
        let events = self.revisions.iter().flat_map(|(revision, events)| events.iter().map(|event| (*revision, event)));
        events.filter_map(|(revision, event)| match event {
            Event::Put { entry, .. } => Some((revision, entry.value.clone())),
            Event::Delete { .. } => None,
        })
    }

    /// What a key was at a revision. None when that is not known, for the history seen began later.
    pub(crate) fn at(&self, key: &[u8], revision: Revision) -> Option<Entry> {
        self.revisions.range(..=revision).rev().flat_map(|(_, events)| events).find_map(|event| match event {
            Event::Put { entry, .. } if entry.key == key => Some(Some(entry.clone())),
            Event::Delete { key: deleted, .. } if deleted == key => Some(None),
            Event::Put { .. } | Event::Delete { .. } => None,
        })?
    }

    /// Checks what a watch of a range handed out, after it had handed out everything up to `after`.
    pub(crate) fn watched(
        &self,
        start: &Bytes,
        end: &Bytes,
        after: Revision,
        batch: &WatchBatch,
    ) -> Result<(), String> {
        if batch.revision < after {
            return Err(format!("a watch went back from {after} to {}", batch.revision));
        }
        let span = Span::new(start, end);
        let key = |event: &Event| match event {
            Event::Put { entry, .. } => entry.key.clone(),
            Event::Delete { key, .. } => key.clone(),
        };
        let expected = self
            .revisions
            .range(after..=batch.revision)
            .skip_while(|(at, _)| **at == after)
            .flat_map(|(_, events)| events);
        let expected: Vec<&Event> = expected.filter(|event| span.contains(&key(event))).collect();
        let handed: Vec<&Event> = batch.events.iter().collect();
        if handed != expected {
            return Err(format!(
                "a watch of {start:?}..{end:?} handed out {handed:?} for {}..={}, but what happened is {expected:?}",
                after + 1,
                batch.revision
            ));
        }
        Ok(())
    }
}

/// Of the whole state, history and leases included.
pub(crate) fn checksum(state: &Mvcc) -> u32 {
    let (mut hasher, mut items) = (crc32fast::Hasher::new(), Writer::default());
    let written = state.write_items(&mut items, |_| Ok::<(), std::convert::Infallible>(()));
    let Ok(()) = written;
    hasher.update(&items.0);
    hasher.finalize()
}
