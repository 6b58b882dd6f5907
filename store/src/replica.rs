//! One member of the replicated log: raft, the log on disk, snapshots, and the way to other members.
//!
//! ```text
//!  proposals, reads ──> [node] ──> [engine] ──> [member] ──> raft
//!  messages <─> [peer] ───┘  │         │  what is committed     │
//!                            │         └──> [mvcc] ──> watchers, answers
//!                            └──> [writer] ──> [directory] ──> [wal], [snapshot] ──> [disk]
//! ```
//!
//! Everything that decides is the `raft` crate, [`member`] and [`crate::mvcc`], all deterministic: no clock, disk, network,
//! thread or random number. [`engine`] and [`directory`] put them to work on whatever disk, time and messages they are given;
//! the simulation gives them its own. [`node`], [`writer`] and [`peer`] are the real ones.

mod change;
pub(crate) mod directory;
pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod entry;
pub(crate) mod identity;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod message;
pub(crate) mod node;
mod pace;
pub(crate) mod peer;
pub(crate) mod proposals;
pub(crate) mod reads;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod roster;
pub(crate) mod snapshot;
mod tls;
pub(crate) mod transfer;
pub(crate) mod wal;
pub(crate) mod writer;

/// Scatters a number over all 64 bits (the finalizer of splitmix64): the same number always to the same bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
