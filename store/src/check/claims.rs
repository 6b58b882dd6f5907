//! What each reply claims of the global revision, and the contradictions in it that a glance finds.
//!
//! Every write names the revision that it made, and every entry the one that wrote it. So the order of a history is nearly
//! given, and two lines of it are often enough to convict the store; the search is for the rest.

use std::collections::HashMap;

use super::{Outcome, Record, Reply, Violation, explain};
use crate::kv::{Entry, OpResult, Revision, TxnReply};
use crate::mvcc::history::Revised;

/// What was claimed.
#[derive(Default)]
pub(super) struct Claims<'a> {
    /// Which operation (its index) made a revision.
    made: HashMap<Revision, usize>,
    /// What a revision was seen to have written, and who (its index) saw it.
    wrote: HashMap<Revision, Vec<(&'a Entry, usize)>>,
}

impl<'a> Claims<'a> {
    /// Collects what all replies claim.
    pub(super) fn of(records: &'a [Record]) -> Result<Self, Violation> {
        let mut claims = Self::default();
        for (index, record) in records.iter().enumerate() {
            let Outcome::Ok(reply) = &record.outcome else { continue };
            if let Some(revision) = made(reply)
                && let Some(other) = claims.made.insert(revision, index)
            {
                let what = format!("revision {revision} was given to two operations");
                return Err(Violation::new(what, explain::lines(records, [other, index])));
            }
            let mut entries = Vec::new();
            seen(reply, &mut entries);
            for entry in entries {
                claims.add(records, entry, index)?;
            }
        }
        claims.check_times(records)?;
        Ok(claims)
    }

    fn add(&mut self, records: &[Record], entry: &'a Entry, index: usize) -> Result<(), Violation> {
        let seen = self.wrote.entry(entry.mod_revision).or_default();
        let before = seen.iter().find(|(before, _)| before.key == entry.key);
        let Some((before, witness)) = before.filter(|(before, _)| *before != entry) else {
            if before.is_none() {
                seen.push((entry, index));
            }
            return Ok(());
        };
        let what = format!(
            "what revision {} wrote was seen in two ways: {} and {}",
            entry.mod_revision,
            explain::entry(before),
            explain::entry(entry)
        );
        Err(Violation::new(what, explain::lines(records, [*witness, index])))
    }

    /// Whether an operation that was answered says that it made this revision: then nothing else did.
    pub(super) fn is_made(&self, revision: Revision) -> bool {
        self.made.contains_key(&revision)
    }

    /// Whether a revision that changed this is the one that was seen: it wrote everything that it was seen to have written.
    pub(super) fn admit(&self, revised: &Revised) -> bool {
        let seen = self.wrote.get(&revised.revision).map_or(&[][..], Vec::as_slice);
        seen.iter().all(|(seen, _)| revised.changes.iter().any(|change| change.now.as_deref() == Some(*seen)))
    }

    /// Of what happened after another thing was over, the revision is not smaller; and nobody sees what is yet to be asked.
    fn check_times(&self, records: &[Record]) -> Result<(), Violation> {
        let told = records.iter().enumerate().filter_map(|(index, record)| match &record.outcome {
            Outcome::Ok(reply) => Some((revision(reply)?, index)),
            Outcome::Refused(_) | Outcome::Failed | Outcome::Unknown => None,
        });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable_by_key(|(_, i)| records[*i].returned);
        let mut asked: Vec<_> = told.clone();
        asked.sort_unstable_by_key(|(_, i)| records[*i].called);
        let mut returned = told.iter().peekable();
        let mut newest: Option<(Revision, usize)> = None;
        for (revision, index) in asked {
            let called = records[index].called;
            while let Some(before) = returned.next_if(|(_, i)| records[*i].returned.is_some_and(|at| at < called)) {
                newest = newest.max(Some(*before));
            }
            if let Some((before, witness)) = newest
                && revision < before
            {
                let what = format!(
                    "the revision went back: {revision} was answered to what was asked after {before} had been answered"
                );
                return Err(Violation::new(what, explain::lines(records, [witness, index])));
            }
        }
        let mut made: Vec<_> = self.made.iter().map(|(revision, index)| (*revision, *index)).collect();
        made.sort_unstable();
        told.sort_unstable();
        let mut made = made.into_iter().peekable();
        let mut latest: Option<(u64, Revision, usize)> = None;
        for (revision, index) in told {
            while let Some((before, maker)) = made.next_if(|(before, _)| *before <= revision) {
                latest = latest.max(Some((records[maker].called, before, maker)));
            }
            if let Some((called, before, maker)) = latest
                && records[index].returned.is_some_and(|at| at < called)
            {
                let what = format!("revision {revision} was seen before revision {before} was asked for");
                return Err(Violation::new(what, explain::lines(records, [index, maker])));
            }
        }
        Ok(())
    }
}

/// The store's revision, as a reply tells it.
pub(super) fn revision(reply: &Reply) -> Option<Revision> {
    match reply {
        Reply::Range(reply) => Some(reply.revision),
        Reply::Txn(reply) => Some(reply.revision),
        Reply::Granted(_) | Reply::KeptAlive(_) | Reply::Done => None,
    }
}

/// The revision that an operation made.
pub(super) fn made(reply: &Reply) -> Option<Revision> {
    match reply {
        Reply::Txn(reply) if wrote(reply) => Some(reply.revision),
        Reply::Txn(_) | Reply::Range(_) | Reply::Granted(_) | Reply::KeptAlive(_) | Reply::Done => None,
    }
}

fn wrote(reply: &TxnReply) -> bool {
    reply.results.iter().any(|result| match result {
        OpResult::Put(_) => true,
        OpResult::Delete(removed) => !removed.is_empty(),
        OpResult::Txn(inner) => wrote(inner),
        OpResult::Range(_) => false,
    })
}

/// All entries in a reply.
fn seen<'a>(reply: &'a Reply, entries: &mut Vec<&'a Entry>) {
    match reply {
        Reply::Range(reply) => entries.extend(&reply.entries),
        Reply::Txn(reply) => seen_by_txn(reply, entries),
        Reply::Granted(_) | Reply::KeptAlive(_) | Reply::Done => {}
    }
}

fn seen_by_txn<'a>(reply: &'a TxnReply, entries: &mut Vec<&'a Entry>) {
    for result in &reply.results {
        match result {
            OpResult::Put(prev) => entries.extend(prev),
            OpResult::Delete(removed) => entries.extend(removed),
            OpResult::Range(range) => entries.extend(&range.entries),
            OpResult::Txn(inner) => seen_by_txn(inner, entries),
        }
    }
}
