//! Cgroup: limits, usage, and the grip on all processes of a container.
//!
//! `<cgroup root>/<pod uid>/<container id>` in every hierarchy that matters. The machine decides the version: 2 where
//! its one hierarchy has the controllers, else 1.

mod v1;
mod v2;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::Timespec,
    process::{Pid, Signal, kill_process},
};

use crate::runtime::{Resources, Usage};

/// What is needed of the machine.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Longest wait for killed processes to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Period of CPU quotas, microseconds (upstream's `cpuCFSQuotaPeriod`).
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The cgroups of this supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroups {
    /// Folder of the root per controller.
    V1(BTreeMap<String, PathBuf>),
    /// Folder of the root, and the mount it is below.
    V2 { root: PathBuf, mount: PathBuf },
}

impl Cgroups {
    /// Finds what this machine has; `root` is the path below the hierarchies' mounts.
    ///
    /// # Errors
    /// When a controller is missing.
    pub(super) fn detect(root: &str) -> io::Result<Cgroups> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        choose(&mounts, root, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default())
    }

    /// Makes the cgroup of a pod or, below it, of a container, and sets its limits. `path` has been validated.
    ///
    /// # Errors
    /// When the kernel refuses a folder or a limit.
    pub(super) fn create(&self, path: &Path, resources: &Resources) -> io::Result<()> {
        match self {
            Cgroups::V1(roots) => v1::create(roots, path, resources),
            Cgroups::V2 { root, mount } => v2::create(mount, &root.join(path), resources),
        }
    }

    /// The files that a process joins by writing `0` into them.
    pub(super) fn joins(&self, path: &Path) -> Vec<PathBuf> {
        self.folders(path).into_iter().map(|(_, folder)| folder.join("cgroup.procs")).collect()
    }

    /// What the container sees under `/sys/fs/cgroup`: names and folders; one without a name is the whole.
    pub(super) fn folders(&self, path: &Path) -> Vec<(String, PathBuf)> {
        match self {
            Cgroups::V1(roots) => roots.iter().map(|(name, root)| (name.clone(), root.join(path))).collect(),
            Cgroups::V2 { root, .. } => vec![(String::new(), root.join(path))],
        }
    }

    /// What it uses now.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn usage(&self, path: &Path) -> io::Result<Usage> {
        match self {
            Cgroups::V1(roots) => v1::usage(roots, path),
            Cgroups::V2 { root, .. } => v2::usage(&root.join(path)),
        }
    }

    /// Whether the kernel killed a process in it for want of memory.
    pub(super) fn oom_killed(&self, path: &Path) -> bool {
        let (file, key) = match self {
            Cgroups::V1(roots) => {
                (roots.get("memory").map(|root| root.join(path).join("memory.oom_control")), "oom_kill")
            }
            Cgroups::V2 { root, .. } => (Some(root.join(path).join("memory.events")), "oom_kill"),
        };
        file.and_then(|file| fs::read_to_string(file).ok())
            .and_then(|text| field(&text, key))
            .is_some_and(|count| count > 0)
    }

    /// Kills every process in it and below, once; those that fork meanwhile are met by [`Cgroups::remove`].
    pub(super) fn kill(&self, path: &Path) {
        for (_, folder) in self.folders(path).into_iter().take(1) {
            if fs::write(folder.join("cgroup.kill"), "1").is_err() {
                kill_tree(&folder);
            }
        }
    }

    /// Kills what is left in it and removes it with all below.
    ///
    /// # Errors
    /// When processes are still there after [`KILL_TIMEOUT`].
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut first = Ok(());
        for (_, folder) in self.folders(path) {
            let done = remove_tree(&folder);
            if first.is_ok() {
                first = done;
            }
        }
        first
    }

    /// Whether a process is in it.
    pub(super) fn holds(&self, path: &Path, pid: i32) -> bool {
        let all = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
        self.joins(path).into_iter().take(1).any(|file| all(file).lines().any(|line| line.parse() == Ok(pid)))
    }

    /// Names of the cgroups directly below it, as the kernel remembers them: pods below the root.
    pub(super) fn below(&self, path: &Path) -> Vec<String> {
        let mut names: Vec<String> = self.folders(path).iter().flat_map(|(_, folder)| below(folder)).collect();
        names.sort();
        names.dedup();
        names
    }
}

fn choose(mounts: &str, root: &str, controllers: impl Fn(&Path) -> String) -> io::Result<Cgroups> {
    let root = root.trim_matches('/');
    let mut v1 = BTreeMap::new();
    for line in mounts.lines() {
        let Some((fields, rest)) = line.split_once(" - ") else { continue };
        let Some(mount) = fields.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut rest = rest.split(' ');
        match rest.next() {
            Some("cgroup2") => {
                let available = controllers(&mount);
                if CONTROLLERS.iter().all(|wanted| available.split_whitespace().any(|there| there == *wanted)) {
                    return Ok(Cgroups::V2 { root: mount.join(root), mount });
                }
            }
            Some("cgroup") => {
                for option in rest.nth(1).unwrap_or_default().split(',') {
                    if CONTROLLERS.contains(&option) || option == "cpuacct" {
                        v1.insert(option.to_owned(), mount.join(root));
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(missing) = CONTROLLERS.iter().find(|wanted| !v1.contains_key(**wanted)) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("no cgroup controller {missing} is mounted")));
    }
    Ok(Cgroups::V1(v1))
}

/// The number after `key` at the start of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

fn write(path: &Path, value: impl ToString + Copy) -> io::Result<()> {
    fs::write(path, value.to_string())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn below(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn kill_tree(folder: &Path) {
    for name in below(folder) {
        kill_tree(&folder.join(name));
    }
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        // It may have ended meanwhile.
        kill_process(pid, Signal::KILL).ok();
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    for name in below(folder) {
        remove_tree(&folder.join(name))?;
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                kill_tree(folder);
                reap_and_wait();
            }
            done => return done,
        }
    }
}

/// A millisecond for the kernel to end what was killed.
fn reap_and_wait() {
    let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    rustix::event::poll(&mut [], Some(&moment)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:4 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn the_machine_decides_the_version() {
        let Ok(Cgroups::V1(roots)) = choose(HYBRID, "/orlop", |_| "hugetlb".into()) else { panic!("version 1") };
        assert_eq!(roots["memory"], Path::new("/sys/fs/cgroup/memory/orlop"));
        assert_eq!(roots.len(), 4);
        let joint = "1 2 0:1 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n1 2 0:2 / /cg/mem rw - cgroup cgroup rw,memory\n1 2 0:2 / /cg/pids rw - cgroup cgroup rw,pids";
        let Ok(Cgroups::V1(roots)) = choose(joint, "x", |_| String::new()) else { panic!("version 1") };
        assert_eq!(roots["cpu"], roots["cpuacct"]);
        let unified = "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw";
        let expected = Cgroups::V2 { root: "/sys/fs/cgroup/orlop".into(), mount: "/sys/fs/cgroup".into() };
        assert_eq!(choose(unified, "/orlop/", |_| "cpuset cpu io memory pids".into()).unwrap(), expected);
        let error = choose(unified, "/orlop", |_| "cpu memory".into()).unwrap_err().to_string();
        assert_eq!(error, "no cgroup controller cpu is mounted");
    }
}
