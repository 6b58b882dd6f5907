//! The members as the log knows them: part of the replicated state, in every snapshot, changed by entries alone.
//!
//! # Invariants
//! * An id is given once: `last` only grows, also when members go.
//! * Raft's configuration is [`Roster::configuration`], always; nobody keeps it a second time.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

use crate::members::{Member, MemberId};
use crate::mvcc::codec::{Malformed, Reader, Writer};
use crate::planted::{self, Bug};

/// Most URLs of a member, each for peers and for clients.
const MAX_URLS: usize = 16;

/// Longest name or URL, bytes.
const MAX_TEXT: usize = 2 << 10;

/// All members. See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    members: BTreeMap<MemberId, Member>,
    last: MemberId,
}

/// What can happen to the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// One more, under an id of its own.
    Add(Member),
    /// A learner gets its vote.
    Promote(MemberId),
    /// One less.
    Remove(MemberId),
    /// It is reached elsewhere.
    Move(MemberId, Vec<String>),
    /// It says what it is called, and where clients reach it.
    Present(MemberId, String, Vec<String>),
}

impl Roster {
    pub(crate) fn new(members: impl IntoIterator<Item = Member>) -> Self {
        let members: BTreeMap<_, _> = members.into_iter().map(|member| (member.id, member)).collect();
        let last = members.keys().next_back().copied().unwrap_or(0);
        Self { members, last }
    }

    /// Members of which only the ids are known.
    pub(crate) fn of_voters(ids: &[MemberId]) -> Self {
        Self::new(ids.iter().map(|id| Member { id: *id, ..Member::default() }))
    }

    /// In the order of their ids.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(crate) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn voters(&self) -> impl Iterator<Item = MemberId> {
        self.members.values().filter(|member| !member.learner).map(|member| member.id)
    }

    /// Whether it was a member once and is none now.
    pub(crate) fn was_removed(&self, id: MemberId) -> bool {
        id <= self.last && !self.members.contains_key(&id)
    }

    /// The id that the next new member gets.
    pub(crate) fn next_id(&self) -> MemberId {
        self.last + 1
    }

    /// What raft calls this.
    pub(crate) fn configuration(&self) -> ConfState {
        let learners = self.members.values().filter(|member| member.learner).map(|member| member.id);
        if planted::is(Bug::LearnerVotes) {
            return ConfState { voters: self.members.keys().copied().collect(), ..ConfState::default() };
        }
        ConfState { voters: self.voters().collect(), learners: learners.collect(), ..ConfState::default() }
    }

    /// Does a change that the log holds. One that makes no sense any more does nothing, the same on every member.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Add(member) => {
                self.last = self.last.max(member.id);
                self.members.insert(member.id, member.clone());
            }
            Change::Promote(id) => self.with(*id, |member| member.learner = false),
            Change::Remove(id) => drop(self.members.remove(id)),
            Change::Move(id, urls) => self.with(*id, |member| member.peer_urls.clone_from(urls)),
            Change::Present(id, name, urls) => self.with(*id, |member| {
                member.name.clone_from(name);
                member.client_urls.clone_from(urls);
            }),
        }
    }

    fn with(&mut self, id: MemberId, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.members.get_mut(&id) {
            change(member);
        }
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.number(self.last);
        out.number(self.members.len() as u64);
        self.members.values().for_each(|member| encode_member(out, member));
    }

    pub(crate) fn decode(from: &mut Reader) -> Result<Self, Malformed> {
        let last = from.number()?;
        let members = (0..from.count()?).map(|_| decode_member(from)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { last, ..Self::new(members) })
    }
}

impl Change {
    /// What raft has to know of it; nothing when it does not touch who votes and who is sent entries.
    pub(crate) fn configures(&self) -> Option<ConfChange> {
        let (kind, node_id) = match self {
            Self::Add(member) if member.learner => (ConfChangeType::AddLearnerNode, member.id),
            Self::Add(member) => (ConfChangeType::AddNode, member.id),
            Self::Promote(id) => (ConfChangeType::AddNode, *id),
            Self::Remove(id) => (ConfChangeType::RemoveNode, *id),
            Self::Move(..) | Self::Present(..) => return None,
        };
        let mut change = ConfChange { node_id, ..ConfChange::default() };
        change.set_change_type(kind);
        Some(change)
    }

    /// Whom it is about.
    pub(crate) fn subject(&self) -> MemberId {
        match self {
            Self::Add(member) => member.id,
            Self::Promote(id) | Self::Remove(id) | Self::Move(id, _) | Self::Present(id, ..) => *id,
        }
    }

    /// What is wrong with its names and URLs.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let (peers, name, clients): (&[String], &str, &[String]) = match self {
            Self::Add(member) => (&member.peer_urls, &member.name, &member.client_urls),
            Self::Move(_, urls) => (urls, "", &[]),
            Self::Present(_, name, urls) => (&[], name, urls),
            Self::Promote(_) | Self::Remove(_) => return Ok(()),
        };
        if matches!(self, Self::Add(_) | Self::Move(..)) && peers.is_empty() {
            return Err("a member has no peer URL");
        }
        if peers.len().max(clients.len()) > MAX_URLS {
            return Err("a member has more than 16 URLs");
        }
        if peers.iter().chain(clients).map(String::len).chain([name.len()]).any(|length| length > MAX_TEXT) {
            return Err("a name or URL is longer than 2 KiB");
        }
        Ok(())
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        match self {
            Self::Add(member) => {
                out.byte(0);
                encode_member(out, member);
            }
            Self::Promote(id) => {
                out.byte(1);
                out.number(*id);
            }
            Self::Remove(id) => {
                out.byte(2);
                out.number(*id);
            }
            Self::Move(id, urls) => {
                out.byte(3);
                out.number(*id);
                encode_texts(out, urls);
            }
            Self::Present(id, name, urls) => {
                out.byte(4);
                out.number(*id);
                out.bytes(name.as_bytes());
                encode_texts(out, urls);
            }
        }
    }

    pub(crate) fn decode(from: &mut Reader) -> Result<Self, Malformed> {
        Ok(match from.byte()? {
            0 => Self::Add(decode_member(from)?),
            1 => Self::Promote(from.number()?),
            2 => Self::Remove(from.number()?),
            3 => Self::Move(from.number()?, decode_texts(from)?),
            4 => Self::Present(from.number()?, decode_text(from)?, decode_texts(from)?),
            _ => return Err(Malformed("a change of the members is of an unknown kind")),
        })
    }
}

pub(crate) fn encode_member(out: &mut Writer, member: &Member) {
    out.number(member.id);
    out.byte(u8::from(member.learner));
    out.bytes(member.name.as_bytes());
    encode_texts(out, &member.peer_urls);
    encode_texts(out, &member.client_urls);
}

pub(crate) fn decode_member(from: &mut Reader) -> Result<Member, Malformed> {
    Ok(Member {
        id: from.number()?,
        learner: from.byte()? != 0,
        name: decode_text(from)?,
        peer_urls: decode_texts(from)?,
        client_urls: decode_texts(from)?,
    })
}

fn encode_texts(out: &mut Writer, texts: &[String]) {
    out.number(texts.len() as u64);
    texts.iter().for_each(|text| out.bytes(text.as_bytes()));
}

fn decode_texts(from: &mut Reader) -> Result<Vec<String>, Malformed> {
    (0..from.count()?).map(|_| decode_text(from)).collect()
}

fn decode_text(from: &mut Reader) -> Result<String, Malformed> {
    String::from_utf8(from.bytes()?.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: MemberId, learner: bool) -> Member {
        let text = |what| format!("{what}-{id}");
        let (name, peer_urls, client_urls) = (text("name"), vec![text("peer")], vec![text("a"), text("b")]);
        Member { id, name, peer_urls, client_urls, learner }
    }

    #[test]
    fn ids_are_never_given_again() {
        let mut roster = Roster::new([member(1, false)]);
        roster.apply(&Change::Add(member(roster.next_id(), true)));
        roster.apply(&Change::Remove(2));
        assert_eq!(roster.next_id(), 3);
        assert!(roster.was_removed(2) && !roster.was_removed(1) && !roster.was_removed(3));
        let mut out = Writer::default();
        roster.encode(&mut out);
        assert_eq!(Roster::decode(&mut Reader::new(out.0.into())).unwrap(), roster);
    }

    #[test]
    fn changes_survive_the_round_trip_and_tell_raft_what_it_must_know() {
        let changes = [
            (Change::Add(member(4, true)), Some(ConfChangeType::AddLearnerNode)),
            (Change::Add(member(4, false)), Some(ConfChangeType::AddNode)),
            (Change::Promote(4), Some(ConfChangeType::AddNode)),
            (Change::Remove(4), Some(ConfChangeType::RemoveNode)),
            (Change::Move(4, vec!["https://elsewhere".to_owned()]), None),
            (Change::Present(4, "four".to_owned(), vec![]), None),
        ];
        for (change, kind) in changes {
            let mut out = Writer::default();
            change.encode(&mut out);
            assert_eq!(Change::decode(&mut Reader::new(out.0.into())).unwrap(), change);
            assert_eq!(change.configures().map(|change| change.get_change_type()), kind, "{change:?}");
            assert_eq!((change.subject(), change.check()), (4, Ok(())));
        }
    }
}
