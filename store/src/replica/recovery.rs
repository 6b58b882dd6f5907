//! From what a directory holds to a member that is ready to go on: snapshot, then the log after it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use raft::eraftpb::{ConfState, Entry, EntryType};
use raft::{Config, RawNode, Storage};

use super::log::{self, Log};
use super::snapshot::{self, Snapshot};
use super::wal::{Wal, disk};
use crate::backend::Error;
use crate::embedded::Options;
use crate::mvcc::{Mvcc, codec};

/// The id of the one member.
const MEMBER: u64 = 1;

/// Most bytes of committed entries handed out at once, so that a long log is applied piece by piece.
const COMMITTED_BYTES: u64 = 8 << 20;

/// What a directory held.
pub(crate) struct Recovered {
    pub(crate) raft: RawNode<Log>,
    pub(crate) wal: Wal,
    pub(crate) state: Mvcc,
    /// Bytes in the log after the snapshot, at least, and the snapshot's size.
    pub(crate) logged: u64,
    pub(crate) snapshot_bytes: u64,
    /// Held as long as the store is open.
    pub(crate) lock: File,
}

/// Opens a directory, which is made when it does not exist. The end of the log, which is not known to be committed, is not
/// applied: raft does that once it leads.
pub(crate) fn recover(dir: &Path, options: &Options) -> Result<Recovered, Error> {
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(disk("create", dir))?;
    }
    let lock = lock(dir)?;
    for name in ["log.tmp", "snapshot.tmp"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_file(&path).map_err(disk("remove", &path))?;
        }
    }
    let (snapshot, snapshot_bytes) = snapshot::read(dir)?;
    let Snapshot { index, term, mut voters, mut state } = snapshot;
    if voters.is_empty() {
        voters.push(MEMBER);
    }
    let mut log = Log::after((index, term), ConfState { voters, ..ConfState::default() });
    let mut logged = 0;
    let (mut records, mut last) = (0_u64, 0);
    let mut wal = Wal::open(dir, options.segment_bytes, options.sync, |body| {
        let (hard, entries) = log::decode(body).map_err(|why| why.0)?;
        let newest = entries.last().map_or(0, |entry| entry.index);
        if newest > index {
            logged += body.len() as u64;
        }
        log.set_hard(&hard);
        log.append(entries)?;
        // What is committed is applied as it is read, so that a long log is never in memory as a whole.
        while let Some(entry) = log.take_committed() {
            apply(entry, &mut state)?;
        }
        (records, last) = (records + 1, newest.max(last));
        Ok(newest)
    })?;
    let gone = |why: &str| Error::Corrupt { path: dir.to_owned(), offset: 0, why: why.to_owned() };
    if index > 0 && (records == 0 || last < index) {
        return Err(gone("the log ends before the snapshot that was made from it"));
    }
    if log.hard().commit > log.last_index().map_err(|error| gone(&error.to_string()))? {
        return Err(gone("the log ends before what it says was committed"));
    }
    // A snapshot may have been finished just before the end.
    wal.trim(index)?;
    let raft = start(log).map_err(|error| gone(&format!("raft does not start from it: {error}")))?;
    Ok(Recovered { raft, wal, state, logged, snapshot_bytes, lock })
}

fn apply(entry: Entry, state: &mut Mvcc) -> Result<(), &'static str> {
    if entry.get_entry_type() != EntryType::EntryNormal {
        return Err("an entry changes the members");
    }
    if entry.data.is_empty() {
        return Ok(());
    }
    let command = codec::decode(&entry.data.into()).map_err(|why| why.0)?;
    // What it did was answered long ago, were it only that it was refused.
    if let Err(refusal) = state.apply(&command) {
        tracing::trace!(%refusal, "a command of the log was refused, as it was then");
    }
    Ok(())
}

/// The directory's lock: two processes that append to one log would destroy it.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let why = format!("{} is locked: another process has this store open", path.display());
            Err(Error::Unavailable { operation: "open", why })
        }
        Err(TryLockError::Error(source)) => Err(Error::Disk { operation: "lock", path, source }),
    }
}

fn start(log: Log) -> raft::Result<RawNode<Log>> {
    let config = Config {
        id: MEMBER,
        applied: log.base().0,
        pre_vote: true,
        check_quorum: true,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        max_committed_size_per_ready: COMMITTED_BYTES,
        ..Config::default()
    };
    let mut raft = RawNode::new(&config, log, &slog::Logger::root(slog::Discard, slog::o!()))?;
    // Alone there is nobody to wait for.
    raft.campaign()?;
    Ok(raft)
}
