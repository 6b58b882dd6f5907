//! From a backup to a store again.
//!
//! The revision goes on far above the backup's: a client that still knows what came after the backup must not take a new
//! revision for one that it has seen. What it asks for then is compacted, and it lists anew.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use raft::eraftpb::{Entry as Logged, HardState};

use crate::backend::{Backend, Error, MAX_TXN_BYTES, MAX_TXN_OPS};
use crate::kv::{Entry, LeaseId, Op, Range, Revision, Txn};
use crate::members::{Member, MemberId};
use crate::mvcc::Mvcc;
use crate::replica::disk::{Disk, Folder};
use crate::replica::log::Draft;
use crate::replica::roster::Roster;
use crate::replica::snapshot::{self, Snapshot};
use crate::replica::wal::{Layout, Wal};

/// How far above the backup's the revision of a restored embedded store begins (etcd's own advice for `--bump-revision`).
pub const BUMP: Revision = 1_000_000_000;

/// How long what dies by itself lives on, seconds.
pub const LEASE_SECONDS: i64 = 3_600;

/// Size of a segment of the log that is begun here, bytes.
const SEGMENT_BYTES: u64 = 16 << 20;

/// How far zeros are written ahead in it, bytes.
const AHEAD: u64 = 1 << 20;

/// The id of the first member.
const MEMBER: MemberId = 1;

/// Writes under way at once when a revision is raised by writing.
const RAISING: usize = 64;

/// Makes an embedded store in `dir`, which must hold none, of entries as of `revision`. They keep their revisions; the store's
/// is [`BUMP`] further. Blocks.
///
/// # Errors
/// [`Error::Unavailable`] when there is a store, and whatever `entries` says.
pub fn seed<E: From<Error>>(
    dir: &Path,
    revision: Revision,
    entries: impl Iterator<Item = Result<Entry, E>>,
) -> Result<(), E> {
    let disk: Arc<dyn Disk> = Arc::new(Folder::open(dir)?);
    let held = snapshot::read(&*disk)?;
    if held.bytes > 0 {
        let why = format!("{} holds a store already", dir.display());
        return Err(Error::Unavailable { operation: "restore", why }.into());
    }
    let mut state = Mvcc::default();
    let mut leases = BTreeMap::new();
    for entry in entries {
        let mut entry = entry?;
        if entry.lease != 0 {
            entry.lease = match leases.get(&entry.lease) {
                Some(lease) => *lease,
                None => {
                    let lease = state.plant_lease(LEASE_SECONDS)?;
                    leases.insert(entry.lease, lease);
                    lease
                }
            };
        }
        state.plant(entry);
    }
    state.begin_at(revision + BUMP);
    // As if one entry had been logged, and a snapshot made after it: so members that join are sent the snapshot. Who the
    // member is, and of which cluster, is made up when it is first opened.
    let snapshot =
        Snapshot { index: 1, term: 1, roster: Roster::new([Member { id: MEMBER, ..Member::default() }]), state };
    let seed = RandomState::new().hash_one(revision);
    let layout = Layout { segment_bytes: SEGMENT_BYTES, ahead: AHEAD, sync: true, seed };
    let mut wal = Wal::open(disk.clone(), layout, |_| Err("there is a log already"))?;
    let logged = Logged { index: 1, term: 1, ..Logged::default() };
    let hard = HardState { term: 1, vote: MEMBER, commit: 1 };
    wal.append(1, &Draft::new(&hard, None, &[logged]).encode())?;
    snapshot::write(&*disk, &snapshot)?;
    Ok(())
}

/// Writes entries into a store of any kind, as many at once as go into a transaction.
pub struct Refill<'a> {
    backend: &'a dyn Backend,
    leases: BTreeMap<LeaseId, LeaseId>,
    waiting: Vec<Op>,
    bytes: usize,
}

impl<'a> Refill<'a> {
    /// Into this one, which must hold no key that an entry has.
    pub fn new(backend: &'a dyn Backend) -> Self {
        Self { backend, leases: BTreeMap::new(), waiting: Vec::new(), bytes: 0 }
    }

    /// Writes an entry, now or together with later ones. What has no key, the users and roles of the embedded store's etcd API,
    /// stays behind: etcd has its own.
    pub async fn put(&mut self, entry: Entry) -> Result<(), Error> {
        if entry.key.is_empty() {
            return Ok(());
        }
        let size = entry.key.len() + entry.value.len();
        if self.waiting.len() == MAX_TXN_OPS || self.bytes + size > MAX_TXN_BYTES {
            self.flush().await?;
        }
        let lease = match (entry.lease, self.leases.get(&entry.lease)) {
            (0, _) => 0,
            (_, Some(lease)) => *lease,
            (old, None) => {
                let lease = self.backend.grant(LEASE_SECONDS).await?;
                self.leases.insert(old, lease);
                lease
            }
        };
        self.bytes += size;
        self.waiting.push(Op::Put { key: entry.key, value: entry.value, lease });
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let success = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        if success.is_empty() {
            return Ok(());
        }
        self.backend.txn(Txn { success, ..Txn::default() }).await.map(drop)
    }

    /// Writes what is left, then `key` again and again until the store's revision is above `revision`, and compacts all before.
    /// `progress` is told the store's revision. Returns the last.
    pub async fn finish(
        mut self,
        key: &'static [u8],
        revision: Revision,
        mut progress: impl FnMut(Revision),
    ) -> Result<Revision, Error> {
        self.flush().await?;
        let backend = self.backend;
        let reached = backend.range(Range { count_only: true, ..Range::key(key) }).await?.revision;
        let put = |_| async move {
            let put = Op::Put { key: key.into(), value: Vec::new().into(), lease: 0 };
            backend.txn(Txn { success: vec![put], ..Txn::default() }).await.map(|reply| reply.revision)
        };
        let missing = (revision + 1).saturating_sub(reached).max(1);
        let newest = stream::iter(0..missing).map(put).buffer_unordered(RAISING);
        let newest = newest.try_fold(reached, |newest, reached| {
            progress(reached.max(newest));
            async move { Ok(newest.max(reached)) }
        });
        let newest = newest.await?;
        backend.compact(newest).await?;
        Ok(newest)
    }
}
