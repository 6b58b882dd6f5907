//! One member of the replicated log: raft's Ready loop, the log on disk, snapshots.
//!
//! ```text
//! proposals -> [node] -> wal (one fdatasync for all that waited) -> state machine -> watchers, replies
//!                 |                                                    |
//!                 +-> peer (none yet)                                  +-> snapshot (in the background) -> wal is trimmed
//! ```
//!
//! Everything that decides is the `raft` crate and [`crate::mvcc`], both deterministic; what is here moves bytes between
//! them and the disk. There is one member now: what is made durable is committed at once. With several, messages leave
//! through [`peer`] and come in beside proposals; the loop stays the same.

pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod snapshot;
pub(crate) mod wal;
