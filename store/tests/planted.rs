//! The checker is alive: known bugs of systems like this are planted, one at a time, and what clients see convicts each.
//!
//! The simulation runs blind: nothing is looked at but what its clients were told and saw. Without the bug the same seeds
//! are found right, so it is the bug that is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::fs;
use std::path::Path;

use store::planted::{self, Bug};
use store::sim::{Plan, Report, run};

/// In how many members, and from which seed on, a bug is found; within [`SEEDS`] of it.
type Where = (Bug, usize, u64);

/// Within so many seeds each bug is found.
const SEEDS: u64 = 12;

/// Where each bug shows itself soon. A bug that needs a rare accident is given a seed that has it.
const PLANTED: &[Where] = &[
    (Bug::FollowerAcksBeforeSync, 1, 1),
    (Bug::TornRecordServed, 1, 18),
    (Bug::AppliedTwiceAfterRestart, 1, 1),
    (Bug::TxnTornByRestart, 1, 1),
    (Bug::RevisionDecreases, 3, 1),
    (Bug::SnapshotMissesTail, 3, 1),
    (Bug::SnapshotMissesLeases, 3, 1),
    (Bug::ReadWithoutQuorum, 3, 39),
    (Bug::ReadBeforeApplied, 3, 1),
    (Bug::AcceptedTwice, 3, 1),
    (Bug::UnknownSaidFailed, 3, 1),
    (Bug::KeepAliveForgotten, 3, 1),
    (Bug::RevokedTwice, 1, 1),
    (Bug::LeaseLeavesKeys, 1, 1),
    (Bug::CompareOffByOne, 1, 1),
    (Bug::DeleteLostAtCompaction, 1, 1),
    (Bug::EventTwice, 1, 1),
    (Bug::ProgressAhead, 1, 1),
    (Bug::FutureWatchHearsPast, 3, 1),
    (Bug::WatchSkipsSnapshot, 3, 14),
    (Bug::RevisionSplit, 1, 1),
    (Bug::PrevForgotten, 1, 1),
];

/// What clients of the simulation are hardly ever told of, but is seen from inside: they read no past through the log, a vote
/// too many is stopped by the member itself, and one that lost what it had not synced finds its log torn and does not start.
const INSIDE: &[Where] = &[(Bug::LearnerVotes, 3, 1), (Bug::CompactedRead, 1, 1), (Bug::AckBeforeSync, 3, 1)];

fn plan(seed: u64, members: usize) -> Plan {
    Plan { seed, members, blind: true }
}

/// What is wrong with a run, as the checker finds it in the history, or as the member that gave up has it.
fn wrong(report: &Report) -> Option<String> {
    let violation = report.history.check(&report.rules).err().map(|violation| violation.to_string());
    violation.or_else(|| report.wrong.clone())
}

/// The first seed that shows a bug, and how.
fn found((bug, members, from): Where) -> Option<(u64, String)> {
    (from..from + SEEDS).find_map(|seed| {
        let report = planted::with(bug, || run(plan(seed, members)));
        // The bug is pulled out: the checker's model is the right state machine.
        Some((seed, wrong(&report)?))
    })
}

#[test]
fn each_planted_bug_is_found() {
    let mut missed = Vec::new();
    for place in PLANTED {
        match found(*place) {
            Some((seed, what)) => println!("{:?} in {} under seed {seed}: {what}", place.0, place.1),
            None => missed.push(format!("{:?}: {}", place.0, place.0.source())),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn what_clients_do_not_see_is_seen_from_inside() {
    for (bug, members, from) in INSIDE {
        let mut seeds = *from..from + SEEDS;
        let seen = seeds.any(|seed| {
            let report = planted::with(*bug, || run(Plan { seed, members: *members, blind: false }));
            report.wrong.is_some()
        });
        assert!(seen, "{bug:?}: {}", bug.source());
    }
}

#[test]
fn every_bug_there_is_is_planted() {
    let missing: Vec<_> =
        Bug::ALL.iter().filter(|bug| PLANTED.iter().chain(INSIDE).all(|(planted, ..)| planted != *bug)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn without_a_bug_the_same_seeds_are_right() {
    let mut seeds: Vec<_> =
        PLANTED.iter().flat_map(|(_, members, from)| (*from..from + SEEDS).map(|s| (*members, s))).collect();
    seeds.sort_unstable();
    seeds.dedup();
    for (members, seed) in seeds {
        assert_eq!(wrong(&run(plan(seed, members))), None, "seed {seed} of {members}");
    }
}

/// Only the tests of the store itself may plant bugs: no other manifest names the feature, and no crate has it by default.
#[test]
fn nobody_else_plants_bugs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let manifests = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path().join("Cargo.toml"));
    let mut manifests: Vec<_> = manifests.filter(|path| path.exists()).collect();
    manifests.push(root.join("Cargo.toml"));
    assert!(manifests.len() > 5, "{manifests:?}");
    for path in manifests {
        let text = fs::read_to_string(&path).unwrap();
        let naming: Vec<_> = text.lines().filter(|line| line.contains("planted") && !line.starts_with('#')).collect();
        let own = path == root.join("store/Cargo.toml");
        let allowed = ["store = { path = \".\", features = [\"testing\", \"planted\"] }", "planted = []"];
        assert!(own && naming == allowed || naming.is_empty(), "{}: {naming:?}", path.display());
    }
}
