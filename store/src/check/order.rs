//! An order in which a history is possible, and what it says of times.

use std::sync::Arc;

use super::model::Model;
use super::{Nanos, Record, Request, Rules};
use crate::kv::{LeaseId, Revision};
use crate::mvcc::history::Revised;

/// One step of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The operation with this index in the history.
    Operation(usize),
    /// A lease's time was over.
    Expired(LeaseId),
    /// The store forgot, by itself, what was superseded before this revision.
    Forgot(Revision),
}

/// An order in which the history is possible.
#[derive(Clone, Debug, Default)]
pub struct Linearization {
    /// The steps. Operations that failed, and those that were never done, are not among them.
    pub steps: Vec<Step>,
    /// What was made, in the order of revisions.
    made: Vec<Made>,
    /// The revision that the store began with.
    first: Revision,
    /// Up to where was forgotten, and since when at the earliest; both only grow.
    forgotten: Vec<(Nanos, Revision)>,
}

/// One revision.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// What it changed.
    pub(super) revised: Arc<Revised>,
    /// Before this moment it cannot have been there.
    pub(super) earliest: Nanos,
}

impl Linearization {
    /// The order of steps that a search found.
    pub(super) fn of(steps: Vec<Step>, records: &[Record], rules: &Rules) -> Self {
        let mut model = Model::default();
        let mut order = Self { first: model.revision(), ..Self::default() };
        let mut now = 0;
        for step in &steps {
            let compacted = model.compacted();
            match step {
                Step::Operation(index) => {
                    let Record { request, called, .. } = &records[*index];
                    // What only reads tells nothing of when the next revision may have been made.
                    let reads = matches!(request, Request::Range(_));
                    if !reads && model.answer(request, *called).is_ok() && model.revision() > order.newest() {
                        now = now.max(*called);
                    }
                }
                Step::Expired(lease) => {
                    let due = model.leases().find(|(id, _)| id == lease).map_or(0, |(_, due)| due);
                    now = now.max(due.saturating_sub(rules.early));
                    model.expire(*lease);
                }
                Step::Forgot(revision) => drop(model.answer(&Request::Compact(*revision), 0)),
            }
            order.made.extend(
                model
                    .newest()
                    .filter(|newest| newest.revision > order.newest())
                    .map(|newest| Made { revised: newest.clone(), earliest: now }),
            );
            if model.compacted() > compacted {
                let called = if let Step::Operation(index) = step { records[*index].called } else { now };
                order.forgotten.push((called, model.compacted()));
            }
        }
        order.steps = steps;
        order
    }

    /// The newest revision.
    pub fn newest(&self) -> Revision {
        self.first + self.made.len() as u64
    }

    /// The newest revision that can have been there at a moment.
    pub(super) fn newest_at(&self, at: Nanos) -> Revision {
        self.first + self.made.partition_point(|made| made.earliest <= at) as u64
    }

    /// Up to where can have been forgotten at a moment.
    pub(super) fn forgotten_at(&self, at: Nanos) -> Revision {
        self.forgotten.iter().take_while(|(since, _)| *since <= at).map(|(_, revision)| *revision).max().unwrap_or(0)
    }

    /// What revisions in `from..` changed.
    pub(super) fn from(&self, from: Revision) -> &[Made] {
        let skip = usize::try_from(from.saturating_sub(self.first + 1)).unwrap_or(usize::MAX);
        &self.made[skip.min(self.made.len())..]
    }
}
