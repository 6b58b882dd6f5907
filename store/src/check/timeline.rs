//! The calls and returns that are left to be put in order: a doubly linked list from which an operation is lifted when it
//! has its place, and into which it is put back when that place leads nowhere. Both take constant time, as long as what is
//! put back is what was lifted last (Knuth's dancing links).

use super::{Nanos, Record};

/// The end of the list, and before its first.
const HEAD: usize = 0;

/// The list. Operation `i` calls at node `2i + 1` and returns at `2i + 2`.
pub(super) struct Timeline {
    next: Vec<usize>,
    prev: Vec<usize>,
    returns: Vec<Nanos>,
}

impl Timeline {
    /// All calls and returns in the order of their times; at the same time calls first.
    pub(super) fn new(records: &[&Record]) -> Self {
        let returns: Vec<_> = records.iter().map(|record| record.returned.unwrap_or(Nanos::MAX)).collect();
        let mut order: Vec<_> = (0..2 * records.len())
            .map(|half| match half % 2 {
                0 => (records[half / 2].called, 0, half + 1),
                _ => (returns[half / 2], 1, half + 1),
            })
            .collect();
        order.sort_unstable();
        let mut list = Self { next: vec![HEAD; order.len() + 1], prev: vec![HEAD; order.len() + 1], returns };
        let mut last = HEAD;
        for (_, _, node) in order {
            (list.next[last], list.prev[node]) = (node, last);
            last = node;
        }
        list.prev[HEAD] = last;
        list
    }

    /// The operations of which any may be next: called before the first return of one that has no place yet.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        let mut node = HEAD;
        std::iter::from_fn(move || {
            node = self.next[node];
            (node % 2 == 1).then_some(node / 2)
        })
    }

    /// The operation that returns first, so must have its place before, and when. None when all have theirs.
    pub(super) fn urgent(&self) -> Option<(usize, Nanos)> {
        let mut node = self.next[HEAD];
        while node % 2 == 1 {
            node = self.next[node];
        }
        (node != HEAD).then(|| ((node - 1) / 2, self.returns[(node - 1) / 2]))
    }

    /// Takes an operation out.
    pub(super) fn lift(&mut self, operation: usize) {
        for node in [2 * operation + 1, 2 * operation + 2] {
            let (before, after) = (self.prev[node], self.next[node]);
            (self.next[before], self.prev[after]) = (after, before);
        }
    }

    /// Puts back the operation that was lifted last.
    pub(super) fn unlift(&mut self, operation: usize) {
        for node in [2 * operation + 2, 2 * operation + 1] {
            let (before, after) = (self.prev[node], self.next[node]);
            (self.next[before], self.prev[after]) = (node, node);
        }
    }
}
