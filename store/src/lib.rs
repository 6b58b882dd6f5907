//! The replicated, watchable log of bytes in which the desired state lives.
//!
//! One contract, [`Backend`]: linearizable compare-and-set transactions over ordered keys, one global revision, ranges at
//! a revision, watches that never skip, repeat or reorder, leases, compaction.
//!
//! Three backends keep it, held to it by one suite: [`Embedded`] (a raft log on disk, state in memory; one member, three or
//! five), [`Etcd`] (a cluster elsewhere) and [`Memory`] (the model, for tests).
//!
//! # Invariants
//! * What a store holds is a pure function of its commands: no clock, no randomness, no I/O below `mvcc`.
//! * Nothing is answered before it is durable; nothing durable is dropped by guess.
//! * Every buffer has a bound: of waiting writes, of each watcher, of history.
//!
//! # Absent
//! Kinds, JSON, Kubernetes: keys and values are bytes. Nothing of ours is imported.

pub mod backend;
pub mod backup;
mod block;
#[cfg(feature = "testing")]
pub mod check;
#[cfg(feature = "testing")]
pub mod contract;
pub mod embedded;
pub mod etcd;
pub mod grpc;
pub mod image;
pub mod kv;
pub mod members;
pub mod memory;
mod mvcc;
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
mod replica;
#[cfg(feature = "testing")]
pub mod sim;

pub use backend::{Backend, Error, WatchStream};
pub use embedded::{Embedded, Options};
pub use etcd::{Etcd, EtcdTls};
pub use kv::{
    Compare, CompareTarget, Entry, Event, KvHash, LeaseId, LeaseInfo, Op, OpResult, Range, RangeReply, Relation,
    Revision, Status, Txn, TxnReply, WatchBatch, WatchFrom,
};
pub use members::{Member, MemberId, Membership, Standing};
pub use memory::Memory;
pub use mvcc::history::Window;
