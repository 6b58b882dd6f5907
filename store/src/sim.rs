//! Deterministic simulation: members, clients, clocks, disks and the network in one thread, under a seed.
//!
//! What runs is the real member (`replica::engine` and below, down to the bytes in its files and messages); what is
//! simulated is what it is given: time, a disk, and a way to others. A seed decides everything; it replays bit for bit, which
//! [`Report::digest`] shows.
//!
//! # Checked, all the while
//! * Every answer agrees with what happened, and comes in an order that a single copy could have (`client`).
//! * Members that have applied as much hold the same state; a revision changed the same everywhere (`truth`).
//! * A watch hands out every change of its range once, in order, and never claims more than it did.
//!
//! # Checked at the end
//! * The history of what clients were told and saw is possible: what [`crate::check`] says.
//! * Nothing that was said not to have happened did, and nothing happened twice.
//! * When nothing breaks any more, all members are there and answer, until clients come to rest after [`PEACE`]; then within
//!   [`REST`] all members have applied the same and hold the same.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::check::{History, Rules};
use crate::kv::Revision;

mod client;
pub mod dice;
pub(crate) mod disk;
mod nemesis;
mod network;
mod slot;
mod truth;
mod witness;
mod world;

use world::{Micros, World};

/// How long things break.
pub const WAR: Duration = Duration::from_secs(20);

/// How long until everything works again after the last thing broke.
pub const PEACE: Duration = Duration::from_secs(20);

/// How long until all members agree after the last call of a client.
pub const REST: Duration = Duration::from_secs(3);

/// How often it is looked whether they do, microseconds.
const STEP: Micros = 50_000;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Voting members.
    pub members: usize,
    /// Look at nothing but what clients see, and leave that to the checker of histories.
    pub blind: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of everything that happened: the same seed, the same digest.
    pub digest: u64,
    /// Time that passed in the simulation.
    pub simulated: Duration,
    /// How often what was broken.
    pub faults: BTreeMap<&'static str, u64>,
    /// Calls of clients that were answered and checked.
    pub operations: u64,
    /// Revisions of the store.
    pub revisions: Revision,
    /// What was wrong, if anything was.
    pub wrong: Option<String>,
    /// What clients asked, were told and saw.
    pub history: History,
    /// What members may have done by themselves.
    pub rules: Rules,
}

/// Runs one simulation.
pub fn run(plan: Plan) -> Report {
    let end = |duration: Duration| Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX);
    let mut world = World::new(&plan);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        world.run_until(end(WAR));
        world.make_peace();
        world.rest = end(WAR + PEACE);
        world.run_until(world.rest);
        // Leaders still end leases and forget history: it is enough that all agree once.
        let last = end(WAR + PEACE + REST);
        while world.wrong.is_none() && world.now < last && !world.agrees() {
            world.run_until(world.now + STEP);
        }
        world.check_peace();
        world.check_writes();
    }));
    if let Err(panic) = panicked {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        world.wrong.get_or_insert_with(|| format!("panicked: {}", text.unwrap_or("?")));
    }
    let mut report = world.report(&plan);
    if !plan.blind && report.wrong.is_none() {
        report.wrong = report.history.check(&report.rules).err().map(|violation| violation.to_string());
    }
    report
}
