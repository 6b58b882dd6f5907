//! Simulates clusters under seeds, as many as asked for.
//!
//! `cargo run --release -p store --example simulate -- --seeds N [--from S] [--members 3|5]`; with `--bug NAME` it tells which
//! of them show that planted bug to the checker.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use store::planted::{self, Bug};
use store::sim::{Plan, run};

fn main() -> Result<(), String> {
    let mut options = BTreeMap::from([("--seeds", 100_u64), ("--from", 1), ("--members", 3)]);
    let mut arguments = std::env::args().skip(1);
    let mut bug = None;
    while let Some(name) = arguments.next() {
        if name == "--bug" {
            let wanted = arguments.next().unwrap_or_default();
            let known = Bug::ALL.iter().find(|bug| format!("{bug:?}") == wanted);
            bug = Some(*known.ok_or_else(|| format!("--bug: expected one of {:?}", Bug::ALL))?);
            continue;
        }
        let value = arguments.next().and_then(|value| value.parse().ok());
        let usage = || format!("{name}: expected --seeds N, --from S or --members N");
        *options.get_mut(name.as_str()).ok_or_else(usage)? = value.ok_or_else(usage)?;
    }
    let (seeds, from) = (options["--seeds"], options["--from"]);
    let members = usize::try_from(options["--members"]).map_err(|_| "too many members")?;
    // A panic of a member is a finding, which is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(bug) = bug {
        return convict(bug, from..from + seeds, members);
    }
    let (start, mut simulated, mut operations) = (Instant::now(), Duration::ZERO, 0);
    let (mut faults, mut failed) = (BTreeMap::<&str, u64>::new(), 0);
    for seed in from..from + seeds {
        let report = run(Plan { seed, members, blind: false });
        simulated += report.simulated;
        operations += report.operations;
        report.faults.iter().for_each(|(what, count)| *faults.entry(what).or_default() += count);
        if let Some(wrong) = report.wrong {
            failed += 1;
            println!("seed {seed}: {wrong}");
            println!("  replay: cargo run -p store --example simulate -- --seeds 1 --from {seed} --members {members}");
        }
    }
    let speed = simulated.as_secs_f64() / start.elapsed().as_secs_f64();
    println!("{seeds} seeds, {failed} failed; {speed:.0} simulated seconds a second; {operations} operations checked");
    println!("faults: {faults:?}");
    if failed > 0 { Err(format!("{failed} seeds failed")) } else { Ok(()) }
}

/// Which seeds show the bug in what clients see.
fn convict(bug: Bug, seeds: Range<u64>, members: usize) -> Result<(), String> {
    let (all, mut found) = (seeds.end - seeds.start, 0);
    for seed in seeds {
        let report = planted::with(bug, || run(Plan { seed, members, blind: true }));
        let violation = report.history.check(&report.rules).err().map(|violation| violation.to_string());
        if let Some(wrong) = violation.or(report.wrong) {
            found += 1;
            println!("seed {seed}: {wrong}");
        }
    }
    println!("{bug:?} was found in {found} of {all} seeds");
    if found > 0 { Ok(()) } else { Err("it was not found".to_owned()) }
}
