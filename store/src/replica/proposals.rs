//! Proposals from their coming until it is known what became of them.
//!
//! One is *held* until there is a leader. A leader appends it to its log and knows it by index and term. Any other member
//! forwards it under a tag, again and again, and knows it by the tag when it comes to be applied.
//!
//! A forwarded proposal is good for one term: only that term's leader accepts it, once. So when an entry of a later term is
//! applied, no proposal of an earlier term will ever be, and what was not applied by then is *certain* not to be: it is held
//! again, and goes to the next leader. The same holds for what a leader appended and lost. Unknown is an outcome only
//! when patience ends, or when a snapshot took the place of the entries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::entry::Tag;
use super::member::Token;
use super::roster::Change;
use crate::members::MemberId;
use crate::mvcc::Millis;
use crate::planted::{self, Bug};

/// How long until a forwarded proposal is sent again.
const SEND_AGAIN: Millis = 500;

/// What is proposed.
#[derive(Clone, Debug)]
pub(crate) enum Proposal {
    /// A command, encoded, without its time.
    Command(Vec<u8>),
    /// A change of the members.
    Change(Change),
}

/// One that is yet to be appended or forwarded.
pub(crate) struct Held {
    pub(crate) token: Token,
    pub(crate) proposal: Proposal,
    /// Since when it waits.
    pub(crate) since: Millis,
}

struct Appended {
    index: u64,
    term: u64,
    token: Token,
    since: Millis,
}

struct Forwarded {
    held: Held,
    term: u64,
    at: Millis,
}

/// What became of those that will not be applied.
#[derive(Default)]
pub(crate) struct Lost {
    /// Certain not to be applied, ever.
    pub(crate) never: Vec<Token>,
    /// It is not known.
    pub(crate) unknown: Vec<Token>,
}

/// All of one life of one member. See the module.
pub(crate) struct Proposals {
    tag: Tag,
    held: VecDeque<Held>,
    /// By index.
    appended: VecDeque<Appended>,
    /// By sequence.
    forwarded: BTreeMap<u64, Forwarded>,
    /// The newest term of which an entry was applied.
    fenced: u64,
}

impl Proposals {
    pub(crate) fn new(member: MemberId, life: u64) -> Self {
        let tag = Tag { member, life, sequence: 0 };
        Self { tag, held: VecDeque::new(), appended: VecDeque::new(), forwarded: BTreeMap::new(), fenced: 0 }
    }

    pub(crate) fn hold(&mut self, held: Held) {
        self.held.push_back(held);
    }

    /// The next that waits for a leader.
    pub(crate) fn next_held(&mut self) -> Option<Held> {
        self.held.pop_front()
    }

    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// This member leads, and has appended it.
    pub(crate) fn append(&mut self, index: u64, term: u64, token: Token, since: Millis) {
        self.appended.push_back(Appended { index, term, token, since });
    }

    /// Forwards one to the leader of `term`; returns its number.
    pub(crate) fn forward(&mut self, held: Held, term: u64, at: Millis) -> u64 {
        self.tag.sequence += 1;
        self.forwarded.insert(self.tag.sequence, Forwarded { held, term, at });
        self.tag.sequence
    }

    /// The numbers of those whose leader should have answered by now.
    pub(crate) fn overdue(&mut self, term: u64, now: Millis) -> Vec<u64> {
        let due = self.forwarded.iter_mut().filter(|(_, sent)| sent.term == term && sent.at + SEND_AGAIN <= now);
        let due = due.map(|(sequence, sent)| {
            sent.at = now;
            *sequence
        });
        due.collect()
    }

    pub(crate) fn forwarded(&self, sequence: u64) -> Option<&Proposal> {
        self.forwarded.get(&sequence).map(|sent| &sent.held.proposal)
    }

    /// No lower number is waited for.
    pub(crate) fn floor(&self) -> u64 {
        self.forwarded.keys().next().copied().unwrap_or(self.tag.sequence + 1)
    }

    /// This life's name.
    pub(crate) fn life(&self) -> u64 {
        self.tag.life
    }

    /// The leader will never accept it.
    pub(crate) fn refused(&mut self, life: u64, sequence: u64) -> Option<Token> {
        if life != self.tag.life {
            return None;
        }
        self.forwarded.remove(&sequence).map(|sent| sent.held.token)
    }

    /// An entry is applied: who waits for it, and who no longer needs to wait for his.
    pub(crate) fn applied(&mut self, index: u64, term: u64, tag: Option<Tag>) -> (Option<Token>, Vec<Token>) {
        let never = if term > self.fenced { self.fence(term) } else { Vec::new() };
        let own = self.appended.pop_front_if(|first| first.index == index).map(|first| first.token);
        let tagged = tag.filter(|tag| (tag.member, tag.life) == (self.tag.member, self.tag.life));
        let tagged = tagged.and_then(|tag| self.forwarded.remove(&tag.sequence)).map(|sent| sent.held.token);
        (own.or(tagged), never)
    }

    /// Nothing of an earlier term will be applied after this.
    fn fence(&mut self, term: u64) -> Vec<Token> {
        self.fenced = term;
        let before: Vec<u64> =
            self.forwarded.iter().filter(|(_, sent)| sent.term < term).map(|(sequence, _)| *sequence).collect();
        for sequence in before.into_iter().rev() {
            if let Some(sent) = self.forwarded.remove(&sequence) {
                self.held.push_front(sent.held);
            }
        }
        let mut never = Vec::new();
        self.appended.retain(|appended| {
            let lost = appended.term < term;
            never.extend(lost.then_some(appended.token));
            !lost
        });
        never
    }

    /// A snapshot took the place of all entries up to this index.
    pub(crate) fn skipped(&mut self, index: u64, term: u64) -> Lost {
        self.fenced = self.fenced.max(term);
        let mut unknown: Vec<_> = std::mem::take(&mut self.forwarded).into_values().map(|s| s.held.token).collect();
        self.appended.retain(|appended| {
            let inside = appended.index <= index || appended.term < term;
            unknown.extend(inside.then_some(appended.token));
            !inside
        });
        Lost { never: Vec::new(), unknown }
    }

    /// Gives up those that have waited since `before` or longer.
    pub(crate) fn expire(&mut self, before: Millis) -> Lost {
        let mut lost = Lost::default();
        self.held.retain(|held| {
            let late = held.since <= before;
            lost.never.extend(late.then_some(held.token));
            !late
        });
        self.forwarded.retain(|_, sent| {
            let late = sent.held.since <= before;
            lost.unknown.extend(late.then_some(sent.held.token));
            !late
        });
        self.appended.retain(|appended| {
            let late = appended.since <= before;
            lost.unknown.extend(late.then_some(appended.token));
            !late
        });
        if planted::is(Bug::UnknownSaidFailed) {
            lost.never.append(&mut lost.unknown);
        }
        lost
    }
}

/// What a leader has accepted from others in its term, so that it accepts nothing twice.
#[derive(Default)]
pub(crate) struct Accepted {
    term: u64,
    lives: BTreeMap<(MemberId, u64), Seen>,
}

#[derive(Default)]
struct Seen {
    /// Everything below was seen, or is not waited for.
    floor: u64,
    above: BTreeSet<u64>,
}

impl Accepted {
    /// Whether this one is new. It is not from now on.
    pub(crate) fn accept(&mut self, term: u64, tag: Tag, floor: u64) -> bool {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        let seen = self.lives.entry((tag.member, tag.life)).or_default();
        if floor > seen.floor {
            seen.floor = floor;
            seen.above = seen.above.split_off(&floor);
        }
        planted::is(Bug::AcceptedTwice) || (tag.sequence >= seen.floor && seen.above.insert(tag.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(token: Token) -> Held {
        Held { token, proposal: Proposal::Command(vec![]), since: token }
    }

    #[test]
    fn a_forwarded_proposal_is_answered_by_its_tag_or_held_again_after_its_term() {
        let mut proposals = Proposals::new(2, 9);
        let tag = |sequence| Some(Tag { member: 2, life: 9, sequence });
        let numbers: Vec<u64> = (1..=3).map(|token| proposals.forward(held(token), 5, 0)).collect();
        assert_eq!(proposals.floor(), numbers[0]);
        assert_eq!(proposals.applied(10, 5, tag(numbers[1])), (Some(2), vec![]));
        assert_eq!(proposals.applied(11, 5, Some(Tag { member: 2, life: 8, sequence: numbers[0] })), (None, vec![]));
        assert_eq!(proposals.applied(12, 6, None), (None, vec![]));
        let again: Vec<_> = std::iter::from_fn(|| proposals.next_held()).map(|held| held.token).collect();
        assert_eq!(again, vec![1, 3], "in their order");
    }

    #[test]
    fn what_a_leader_appended_and_lost_is_certain() {
        let mut proposals = Proposals::new(1, 9);
        proposals.append(10, 5, 1, 0);
        proposals.append(11, 5, 2, 0);
        assert_eq!(proposals.applied(10, 5, None), (Some(1), vec![]));
        assert_eq!(proposals.applied(11, 6, None), (None, vec![2]), "another entry came in its place");
    }

    #[test]
    fn patience_tells_apart_what_may_have_happened() {
        let mut proposals = Proposals::new(1, 9);
        proposals.hold(held(1));
        proposals.forward(held(2), 1, 0);
        proposals.append(4, 1, 3, 3);
        proposals.hold(held(9));
        let lost = proposals.expire(5);
        assert_eq!((lost.never, lost.unknown), (vec![1], vec![2, 3]));
        assert_eq!(proposals.next_held().map(|held| held.token), Some(9));
    }

    #[test]
    fn nothing_is_accepted_twice_in_a_term() {
        let mut accepted = Accepted::default();
        let tag = |sequence| Tag { member: 2, life: 7, sequence };
        assert!(accepted.accept(3, tag(5), 1));
        assert!(accepted.accept(3, tag(4), 1), "out of order");
        assert!(!accepted.accept(3, tag(5), 1));
        assert!(accepted.accept(3, tag(8), 6));
        assert!(!accepted.accept(3, tag(4), 6), "its sender does not wait for it");
        assert!(accepted.accept(4, tag(5), 1), "another term knows nothing of it");
    }
}
