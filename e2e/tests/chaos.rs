//! Three servers as real processes, each in a network of its own and on a disk of its own, broken while clients write, read,
//! lease and watch through all of them.
//!
//! After each story the servers are whole again: then every member answers and takes writes, all hold the same as of one
//! revision, and what the clients were told and saw must be possible (`store::check`): linearizable, nothing acknowledged lost,
//! no event of a watch skipped. How long nobody could write is told, not judged.
//!
//! A seed decides the load and what is broken; the network and the scheduler are real, so it does not replay exactly. More of
//! them: `ORLOP_CHAOS_SEEDS=1..20 cargo test --workspace --test chaos [WORDS]`.
#![allow(clippy::print_stdout, reason = "what a test runner is for")]

use std::{ops::Range, process::ExitCode, time::Instant};

use anyhow::{Context, Result, anyhow};

#[path = "chaos/agreement.rs"]
mod agreement;
#[path = "chaos/client.rs"]
mod client;
#[path = "chaos/clients.rs"]
mod clients;
#[path = "chaos/figures.rs"]
mod figures;
#[path = "chaos/nemesis.rs"]
mod nemesis;
#[path = "chaos/objects.rs"]
mod objects;
#[path = "chaos/pouring.rs"]
mod pouring;
#[path = "chaos/strangers.rs"]
mod strangers;
#[path = "chaos/war.rs"]
mod war;

use war::War;

/// Which seeds to try.
const SEEDS: &str = "ORLOP_CHAOS_SEEDS";

/// A name that reads as a sentence, and what is done.
type Story = (&'static str, fn(&mut War) -> Result<()>);

const STORIES: &[Story] = &[
    ("leaders_are_killed", nemesis::leaders_are_killed),
    ("followers_are_killed", nemesis::followers_are_killed),
    ("leaders_are_frozen", nemesis::leaders_are_frozen),
    ("servers_are_cut_off", nemesis::servers_are_cut_off),
    ("servers_are_cut_off_in_one_direction", nemesis::servers_are_cut_off_in_one_direction),
    ("the_network_flaps", nemesis::the_network_flaps),
    ("disks_are_full", nemesis::disks_are_full),
    ("servers_come_and_go", nemesis::servers_come_and_go),
    ("everything_at_once", nemesis::everything_at_once),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen = STORIES.iter().filter(|(name, _)| words.is_empty() || words.iter().any(|w| name.contains(w.as_str())));
    let seeds = match seeds() {
        Ok(seeds) => seeds,
        Err(error) => {
            println!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for ((name, story), seed) in chosen.flat_map(|story| seeds.clone().map(move |seed| (story, seed))) {
        let started = Instant::now();
        // namespaces of mounts belong to threads: the small disks are there for this one and what it starts
        let told = std::thread::spawn(move || tell(*story, seed)).join();
        let seconds = started.elapsed().as_secs_f64();
        match told.unwrap_or_else(|_| Err(anyhow!("the story panicked"))) {
            Ok(figures) => {
                println!("test {name} ... ok ({seconds:.1} s, seed {seed})\n    {figures}");
                passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s, seed {seed})\n{error:#}");
                println!("  again: {SEEDS}={seed}..{} cargo test --workspace --test chaos {name}", seed + 1);
                failed += 1;
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The seeds that the environment names, as `FIRST..END`; one without.
fn seeds() -> Result<Range<u64>> {
    let Ok(text) = std::env::var(SEEDS) else { return Ok(1..2) };
    let read = || {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    };
    read().with_context(|| format!("{SEEDS}={text} is not of the form 1..20"))
}

fn tell(story: fn(&mut War) -> Result<()>, seed: u64) -> Result<String> {
    let mut war = War::begin(seed)?;
    let told = story(&mut war).and_then(|()| war.end());
    told.map_err(|error| error.context(war.picture()))
}
