//! The one subtree of control groups that a cluster on this machine may use, and its removal.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::fs::{Mode, mkdir};

const MOUNTS: &str = "/sys/fs/cgroup";

/// Between two tries to remove a group whose processes are dying.
const RETRY: Duration = Duration::from_millis(5);

/// Removes the subtree `name` from every hierarchy. Groups that still hold a process are reported.
pub fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let tree = hierarchy.join(name);
        remove_tree(&tree).with_context(|| format!("remove control group {}", tree.display()))?;
    }
    Ok(())
}

/// The mount points of all hierarchies: one with version 2, one per controller with version 1.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(MOUNTS);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = std::fs::read_dir(root).with_context(|| format!("list {MOUNTS}"))?;
    let mut found: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    found.sort();
    Ok(found)
}

/// Removes a control group and those below it. Files in it are the kernel's and go with the folder.
fn remove_tree(tree: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(tree) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(tree)
}

/// Makes a group without limits in every hierarchy, so that nested ones can be made below it.
pub fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        match mkdir(&group, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).with_context(|| format!("make control group {}", group.display())),
        }
    }
    Ok(())
}

/// As [`remove`], but processes that were killed may take until `deadline` to be gone.
pub fn remove_when_empty(name: &str, deadline: Duration) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        match remove(name) {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::park_timeout(RETRY),
            Ok(()) => return Ok(()),
        }
    }
}
