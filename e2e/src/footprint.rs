//! What a cluster could leave behind on the machine: links, rules, mounts, control groups, processes.
//!
//! Control groups and processes are looked for by the cluster's own names, so that clusters may run side by side.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

/// The machine's state, as far as a cluster could touch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Takes it now, without any process or control group.
    pub fn take() -> Result<Self> {
        let mut seen = BTreeSet::new();
        seen.extend(lines("link", &run("ip", &["-o", "link", "show"])?, |l| l.split(':').nth(1)));
        seen.extend(lines("address", &run("ip", &["-o", "address", "show"])?, Some));
        seen.extend(lines("route", &run("ip", &["route", "show", "table", "all"])?, Some));
        seen.extend(lines("rule", &run("nft", &["list", "ruleset"])?, Some));
        seen.extend(lines("mount", &fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?, |l| {
            l.split(' ').nth(4)
        }));
        Ok(Self(seen))
    }

    /// Takes it now, with the processes and control groups of the cluster that has this folder and this control group.
    pub fn take_with(folder: &Path, group: &str) -> Result<Self> {
        let mut footprint = Self::take()?;
        for hierarchy in cli::up::cgroups::hierarchies()? {
            let path = hierarchy.join(group);
            if path.exists() {
                footprint.0.insert(format!("control group {}", path.display()));
            }
        }
        processes(folder, group, &mut footprint.0)?;
        Ok(footprint)
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

/// Processes whose words name the cluster's folder, as its own do, or that are in its control group, as its containers are.
fn processes(folder: &Path, group: &str, seen: &mut BTreeSet<String>) -> Result<()> {
    let folder = folder.to_str().context("a folder whose path is text")?;
    for entry in fs::read_dir("/proc").context("list processes")? {
        let path = entry.context("list processes")?.path();
        // whatever is no process, or has ended since, has neither file
        let Ok(groups) = fs::read_to_string(path.join("cgroup")) else { continue };
        let Ok(words) = fs::read(path.join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(folder) || groups.lines().any(|l| l.split('/').any(|part| part == group)) {
            seen.insert(format!("process {} {words}", path.display()));
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
