//! What a cluster could leave behind on the machine: links, rules, mounts, control groups, processes.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

/// The machine's state, as far as a cluster could touch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Takes it now.
    pub fn take() -> Result<Self> {
        let mut seen = BTreeSet::new();
        seen.extend(lines("link", &run("ip", &["-o", "link", "show"])?, |l| l.split(':').nth(1)));
        seen.extend(lines("address", &run("ip", &["-o", "address", "show"])?, Some));
        seen.extend(lines("route", &run("ip", &["route", "show", "table", "all"])?, Some));
        seen.extend(lines("rule", &run("nft", &["list", "ruleset"])?, Some));
        seen.extend(lines("mount", &fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?, |l| {
            l.split(' ').nth(4)
        }));
        for hierarchy in cli::up::cgroups::hierarchies()? {
            groups(&hierarchy, &mut seen)?;
        }
        processes(&mut seen)?;
        Ok(Self(seen))
    }

    /// Fails with what is new since `before`, or gone.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        let new: Vec<_> = self.0.difference(&before.0).cloned().collect();
        let gone: Vec<_> = before.0.difference(&self.0).cloned().collect();
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        bail!("the machine is not as it was; new:\n  {}\ngone:\n  {}", new.join("\n  "), gone.join("\n  "));
    }
}

fn lines<'a>(what: &str, text: &'a str, part: impl Fn(&'a str) -> Option<&'a str>) -> Vec<String> {
    text.lines().filter_map(part).map(|l| format!("{what} {}", l.trim())).collect()
}

fn groups(folder: &Path, seen: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.context("list control groups")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name.starts_with("orlop") {
            seen.insert(format!("control group {}", path.display()));
        }
    }
    Ok(())
}

/// Processes of ours: everything whose program is called `orlop`, or whose root is not the machine's.
fn processes(seen: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/proc").context("list processes")? {
        let path = entry.context("list processes")?.path();
        let Ok(program) = fs::read_link(path.join("exe")) else { continue };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "orlop" || name == "testapp" {
            seen.insert(format!("process {} {name}", path.display()));
        }
    }
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
