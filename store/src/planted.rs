//! Bugs to be planted, so that it is seen that the tests find them: a checker that never finds anything proves nothing.
//!
//! Each is one that a system like this has had. Where the right code is, one `if` asks whether the wrong is to be done instead.
//! Without the feature `planted` (only this crate's own tests have it) the answer is the constant `false`.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident = $source:literal,)*) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Who has had it.
            pub fn source(self) -> &'static str {
                match self {
                    $(Self::$name => $source,)*
                }
            }
        }
    };
}

bugs! {
    // What is durable.
    /// A write is acknowledged before it is on disk.
    AckBeforeSync = "etcd #14370: a single member could lose a write in a crash",
    /// A follower says that it has entries, or has voted, before that is on disk.
    FollowerAcksBeforeSync = "ZOOKEEPER-4785: a follower acknowledged what it had not written, and it was lost",
    /// A record whose checksum is wrong is taken for whole.
    TornRecordServed = "logs without checksums: a torn tail is read as an entry",
    /// After a restart the first entry after the snapshot is applied a second time.
    AppliedTwiceAfterRestart = "etcd #13766: the consistent index was not saved with the data",
    /// After a restart only the first step of a transaction is applied.
    TxnTornByRestart = "etcd #13766: data of a transaction was committed in part",
    /// The revision that a snapshot restores is that of the newest key that is alive.
    RevisionDecreases = "etcd #17780: a crash amid compaction made the revision decrease",
    /// A snapshot says that it holds an entry more than it does.
    SnapshotMissesTail = "a snapshot that is named before it is taken: its tail is lost",
    /// A snapshot holds no leases.
    SnapshotMissesLeases = "etcd #12651: a member had lost leases after a restart",

    // What is agreed.
    /// Who leads answers reads without asking whether it leads still.
    ReadWithoutQuorum = "etcd #741, #20418: stale reads after a change of leaders, and after a pause",
    /// A read does not wait until all that it must see is applied.
    ReadBeforeApplied = "a read index without the wait for it: the leader is known, the state is old",
    /// A proposal that was sent again is accepted again.
    AcceptedTwice = "retries without memory: a write whose answer was lost is done again",
    /// A write of which nobody knows is said to have failed.
    UnknownSaidFailed = "what Jepsen finds most often: an indeterminate write reported as failed",
    /// A learner has a vote.
    LearnerVotes = "NuRaft #553: a learner came to lead",

    // What a state does.
    /// A revision that is compacted is read, with what is left of it.
    CompactedRead = "etcd #18667: a transaction read a compacted revision",
    /// A keep-alive is answered and forgotten.
    KeepAliveForgotten = "etcd #15247: leases ended though they were kept alive",
    /// A lease that there is not can be revoked.
    RevokedTwice = "etcd #12528: a leader that was none any more went on revoking",
    /// A lease that ends leaves its keys behind.
    LeaseLeavesKeys = "etcd #9935, ZOOKEEPER-2355: keys outlived what they were bound to",
    /// A compare with "less than" also holds for what is equal.
    CompareOffByOne = "the bug that every language has: less than, or equal",

    // What a watch sees.
    /// Who watches from the past does not see what was deleted, once there was a compaction.
    DeleteLostAtCompaction = "etcd #18089, #19179: a delete event was lost at a compaction",
    /// A revision of several keys is handed out twice.
    EventTwice = "etcd #17247: a watch event was duplicated",
    /// Progress is told ahead of the events that it covers.
    ProgressAhead = "etcd #15220: progress notifications were not synchronized with the stream",
    /// A watch of a revision to come is handed what comes before.
    FutureWatchHearsPast = "etcd #20221: a watch on a future revision returned old events",
    /// A watch of a member that went on from a snapshot misses what was in it.
    WatchSkipsSnapshot = "etcd #17529: events were lost when the stream could not keep up",
    /// Of a revision of several keys only the first is handed out.
    RevisionSplit = "fragments that are not put together: of one revision only a part arrives",
    /// An event does not tell what was before.
    PrevForgotten = "an event without its previous value, when a watcher asked for it",
}

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Runs something with a bug in it. It is only in this thread.
    pub fn with<T>(bug: Bug, run: impl FnOnce() -> T) -> T {
        struct Pull;
        impl Drop for Pull {
            fn drop(&mut self) {
                ACTIVE.set(None);
            }
        }
        ACTIVE.set(Some(bug));
        let _pull = Pull;
        run()
    }

    /// Whether the wrong is to be done here.
    pub(crate) fn is(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub(crate) use active::is;
#[cfg(feature = "planted")]
pub use active::with;

/// Whether the wrong is to be done here: never.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
