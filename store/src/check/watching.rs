//! What watchers saw, held against the order of what happened, event by event.
//!
//! # What is guaranteed
//! The words are those of etcd's documentation.
//! * Ordered, unique: revisions only grow, and none comes again.
//! * Reliable: from the watch's start to the revision that it says it has reached, no change of its range is missing.
//! * Atomic: a revision is handed out whole.
//! * Resumable: a watch from a past revision hands out everything from there, unless that is compacted; and it is said to be
//!   compacted only when it is.
//! * Bookmarkable: a watch says that it has reached a revision only when everything up to it was handed out.
//! * And what an event tells is what happened, as is what it says was before; nothing is told before it can have happened.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::order::{Linearization, Made};
use super::{Nanos, Rules, Violation, explain};
use crate::backend::Error;
use crate::kv::{Event, Revision, WatchBatch, WatchFrom};
use crate::mvcc::Span;
use crate::mvcc::history::Change;

/// One watch, from its opening to its end. A watcher that resumes opens another.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Who watches. It only helps the reader.
    pub client: u64,
    /// When it was asked for.
    pub called: Nanos,
    /// When it was open; none if it never was.
    pub opened: Option<Nanos>,
    /// The first key.
    pub start: Bytes,
    /// As in [`crate::Range`].
    pub end: Bytes,
    /// Where it starts.
    pub from: WatchFrom,
    /// What it saw, in the order in which it did.
    pub seen: Vec<Seen>,
}

/// One thing seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Nanos,
    /// What.
    pub saw: Saw,
}

/// What a watcher sees.
#[derive(Clone, Debug)]
pub enum Saw {
    /// Changes, or progress.
    Batch(WatchBatch),
    /// The end: what is asked for is compacted.
    Compacted,
    /// The end, for a reason that says nothing of the history: too slow, closed, disconnected.
    Ended,
}

impl Saw {
    /// What an error says of the history.
    pub fn end(error: &Error) -> Self {
        if let Error::Compacted { .. } = error { Self::Compacted } else { Self::Ended }
    }
}

/// Checks what watchers saw.
///
/// # Errors
/// The first that is wrong.
pub fn watches(order: &Linearization, watches: &[Watch], rules: &Rules) -> Result<(), Violation> {
    watches.iter().try_for_each(|watch| Check { order, rules, watch, next: start(watch), reached: 0 }.run())
}

/// The first revision that a watch is owed; none while only the store knows.
fn start(watch: &Watch) -> Option<Revision> {
    match watch.from {
        WatchFrom::Now => None,
        WatchFrom::Revision(revision) => Some(revision),
    }
}

struct Check<'a> {
    order: &'a Linearization,
    rules: &'a Rules,
    watch: &'a Watch,
    /// Everything before was handed out, or was before the start.
    next: Option<Revision>,
    /// What the watch said that it has reached.
    reached: Revision,
}

impl Check<'_> {
    fn run(mut self) -> Result<(), Violation> {
        let mut ended = false;
        for (at, seen) in self.watch.seen.iter().enumerate() {
            let checked = match &seen.saw {
                _ if ended => Err("it went on after its end".to_owned()),
                Saw::Batch(batch) => self.batch(batch, seen.at),
                Saw::Compacted => self.compacted(seen.at),
                Saw::Ended => Ok(()),
            };
            checked.map_err(|what| self.violation(&what, at))?;
            ended = !matches!(seen.saw, Saw::Batch(_));
        }
        Ok(())
    }

    fn batch(&mut self, batch: &WatchBatch, at: Nanos) -> Result<(), String> {
        let newest = self.order.newest_at(at);
        let next = self.next(batch);
        let told = self.told(batch, next, newest)?;
        if batch.revision < self.reached {
            return Err(format!(
                "it says that it has reached {}, after it had reached {}",
                batch.revision, self.reached
            ));
        }
        if batch.revision > newest {
            return Err(format!(
                "it says that it has reached {}, which is to come: {newest} is the newest",
                batch.revision
            ));
        }
        if let Some(last) = told.keys().next_back().filter(|last| **last > batch.revision) {
            return Err(format!(
                "it says that it has reached {}, less than {last}, which it hands out",
                batch.revision
            ));
        }
        for made in self.order.from(next).iter().take_while(|made| made.revised.revision <= batch.revision) {
            self.whole(made, told.get(&made.revised.revision).map_or(&[], Vec::as_slice), at)?;
        }
        self.reached = batch.revision;
        self.next = Some(next.max(batch.revision + 1));
        Ok(())
    }

    /// The first revision that is owed. A watch from now starts somewhere before the first thing that it says, and no later
    /// than at what can have been there when it was open.
    fn next(&self, batch: &WatchBatch) -> Revision {
        self.next.unwrap_or_else(|| {
            let first = batch.events.first().map_or(batch.revision + 1, Event::revision);
            let opened = self.watch.opened.map_or(Revision::MAX, |at| self.order.newest_at(at) + 1);
            first.min(opened)
        })
    }

    /// The events of a batch by their revisions, which only grow, are owed, and have happened.
    fn told<'b>(
        &self,
        batch: &'b WatchBatch,
        next: Revision,
        newest: Revision,
    ) -> Result<BTreeMap<Revision, Vec<&'b Event>>, String> {
        let mut told: BTreeMap<Revision, Vec<&Event>> = BTreeMap::new();
        for event in &batch.events {
            let revision = event.revision();
            if let Some((last, _)) = told.last_key_value().filter(|(last, _)| **last > revision) {
                return Err(format!("revision {revision} comes after {last}, which is newer"));
            }
            if revision < next {
                let why = match self.next {
                    Some(_) if self.reached >= revision => "was handed out before",
                    _ => "is before its start",
                };
                return Err(format!("revision {revision} {why}: {}", explain::event(event)));
            }
            if revision > newest {
                return Err(format!("it tells the future, {newest} is the newest: {}", explain::event(event)));
            }
            told.entry(revision).or_default().push(event);
        }
        Ok(told)
    }

    /// What was told of a revision is all of it, each once, as it was.
    fn whole(&self, made: &Made, told: &[&Event], at: Nanos) -> Result<(), String> {
        let revised = &made.revised;
        let span = Span::new(&self.watch.start, &self.watch.end);
        let ours: Vec<_> = revised.changes.iter().filter(|change| span.contains(change.key())).collect();
        for (index, event) in told.iter().enumerate() {
            if told[..index].iter().any(|before| before.key() == event.key()) {
                return Err(format!("it hands this out twice: {}", explain::event(event)));
            }
            let change = ours.iter().find(|change| change.key() == event.key());
            let change =
                change.ok_or_else(|| format!("no such thing happened in its range: {}", explain::event(event)))?;
            self.same(event, &change.event(revised.revision), at)?;
        }
        let missing = |change: &&&Change| told.iter().all(|event| event.key() != change.key());
        let Some(change) = ours.iter().find(missing) else { return Ok(()) };
        let missed = explain::event(&change.event(revised.revision));
        Err(match told {
            [] => format!("it skipped {missed}"),
            _ => format!("it split revision {}, without {missed}", revised.revision),
        })
    }

    /// An event is as it happened; of what was before it may say nothing when that is forgotten.
    fn same(&self, told: &Event, happened: &Event, at: Nanos) -> Result<(), String> {
        let (now, prev) = sides(told);
        let (want, before) = sides(happened);
        if now != want {
            return Err(format!("it tells {}, but it was {}", explain::event(told), explain::event(happened)));
        }
        let forgotten = prev.is_none() && self.forgotten(at) >= happened.revision();
        if prev != before && !forgotten {
            let was = before.map_or("nothing".to_owned(), explain::entry);
            return Err(format!("it tells {}, but before it was {was}", explain::event(told)));
        }
        Ok(())
    }

    /// Up to where the store can have forgotten.
    fn forgotten(&self, at: Nanos) -> Revision {
        self.order.forgotten_at(at).max(self.order.newest_at(at).saturating_sub(self.rules.keeps))
    }

    fn compacted(&self, at: Nanos) -> Result<(), String> {
        let (owed, forgotten) = (self.next.unwrap_or(1), self.forgotten(at));
        if owed > forgotten {
            return Err(format!("it ends because revision {owed} is compacted, but only {forgotten} can have been"));
        }
        Ok(())
    }

    fn violation(&self, what: &str, at: usize) -> Violation {
        let Watch { client, called, opened, start, end, from, seen } = self.watch;
        let times = explain::span(*called, *opened);
        let keys = explain::span_of_keys(start, end);
        let mut window = vec![format!("{times} client {client}: watch {keys} from {from:?}")];
        window.extend(seen[at.saturating_sub(2)..=at].iter().map(line));
        Violation::new(format!("a watch is wrong: {what}"), window)
    }
}

fn line(seen: &Seen) -> String {
    let what = match &seen.saw {
        Saw::Compacted => "compacted".to_owned(),
        Saw::Ended => "ended".to_owned(),
        Saw::Batch(batch) => {
            let events: Vec<_> = batch.events.iter().map(explain::event).collect();
            format!(
                "reached {}: {}",
                batch.revision,
                if events.is_empty() { "-".to_owned() } else { events.join(", ") }
            )
        }
    };
    format!("[{}] {what}", seen.at)
}

/// The entry that an event tells, and the one before.
fn sides(event: &Event) -> (Option<&crate::Entry>, Option<&crate::Entry>) {
    match event {
        Event::Put { entry, prev } => (Some(entry), prev.as_ref()),
        Event::Delete { prev, .. } => (None, prev.as_ref()),
    }
}
