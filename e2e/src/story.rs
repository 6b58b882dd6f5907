//! Tells stories one after the other on one cluster, and reports them as `cargo test` does.

#![allow(clippy::print_stdout)] // what a test runner is for

use std::{process::ExitCode, time::Instant};

use anyhow::{Result, bail};

use crate::{footprint::Footprint, stage::Stage};

/// A name that reads as a sentence, and what happens.
pub type Story = (&'static str, fn(&mut Stage) -> Result<()>);

/// What the stories are told on.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Further words for `orlop server`.
    pub server_args: &'static [&'static str],
}

/// Runs the stories whose names contain one of the words of the command line (all, without words).
pub fn tell(setting: Setting, stories: &[Story]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<_> = stories
        .iter()
        .filter(|(name, _)| words.is_empty() || words.iter().any(|w| name.contains(w.as_str())))
        .collect();
    println!("\nrunning {} tests", chosen.len());
    if chosen.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; {} filtered out", stories.len());
        return ExitCode::SUCCESS;
    }
    let mut passed = 0;
    if let Err(error) = tell_all(setting, &chosen, &mut passed) {
        println!("test the_machine_is_left_as_it_was ... FAILED\n{error:#}");
    } else {
        println!("test the_machine_is_left_as_it_was ... ok");
        passed += 1;
    }
    // a story that was not told, as there was no cluster, has failed
    let failed = chosen.len() + 1 - passed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let filtered = stories.len() - chosen.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_all(setting: Setting, stories: &[&Story], passed: &mut usize) -> Result<()> {
    let before = Footprint::take()?;
    let mut stage = Stage::raise(setting.nodes, setting.server_args)?;
    for (name, story) in stories {
        let started = Instant::now();
        let told = in_namespace(&mut stage, name, story);
        let seconds = started.elapsed().as_secs_f64();
        match told {
            Ok(()) => {
                println!("test {name} ... ok ({seconds:.1} s)");
                *passed += 1;
            }
            Err(error) => println!("test {name} ... FAILED ({seconds:.1} s)\n{error:#}"),
        }
    }
    let (folder, group) = (stage.folder().to_owned(), stage.cluster.cgroup().to_owned());
    if Footprint::take_with(&folder, &group)? == Footprint::take()? {
        bail!("a running cluster shows no process and no control group: what it leaves behind would not show either");
    }
    stage.strike()?;
    Footprint::take_with(&folder, &group)?.same_as(&before)
}

/// Each story gets a namespace of its own, gone afterwards.
fn in_namespace(stage: &mut Stage, name: &str, story: &fn(&mut Stage) -> Result<()>) -> Result<()> {
    let namespace: String = name.replace('_', "-").chars().take(50).collect();
    let namespace = namespace.trim_end_matches('-').to_owned();
    stage.kubectl(&["create", "namespace", &namespace])?;
    stage.namespace.clone_from(&namespace);
    let told = story(stage);
    let gone = stage.kubectl(&["delete", "namespace", &namespace, "--timeout=60s"]);
    stage.namespace = "default".into();
    told.and(gone.map(drop))
}
