//! The members of an embedded store, asked about and changed through any of them.

use std::sync::Arc;

use crate::backend::Error;
use crate::embedded::Embedded;
use crate::members::{Member, MemberId, Membership, Standing};
use crate::replica::engine::Shared;
use crate::replica::member::{REMOVED, Reply};
use crate::replica::node::Input;
use crate::replica::proposals::Proposal;
use crate::replica::roster::Change;

impl Embedded {
    /// Has the members changed; returns the member that it was about, if it is one still.
    pub(super) async fn change(&self, operation: &'static str, change: Change) -> Result<Option<Member>, Error> {
        if !self.reaches {
            let why = "this store was opened without a way to reach other members".to_owned();
            return Err(Error::Unavailable { operation, why });
        }
        change.check().map_err(|why| Error::Invalid { why })?;
        let leaves = matches!(change, Change::Remove(id) if id == self.standing().member);
        match self.propose(operation, Proposal::Change(change), 1).await {
            Ok(Reply::Changed(member)) => Ok(member),
            // it asked to be removed, and hears no more than that it was
            Err(Error::Unavailable { why, .. } | Error::Uncertain { why, .. }) if leaves && why == REMOVED => Ok(None),
            Ok(other) => unreachable!("the answer to a change of members is {other:?}"),
            Err(Error::Unavailable { why, .. }) => Err(Error::Unavailable { operation, why }),
            Err(Error::Uncertain { why, .. }) => Err(Error::Uncertain { operation, why }),
            Err(other) => Err(other),
        }
    }

    /// How this member sees its cluster, as it changes.
    pub fn standings(&self) -> tokio::sync::watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Waits until this member takes no part any more, by itself: it was removed, or its disk failed. Says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        let told = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        told.unwrap_or_default()
    }
}

#[async_trait::async_trait]
impl Membership for Embedded {
    async fn members(&self, linearizable: bool) -> Result<Vec<Member>, Error> {
        if linearizable {
            self.confirm().await?;
        }
        Ok(self.shared.members.read().clone())
    }

    async fn add_member(&self, peer_urls: Vec<String>, learner: bool) -> Result<Member, Error> {
        let member = Member { peer_urls, learner, ..Member::default() };
        let added = self.change("add a member", Change::Add(member)).await?;
        let gone = || Error::Uncertain { operation: "add a member", why: "it was removed again".to_owned() };
        added.ok_or_else(gone)
    }

    async fn remove_member(&self, id: MemberId) -> Result<(), Error> {
        self.change("remove a member", Change::Remove(id)).await.map(drop)
    }

    async fn update_member(&self, id: MemberId, peer_urls: Vec<String>) -> Result<(), Error> {
        self.change("update a member", Change::Move(id, peer_urls)).await.map(drop)
    }

    async fn promote_member(&self, id: MemberId) -> Result<(), Error> {
        self.change("promote a member", Change::Promote(id)).await.map(drop)
    }

    async fn move_leader(&self, to: MemberId) -> Result<(), Error> {
        let operation = "move the leader";
        let voter = self.shared.members.read().iter().any(|member| member.id == to && !member.learner);
        if !voter {
            return Err(Error::Unavailable { operation, why: format!("member {to} has no vote") });
        }
        let mut standing = self.shared.standing.subscribe();
        let closed = || Error::Unavailable { operation, why: "it was closed".to_owned() };
        self.inbox.send(Input::Transfer(to)).map_err(|_| closed())?;
        let moved = standing.wait_for(|standing| standing.leader == to);
        match tokio::time::timeout(self.patience, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::Unavailable { operation, why: format!("member {to} did not take over in time") }),
        }
    }

    fn standing(&self) -> Standing {
        *self.shared.standing.borrow()
    }
}

/// Tells the others, once there is a leader, what this member is called and where it is; again until they know.
pub(super) async fn present(store: Presenting) {
    let Presenting { shared, inbox, room, name, peer_urls, client_urls } = store;
    let own = shared.standing.borrow().member;
    let (mut standing, mut ended) = (shared.standing.subscribe(), shared.ended.subscribe());
    loop {
        let known = shared.members.read().iter().find(|member| member.id == own).cloned();
        let led = standing.borrow_and_update().leader != 0;
        let change = known.filter(|_| led).and_then(|known| {
            if !peer_urls.is_empty() && known.peer_urls != peer_urls {
                return Some(Change::Move(own, peer_urls.clone()));
            }
            let differs = known.name != name || known.client_urls != client_urls;
            differs.then(|| Change::Present(own, name.clone(), client_urls.clone()))
        });
        let knows = shared.members.read().iter().any(|member| {
            let moved = peer_urls.is_empty() || member.peer_urls == peer_urls;
            member.id == own && member.name == name && member.client_urls == client_urls && moved
        });
        if knows {
            return;
        }
        if let Some(change) = change {
            let Ok(room) = room.clone().acquire_owned().await else { return };
            let (reply, answered) = tokio::sync::oneshot::channel();
            let call = crate::replica::node::Call { proposal: Proposal::Change(change), reply, room };
            if inbox.send(Input::Propose(call)).is_err() {
                return;
            }
            if let Ok(Err(error)) = answered.await {
                tracing::debug!(%error, "the members were not told who this one is; trying again");
            } else {
                continue;
            }
        }
        // Something changes with every entry, and with every leader.
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            _ = ended.wait_for(Option::is_some) => return,
        }
    }
}

/// What [`present`] works with.
pub(super) struct Presenting {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: std::sync::mpsc::Sender<Input>,
    pub(super) room: Arc<tokio::sync::Semaphore>,
    pub(super) name: String,
    pub(super) peer_urls: Vec<String>,
    pub(super) client_urls: Vec<String>,
}
