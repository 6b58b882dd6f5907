//! Reads that wait until this member knows that it has seen everything that was committed before they came.
//!
//! They are asked for in rounds (raft's ReadIndex: heartbeats, no disk), one at a time: all that come during one share the
//! next, so that the more ask, the less each costs. The answer is an index; when so much is applied the state can be read.

use std::collections::BTreeMap;

use super::member::Token;
use crate::members::MemberId;
use crate::mvcc::Millis;
use crate::planted::{self, Bug};

/// How long an answer is waited for before it is asked again.
const ASK_AGAIN: Millis = 300;

/// How long a round keeps the next one waiting: if it is lost, those who come later do not suffer for it.
const ROUND: Millis = 20;

/// Reads of one life of one member.
pub(crate) struct Reads {
    member: MemberId,
    life: u64,
    sequence: u64,
    /// Not asked for yet, and since when they wait.
    fresh: Vec<(Token, Millis)>,
    asked: BTreeMap<u64, Round>,
    /// Waiting until so much is applied.
    confirmed: BTreeMap<u64, Vec<(Token, Millis)>>,
}

struct Round {
    readers: Vec<(Token, Millis)>,
    /// When it was asked for; none when it must be asked for again.
    at: Option<Millis>,
}

impl Reads {
    pub(crate) fn new(member: MemberId, life: u64) -> Self {
        Self { member, life, sequence: 0, fresh: Vec::new(), asked: BTreeMap::new(), confirmed: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, token: Token, now: Millis) {
        self.fresh.push((token, now));
    }

    /// Whether there is anything new to ask for, and no round on its way.
    pub(crate) fn may_ask(&self, now: Millis) -> bool {
        let settled = |round: &Round| round.at.is_none_or(|at| at + ROUND <= now);
        !self.fresh.is_empty() && self.asked.values().all(settled)
    }

    /// What raft is to be asked for now.
    pub(crate) fn ask(&mut self, now: Millis) -> Vec<Vec<u8>> {
        if self.may_ask(now) {
            self.sequence += 1;
            self.asked.insert(self.sequence, Round { readers: std::mem::take(&mut self.fresh), at: None });
        }
        let (member, life) = (self.member, self.life);
        let due = self.asked.iter_mut().filter(|(_, round)| round.at.is_none_or(|at| at + ASK_AGAIN <= now));
        let due = due.map(|(sequence, round)| {
            round.at = Some(now);
            [member, life, *sequence].iter().flat_map(|number| number.to_le_bytes()).collect()
        });
        due.collect()
    }

    /// There is another leader: whoever was asked may have forgotten.
    pub(crate) fn ask_anew(&mut self) {
        self.asked.values_mut().for_each(|round| round.at = None);
    }

    /// Raft's answer.
    pub(crate) fn confirm(&mut self, context: &[u8], index: u64) {
        let own = [self.member, self.life].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        let sequence = context.strip_prefix(&own[..]).and_then(|rest| rest.try_into().ok()).map(u64::from_le_bytes);
        if let Some(round) = sequence.and_then(|sequence| self.asked.remove(&sequence)) {
            let index = if planted::is(Bug::ReadBeforeApplied) { 0 } else { index };
            self.confirmed.entry(index).or_default().extend(round.readers);
        }
    }

    /// Those that may read when so much is applied.
    pub(crate) fn reached(&mut self, applied: u64) -> Vec<Token> {
        let mut ready = Vec::new();
        while let Some(first) = self.confirmed.first_entry()
            && *first.key() <= applied
        {
            ready.extend(first.remove().into_iter().map(|(token, _)| token));
        }
        ready
    }

    /// Those that have waited since `before` or longer.
    pub(crate) fn expire(&mut self, before: Millis) -> Vec<Token> {
        let mut expired = Vec::new();
        let mut keep = |(token, since): &(Token, Millis)| {
            let keep = *since > before;
            expired.extend((!keep).then_some(*token));
            keep
        };
        self.fresh.retain(&mut keep);
        self.asked.values_mut().for_each(|round| round.readers.retain(&mut keep));
        self.asked.retain(|_, round| !round.readers.is_empty());
        self.confirmed.values_mut().for_each(|readers| readers.retain(&mut keep));
        expired
    }

    /// All that wait.
    pub(crate) fn drain(&mut self) -> Vec<Token> {
        self.expire(Millis::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_asked_together_and_answered_when_applied() {
        let mut reads = Reads::new(3, 77);
        (1..=3).for_each(|token| reads.add(token, 10));
        let round = reads.ask(10);
        assert_eq!(round.len(), 1);
        reads.add(4, 20);
        assert_eq!(reads.ask(20), Vec::<Vec<u8>>::new(), "the first is on its way");
        reads.confirm(&round[0], 7);
        assert!(reads.may_ask(20));
        let second = reads.ask(20);
        assert_eq!(second.len(), 1);
        Reads::new(3, 78).confirm(&second[0], 7);
        assert_eq!(reads.reached(6), Vec::<Token>::new());
        assert_eq!(reads.reached(7), vec![1, 2, 3]);
        reads.confirm(b"nonsense", 9);
        assert_eq!(reads.ask(20 + ASK_AGAIN), second, "asked again, as the same");
        reads.ask_anew();
        assert_eq!(reads.ask(20 + ASK_AGAIN), second);
        assert_eq!(reads.expire(19), Vec::<Token>::new());
        assert_eq!(reads.expire(20), vec![4]);
        assert!(reads.drain().is_empty());
    }

    #[test]
    fn a_round_that_is_lost_delays_nobody_who_comes_later() {
        let mut reads = Reads::new(3, 77);
        reads.add(1, 10);
        let lost = reads.ask(10);
        reads.add(2, 11);
        assert!(!reads.may_ask(10 + ROUND - 1));
        let next = reads.ask(10 + ROUND);
        assert_eq!(next.len(), 1, "one round, of the newcomer");
        assert_ne!(next, lost);
        reads.confirm(&next[0], 7);
        assert_eq!(reads.reached(7), vec![2]);
        assert_eq!(reads.ask(10 + ASK_AGAIN), lost);
    }
}
