//! From what a directory holds to a member that is ready to go on: snapshot, then the log after it.

use std::sync::Arc;

use raft::Storage;
use raft::eraftpb::{Entry, HardState, SnapshotMetadata};

use super::disk::{Disk, failed};
use super::entry::Context;
use super::identity::{self, Identity};
use super::log::{self, Draft, Log};
use super::roster::Roster;
use super::snapshot::{self, Snapshot};
use super::wal::{self, Layout, Wal};
use crate::backend::Error;
use crate::mvcc::{Action, Mvcc, codec};
use crate::planted::{self, Bug};

/// What a directory held.
pub(crate) struct Recovered {
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) wal: Wal,
    pub(crate) state: Mvcc,
    pub(crate) roster: Roster,
    /// Index and term of the last entry that is in the state.
    pub(crate) applied: (u64, u64),
    /// Bytes in the log after the snapshot, at least, and the snapshot's size.
    pub(crate) logged: u64,
    pub(crate) snapshot_bytes: u64,
}

/// Reads a member's files. `birth` is who it is when the directory does not say. `keep` bytes of the log stay in memory
/// when there are others. The end of the log, which is not known to be committed, is not applied: raft does that later.
pub(crate) fn recover(disk: &Arc<dyn Disk>, layout: Layout, birth: Identity, keep: u64) -> Result<Recovered, Error> {
    for name in [wal::TEMPORARY, snapshot::TEMPORARY, snapshot::INCOMING, identity::TEMPORARY] {
        if disk.has(name).map_err(failed("list", disk.path("")))? {
            disk.remove(name).map_err(failed("remove", disk.path(name)))?;
        }
    }
    let identity = match Identity::read(&**disk)? {
        // One that is to join must be who it was added as; any other goes on as whoever it is.
        Some(identity) if !birth.founder && (identity.cluster, identity.member) != (birth.cluster, birth.member) => {
            return Err(Error::Invalid { why: "the directory belongs to another member or cluster" });
        }
        Some(identity) => identity,
        None => {
            birth.write(&**disk)?;
            birth
        }
    };
    let found = snapshot::read(&**disk)?;
    let founded = found.bytes == 0 && identity.founder;
    let roster = if founded { Roster::new(identity.known.clone()) } else { found.snapshot.roster.clone() };
    let mut replay = Replay::after(found.snapshot, roster, keep);
    let mut wal = Wal::open(disk.clone(), layout, |body| replay.record(body))?;
    let gone = |why: &str| Error::Corrupt { path: disk.path(""), offset: 0, why: why.to_owned() };
    let index = replay.snapshot;
    if found.installed && replay.mark.is_none_or(|mark| mark < index) {
        replay.log.restart(index, replay.applied.1);
        if replay.log.hard().term < replay.applied.1 {
            replay.log.set_hard(&HardState { term: replay.applied.1, vote: 0, commit: index });
        }
        let mark = Draft::new(replay.log.hard(), Some(replay.log.base()), &[]);
        wal.append(index, &mark.encode())?;
    } else if index > 0 && (replay.records == 0 || replay.last < index) {
        return Err(gone("the log ends before the snapshot that was made from it"));
    }
    if found.installed {
        snapshot::settle(&**disk, index)?;
    }
    if replay.log.hard().commit > replay.log.last_index().map_err(|error| gone(&error.to_string()))? {
        return Err(gone("the log ends before what it says was committed"));
    }
    // A snapshot may have been finished just before the end.
    wal.trim(index)?;
    if replay.roster.was_removed(identity.member) {
        let why = super::member::REMOVED.to_owned();
        return Err(Error::Unavailable { operation: "open", why });
    }
    let Replay { mut log, state, roster, applied, logged, .. } = replay;
    log.set_members(roster.configuration());
    Ok(Recovered { identity, log, wal, state, roster, applied, logged, snapshot_bytes: found.bytes })
}

/// The log being read.
struct Replay {
    log: Log,
    state: Mvcc,
    roster: Roster,
    applied: (u64, u64),
    /// Index of the snapshot that it started from.
    snapshot: u64,
    keep: u64,
    /// The newest mark of an installed snapshot.
    mark: Option<u64>,
    records: u64,
    /// The newest index seen.
    last: u64,
    logged: u64,
}

impl Replay {
    fn after(snapshot: Snapshot, roster: Roster, keep: u64) -> Self {
        let conf_state = Some(roster.configuration());
        let metadata = SnapshotMetadata { index: snapshot.index, term: snapshot.term, conf_state };
        Self {
            log: Log::after(metadata),
            state: snapshot.state,
            roster,
            applied: (snapshot.index, snapshot.term),
            snapshot: snapshot.index,
            keep,
            mark: None,
            records: 0,
            last: 0,
            logged: 0,
        }
    }

    /// Takes in one record; returns the index of its last entry.
    fn record(&mut self, body: &[u8]) -> Result<u64, &'static str> {
        let record = log::decode(body).map_err(|why| why.0)?;
        let mut newest = record.entries.last().map_or(0, |entry| entry.index);
        if let Some((index, term)) = record.mark {
            self.log.restart(index, term);
            self.mark = Some(index);
            newest = newest.max(index);
            if index > self.snapshot {
                return Err("the snapshot that the log goes on from is missing");
            }
        }
        if newest > self.snapshot {
            self.logged += body.len() as u64;
        }
        self.log.set_hard(&record.hard);
        self.log.append(record.entries)?;
        // What is committed is applied as it is read, so that a long log is never in memory as a whole.
        while self.applied.0 < self.log.hard().commit
            && let Some(entry) = self.log.entry(self.applied.0 + 1).cloned()
        {
            self.apply(entry)?;
        }
        self.records += 1;
        self.last = self.last.max(newest);
        Ok(newest)
    }

    fn apply(&mut self, entry: Entry) -> Result<(), &'static str> {
        self.applied = (entry.index, entry.term);
        let context = Context::decode(&entry.context).map_err(|why| why.0)?;
        if let Some(change) = &context.change {
            self.roster.apply(change);
            if change.configures().is_some() {
                self.log.forget_first();
            }
        }
        if context.change.is_none() && !entry.data.is_empty() {
            let mut command = codec::decode(&entry.data.into()).map_err(|why| why.0)?;
            if let Action::Txn(txn) = &mut command.action
                && planted::is(Bug::TxnTornByRestart)
            {
                txn.success.truncate(1);
            }
            if planted::is(Bug::AppliedTwiceAfterRestart) && entry.index == self.snapshot + 1 {
                drop(self.state.apply(&command));
            }
            // What it did was answered long ago, were it only that it was refused.
            if let Err(refusal) = self.state.apply(&command) {
                tracing::trace!(%refusal, "a command of the log was refused, as it was then");
            }
        }
        self.log.forget(self.applied.0, if self.roster.len() > 1 { self.keep } else { 0 });
        Ok(())
    }
}
