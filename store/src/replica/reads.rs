//! Reads that wait until this member knows that it has seen everything that was committed before they came.
//!
//! All that come in one turn are asked for together (raft's ReadIndex: a round of heartbeats, no disk). The answer is an
//! index; when so much is applied the state can be read.

use std::collections::BTreeMap;

use super::member::Token;
use crate::members::MemberId;
use crate::mvcc::Millis;
use crate::planted::{self, Bug};

/// How long an answer is waited for before it is asked again.
const ASK_AGAIN: Millis = 300;

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

    /// What raft is to be asked for now.
    pub(crate) fn ask(&mut self, now: Millis) -> Vec<Vec<u8>> {
        if !self.fresh.is_empty() {
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
        let second = reads.ask(20);
        assert_eq!(second.len(), 1, "the first is not asked again so soon");
        reads.confirm(&round[0], 7);
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
}
