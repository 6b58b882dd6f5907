//! How long clients could not write, read off a history.

use std::time::Duration;

use store::check::{History, Nanos, Outcome, Request};

/// When writes were acknowledged.
pub fn written(history: &History) -> impl Iterator<Item = Nanos> {
    let written = history.records.iter().filter(
        |record| matches!((&record.request, &record.outcome), (Request::Txn(txn), Outcome::Ok(_)) if !txn.reads_only()),
    );
    written.filter_map(|record| record.returned)
}

/// The longest time between two of these moments, or the ends of the span.
pub fn outage(moments: impl Iterator<Item = Nanos>, from: Nanos, until: Nanos) -> Duration {
    let mut moments: Vec<_> = moments.filter(|at| (from..until).contains(at)).chain([from, until]).collect();
    moments.sort_unstable();
    let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max();
    Duration::from_nanos(longest.unwrap_or(0))
}

/// How many calls were answered, refused by the state, failed for certain, and of how many nobody knows.
pub fn outcomes(history: &History) -> [usize; 4] {
    let mut counts = [0; 4];
    for record in &history.records {
        let kind = match record.outcome {
            Outcome::Ok(_) => 0,
            Outcome::Refused(_) => 1,
            Outcome::Failed => 2,
            Outcome::Unknown => 3,
        };
        counts[kind] += 1;
    }
    counts
}
