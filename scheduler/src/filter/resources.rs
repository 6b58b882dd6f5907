//! What the pod needs must be left.

use super::Reason;
use crate::{shape::Shape, snapshot::Node};

/// Every resource of which too little is left.
pub fn check(shape: &Shape, node: &Node) -> Vec<Reason> {
    let (needs, has, taken) = (&shape.requests, &node.allocatable, &node.requested);
    let mut reasons = Vec::new();
    if taken.pods + needs.pods > has.pods {
        reasons.push(Reason::TooManyPods);
    }
    let mut enough = |name: &str, needs: i64, has: i64, taken: i64| {
        if needs > 0 && needs > has - taken {
            reasons.push(Reason::Insufficient(name.to_owned()));
        }
    };
    enough("cpu", needs.cpu, has.cpu, taken.cpu);
    enough("memory", needs.memory, has.memory, taken.memory);
    enough("ephemeral-storage", needs.storage, has.storage, taken.storage);
    for (name, amount) in &needs.other {
        let of = |amounts: &crate::amounts::Amounts| amounts.other.get(name).copied().unwrap_or_default();
        enough(name, *amount, of(has), of(taken));
    }
    reasons
}
