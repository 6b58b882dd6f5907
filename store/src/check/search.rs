//! The search for an order: Wing and Gong's, with Lowe's memory of what led nowhere, as in porcupine.
//!
//! Of the operations that were called before the first return among those without a place, one must be next. Those that
//! leave the state as it is and fit it are placed at once: to place them later could not help anybody. Where the others do
//! not decide it by the revision that they were given, the search tries one, and comes back for the next if that fails; a
//! set of placed operations with a state that was met before is not tried again.
//!
//! Steps that the history does not show come last, and only make revisions that no reply claims.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::claims::{Claims, made, revision};
use super::hints::Hints;
use super::model::Model;
use super::order::{Linearization, Step};
use super::timeline::Timeline;
use super::watching::Watch;
use super::{Nanos, Outcome, Record, Refusal, Reply, Request, Rules, Violation, explain};
use crate::kv::{LeaseId, Op, Revision, Txn};

/// Looks for an order. The store forgets nothing by itself; with other [`Rules`] see [`super::History::check`].
///
/// # Errors
/// There is none, and why.
pub fn linearizable(records: &[Record]) -> Result<Linearization, Violation> {
    search(records, &[], &Rules::default())
}

/// Looks for an order; what watchers saw helps to choose among steps that the history does not show.
pub(super) fn search(records: &[Record], watches: &[Watch], rules: &Rules) -> Result<Linearization, Violation> {
    let claims = Claims::of(records)?;
    Search::new(records, claims, Hints::of(watches), *rules).run()
}

/// What was done to come to here.
enum Move {
    /// An operation was placed without a choice.
    Settled(usize),
    /// One of several was chosen; these are left, the best last.
    Chosen { step: Option<Step>, left: Vec<(Step, Model)> },
}

struct Search<'a> {
    records: &'a [Record],
    /// Indices of the operations that must have a place, in the order of `timeline`.
    known: Vec<usize>,
    /// Indices of those that may have one.
    unknown: Vec<usize>,
    used: Vec<bool>,
    claims: Claims<'a>,
    hints: Hints<'a>,
    rules: Rules,
    /// The newest revision that was answered.
    told: Revision,
    timeline: Timeline,
    model: Model,
    moves: Vec<Move>,
    /// Of the set of placed operations: each adds its own random number.
    placed: u128,
    numbers: [RandomState; 2],
    met: HashSet<(u128, u64)>,
    furthest: Option<explain::Stuck>,
}

impl<'a> Search<'a> {
    fn new(records: &'a [Record], claims: Claims<'a>, hints: Hints<'a>, rules: Rules) -> Self {
        let those = |want: fn(&Record) -> bool| -> Vec<usize> {
            (0..records.len()).filter(|index| want(&records[*index])).collect()
        };
        let known = those(|record| matches!(record.outcome, Outcome::Ok(_) | Outcome::Refused(_)));
        let unknown = those(|record| matches!(record.outcome, Outcome::Unknown) && may_change(&record.request));
        let timeline = Timeline::new(&known.iter().map(|index| &records[*index]).collect::<Vec<_>>());
        Self {
            records,
            known,
            used: vec![false; unknown.len()],
            unknown,
            claims,
            hints,
            rules,
            told: records.iter().filter_map(told).max().unwrap_or_default(),
            timeline,
            model: Model::default(),
            moves: Vec::new(),
            placed: 0,
            numbers: [RandomState::new(), RandomState::new()],
            met: HashSet::new(),
            furthest: None,
        }
    }

    fn run(mut self) -> Result<Linearization, Violation> {
        loop {
            self.settle();
            let Some((urgent, by)) = self.timeline.urgent() else {
                self.follow_watchers();
                return Ok(self.order());
            };
            let left = self.choices(by);
            if left.is_empty() {
                self.note(urgent);
            }
            self.moves.push(Move::Chosen { step: None, left });
            if !self.advance() {
                let stuck = self.furthest.expect("invariant: a search that ends was stuck");
                return Err(stuck.explain(self.records));
            }
        }
    }

    /// Places what leaves the state as it is and fits it.
    fn settle(&mut self) {
        loop {
            let fits = self.timeline.open().find_map(|operation| self.fits(operation).map(|model| (operation, model)));
            let Some((operation, model)) = fits else { return };
            if let Some(model) = model {
                self.model = model;
            }
            self.place(Step::Operation(self.known[operation]), true);
            self.moves.push(Move::Settled(operation));
        }
    }

    /// Whether an operation can be placed without a choice; with the model after it, where only a lease's time changed.
    fn fits(&self, operation: usize) -> Option<Option<Model>> {
        let record = &self.records[self.known[operation]];
        match (&record.outcome, &record.request) {
            (Outcome::Ok(reply @ Reply::Range(told)), Request::Range(_)) if told.revision == self.model.revision() => {
                let answer = self.model.clone().answer(&record.request, record.called);
                (answer.as_ref() == Ok(reply)).then_some(None)
            }
            (Outcome::Ok(reply @ Reply::Txn(told)), _)
                if told.revision == self.model.revision() && made(reply).is_none() =>
            {
                let mut model = self.model.clone();
                (model.answer(&record.request, record.called).as_ref() == Ok(reply)).then_some(None)
            }
            (Outcome::Ok(reply @ Reply::KeptAlive(_)), _) => {
                let mut model = self.model.clone();
                (model.answer(&record.request, record.called).as_ref() == Ok(reply)).then_some(Some(model))
            }
            (Outcome::Refused(refusal), request) => {
                let answer = self.model.clone().answer(request, record.called);
                (answer.as_ref() == Err(refusal)).then_some(None)
            }
            _ => None,
        }
    }

    /// What may be next, each with the model after it; the most likely last.
    fn choices(&self, by: Nanos) -> Vec<(Step, Model)> {
        let open: Vec<&Record> = self.timeline.open().map(|operation| &self.records[self.known[operation]]).collect();
        // Revisions only grow: here nobody can be told an older one any more.
        if open.iter().any(|record| told(record).is_some_and(|revision| revision < self.model.revision())) {
            return Vec::new();
        }
        let mut choices = self.hidden(&open, by);
        for operation in self.timeline.open() {
            let index = self.known[operation];
            let record = &self.records[index];
            let Outcome::Ok(reply) = &record.outcome else { continue };
            if made(reply).is_some_and(|revision| revision != self.model.revision() + 1) {
                continue;
            }
            let mut model = self.model.clone();
            let fits = model.answer(&record.request, record.called).as_ref() == Ok(reply);
            if fits && (made(reply).is_some() || self.is_free(&model)) {
                choices.push((Step::Operation(index), model));
            }
        }
        // Of two that nothing else tells apart, the one that was answered is the more likely.
        choices.sort_by_cached_key(|(step, model)| std::cmp::Reverse(self.doubts(*step, model)));
        choices
    }

    /// Steps that the history does not show.
    fn hidden(&self, open: &[&Record], by: Nanos) -> Vec<(Step, Model)> {
        let mut choices = Vec::new();
        let leases = self.model.leases().filter(|(_, due)| *due <= by.saturating_add(self.rules.early));
        for (lease, _) in leases {
            let mut model = self.model.clone();
            model.expire(lease);
            let step = Step::Expired(lease);
            if self.is_owed(step, &model) || open.iter().any(|record| misses(record, lease)) {
                choices.push((step, model));
            }
        }
        // Of two that do the same, the one that was called first: it may have been seen before the other was called.
        for (at, index) in self.unknown.iter().enumerate().rev() {
            let record = &self.records[*index];
            if self.used[at] || record.called > by {
                continue;
            }
            let mut model = self.model.clone();
            if model.answer(&record.request, record.called).is_err() {
                continue;
            }
            let granted = model.leases().map(|(lease, _)| lease).find(|lease| !self.model.has(*lease));
            let wanted = |open: &&Record| match granted {
                Some(lease) => matches!(open.request, Request::Grant { .. }) || uses(open, lease),
                None => waits_for(open, &record.request),
            };
            let step = Step::Operation(*index);
            if self.is_owed(step, &model) || open.iter().any(wanted) {
                choices.push((step, model));
            }
        }
        choices.extend(open.iter().filter_map(|record| self.forgetting(record)));
        choices.retain(|(_, model)| self.is_free(model));
        choices
    }

    /// Whether a step made a revision that there must be: a newer one was answered, or watchers speak of it and not against this.
    /// Beyond that nothing tells the steps apart, and all their orders would be tried.
    fn is_owed(&self, step: Step, model: &Model) -> bool {
        let now = self.model.revision();
        model.revision() > now && (now < self.told || now < self.hints.newest && self.doubts(step, model) == 0)
    }

    /// The least that the store must have forgotten by itself to refuse what it refused.
    fn forgetting(&self, record: &Record) -> Option<(Step, Model)> {
        let Outcome::Refused(Refusal::Compacted(asked)) = record.outcome else { return None };
        let revision = if let Request::Compact(_) = record.request { asked } else { asked + 1 };
        let allowed = revision.checked_add(self.rules.keeps).is_some_and(|end| end <= self.model.revision());
        let mut model = self.model.clone();
        let forgot = allowed && model.answer(&Request::Compact(revision), 0).is_ok();
        forgot.then_some((Step::Forgot(revision), model))
    }

    /// Whether the revision that led to this model, if one did, is nobody's and is as it was seen.
    fn is_free(&self, model: &Model) -> bool {
        if model.revision() == self.model.revision() {
            return true;
        }
        !self.claims.is_made(model.revision()) && model.newest().is_some_and(|revised| self.claims.admit(revised))
    }

    /// How much of what watchers say speaks against the revision that a step made, which led to this model.
    fn doubts(&self, step: Step, model: &Model) -> usize {
        let revised = model.newest().filter(|_| model.revision() > self.model.revision());
        revised.map_or(0, |revised| self.hints.doubts(revised, self.earliest(step)))
    }

    /// Before this moment a step cannot have been taken.
    fn earliest(&self, step: Step) -> Nanos {
        match step {
            Step::Operation(index) => self.records[index].called,
            Step::Expired(lease) => {
                let due = self.model.leases().find(|(id, _)| *id == lease).map_or(0, |(_, due)| due);
                due.saturating_sub(self.rules.early)
            }
            Step::Forgot(_) => 0,
        }
    }

    /// Takes the next choice of the newest move that has one left, and takes back what came after. False when none has.
    fn advance(&mut self) -> bool {
        while let Some(mut newest) = self.moves.pop() {
            match &mut newest {
                Move::Settled(operation) => {
                    let operation = *operation;
                    self.place(Step::Operation(self.known[operation]), false);
                }
                Move::Chosen { step, left } => {
                    if let Some(step) = step.take() {
                        self.place(step, false);
                    }
                    while let Some((next, model)) = left.pop() {
                        self.place(next, true);
                        if self.met.insert((self.placed, model.digest())) {
                            self.model = model;
                            *step = Some(next);
                            self.moves.push(newest);
                            return true;
                        }
                        self.place(next, false);
                    }
                }
            }
        }
        false
    }

    /// Places a step, or takes it back.
    fn place(&mut self, step: Step, forth: bool) {
        let Step::Operation(index) = step else { return };
        let number = (u128::from(self.numbers[0].hash_one(index)) << 64) | u128::from(self.numbers[1].hash_one(index));
        self.placed = if forth { self.placed.wrapping_add(number) } else { self.placed.wrapping_sub(number) };
        if let Ok(operation) = self.known.binary_search(&index) {
            if forth { self.timeline.lift(operation) } else { self.timeline.unlift(operation) }
        } else if let Ok(at) = self.unknown.binary_search(&index) {
            self.used[at] = forth;
        }
    }

    /// All operations have their places. What watchers saw after the last of them was made by steps that the history does not
    /// show, as far as there are any that do not speak against what was seen.
    fn follow_watchers(&mut self) {
        while self.model.revision() < self.hints.newest {
            let Some((step, model)) = self.hidden(&[], Nanos::MAX).pop() else { return };
            self.place(step, true);
            self.model = model;
            self.moves.push(Move::Chosen { step: Some(step), left: Vec::new() });
        }
    }

    /// Keeps where the search came furthest, for the words.
    fn note(&mut self, urgent: usize) {
        if self.furthest.as_ref().is_none_or(|furthest| furthest.depth < self.moves.len()) {
            let steps = self.moves.iter().rev().filter_map(|each| self.step(each)).take(explain::BEFORE).collect();
            let open = self.timeline.open().map(|operation| self.known[operation]).collect();
            let (depth, urgent, model) = (self.moves.len(), self.known[urgent], self.model.clone());
            self.furthest = Some(explain::Stuck { depth, urgent, open, steps, model });
        }
    }

    fn step(&self, each: &Move) -> Option<Step> {
        match each {
            Move::Settled(operation) => Some(Step::Operation(self.known[*operation])),
            Move::Chosen { step, .. } => *step,
        }
    }

    fn order(self) -> Linearization {
        let steps: Vec<_> = self.moves.iter().filter_map(|each| self.step(each)).collect();
        Linearization::of(steps, self.records, &self.rules)
    }
}

/// The store's revision, as an operation was told it.
fn told(record: &Record) -> Option<Revision> {
    if let Outcome::Ok(reply) = &record.outcome { revision(reply) } else { None }
}

/// Whether an operation was told that there is no such lease, or wants one of that name.
fn misses(record: &Record, lease: LeaseId) -> bool {
    let refused = matches!(record.outcome, Outcome::Refused(Refusal::LeaseNotFound(missed)) if missed == lease);
    refused || matches!(record.request, Request::Grant { id, .. } if id == lease)
}

/// Whether the outcome of an operation can hang on another, of unknown outcome, that makes no revision.
fn waits_for(record: &Record, unknown: &Request) -> bool {
    match unknown {
        Request::Revoke(lease) => misses(record, *lease),
        Request::Compact(_) => matches!(record.outcome, Outcome::Refused(Refusal::Compacted(_))),
        Request::Range(_) | Request::Txn(_) | Request::Grant { .. } | Request::KeepAlive(_) => false,
    }
}

/// Whether an operation is about a lease.
fn uses(record: &Record, lease: LeaseId) -> bool {
    match &record.request {
        Request::KeepAlive(used) | Request::Revoke(used) => *used == lease,
        Request::Txn(txn) => attaches(txn, lease),
        Request::Range(_) | Request::Grant { .. } | Request::Compact(_) => false,
    }
}

/// Whether a transaction has a key die with a lease.
fn attaches(txn: &Txn, lease: LeaseId) -> bool {
    txn.steps().any(|op| match op {
        Op::Put { lease: used, .. } => *used == lease,
        Op::Update { lease: used, .. } => *used == Some(lease),
        Op::Txn(inner) => attaches(inner, lease),
        Op::Delete { .. } | Op::Range(_) => false,
    })
}

/// Whether others can notice that it was done. More time for a lease they cannot: it may always end later than it could.
fn may_change(request: &Request) -> bool {
    match request {
        Request::Range(_) | Request::KeepAlive(_) => false,
        Request::Txn(txn) => !txn.reads_only(),
        Request::Grant { .. } | Request::Revoke(_) | Request::Compact(_) => true,
    }
}
