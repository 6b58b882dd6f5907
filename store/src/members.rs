//! The members of a replicated store: who they are, and what can be asked of them.
//!
//! A member that is added begins as a learner, which is sent everything and has no vote, unless its adder says otherwise; it
//! is promoted when it has caught up. The words are etcd's (`Cluster` service), so that its tools can be served.

use crate::backend::Error;

/// Names a member for ever: the id of one that was removed is never given to another. 0 means "none".
pub type MemberId = u64;

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// What its operator calls it; empty until it has started once.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started once.
    pub client_urls: Vec<String>,
    /// It is sent everything and has no vote.
    pub learner: bool,
}

/// How a member sees its cluster, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Names the cluster for ever; a restored backup is another cluster.
    pub cluster: u64,
    /// The member that answers.
    pub member: MemberId,
    /// Who leads; 0 while nobody does.
    pub leader: MemberId,
    /// Raft's term.
    pub term: u64,
    /// The last entry of this member's log that is committed, and that is applied.
    pub committed: u64,
    /// See `committed`.
    pub applied: u64,
    /// This member is a learner.
    pub learner: bool,
}

/// What can be asked of a replicated store about its members.
#[async_trait::async_trait]
pub trait Membership: Send + Sync + 'static {
    /// All members, in the order of their ids. `linearizable`: as of now, confirmed by a majority; else as this one knows.
    async fn members(&self, linearizable: bool) -> Result<Vec<Member>, Error>;

    /// Adds a member that will be reached at these URLs; returns it with its new id.
    async fn add_member(&self, peer_urls: Vec<String>, learner: bool) -> Result<Member, Error>;

    /// Removes a member. Refused when those that are left and alive would be no majority.
    async fn remove_member(&self, id: MemberId) -> Result<(), Error>;

    /// Changes where a member is reached.
    async fn update_member(&self, id: MemberId, peer_urls: Vec<String>) -> Result<(), Error>;

    /// Gives a learner its vote. Refused while it has not caught up.
    async fn promote_member(&self, id: MemberId) -> Result<(), Error>;

    /// Hands the lead to another voter.
    async fn move_leader(&self, to: MemberId) -> Result<(), Error>;

    /// How this member sees its cluster now.
    fn standing(&self) -> Standing;
}
