//! Version 2: one hierarchy, in which each parent hands controllers down.

use std::{fs, io, path::Path};

use super::{CPU_PERIOD_MICROS, field, number, v1::quota, write};
use crate::runtime::{Resources, Usage};

pub(super) fn create(mount: &Path, folder: &Path, resources: &Resources) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // From the mount down to the parent; a cgroup that hands controllers down has no processes of its own.
    let mut parents: Vec<&Path> = folder.ancestors().skip(1).take_while(|parent| parent.starts_with(mount)).collect();
    parents.reverse();
    for parent in parents {
        let control = parent.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control).unwrap_or_default();
        for controller in super::CONTROLLERS {
            if !enabled.split_whitespace().any(|name| name == controller) {
                write(&control, format_args!("+{controller}"))?;
            }
        }
    }
    if let Some(shares) = resources.cpu_shares {
        write(&folder.join("cpu.weight"), weight(shares))?;
    }
    if let Some(millis) = resources.cpu_limit_millis {
        write(&folder.join("cpu.max"), format_args!("{} {CPU_PERIOD_MICROS}", quota(millis)))?;
    }
    if let Some(bytes) = resources.memory_limit {
        write(&folder.join("memory.max"), bytes)?;
        let swap = folder.join("memory.swap.max");
        if swap.exists() {
            write(&swap, 0)?;
        }
    }
    if let Some(pids) = resources.pids_limit {
        write(&folder.join("pids.max"), pids)?;
    }
    Ok(())
}

pub(super) fn usage(folder: &Path) -> io::Result<Usage> {
    let charged = number(&folder.join("memory.current"))?;
    let inactive = field(&fs::read_to_string(folder.join("memory.stat"))?, "inactive_file").unwrap_or_default();
    let micros = field(&fs::read_to_string(folder.join("cpu.stat"))?, "usage_usec").unwrap_or_default();
    let pids = number(&folder.join("pids.current"))?;
    Ok(Usage { cpu_nanos: micros * 1000, memory_bytes: charged.saturating_sub(inactive), pids })
}

/// Shares of version 1 (2 to 262144) as a weight (1 to 10000), as runc and upstream convert them (KEP-2254).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_handed_down_and_limits_written() {
        let mount = tempfile::tempdir().unwrap();
        let folder = mount.path().join("orlop/pod/c");
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_limit_millis: Some(1500),
            memory_limit: Some(1 << 20),
            pids_limit: Some(5),
        };
        create(mount.path(), &folder, &resources).unwrap();
        for parent in ["", "orlop", "orlop/pod"] {
            assert!(mount.path().join(parent).join("cgroup.subtree_control").exists(), "{parent}");
        }
        assert!(!folder.join("cgroup.subtree_control").exists());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!((read("cpu.weight").as_str(), read("cpu.max").as_str()), ("39", "150000 100000"));
        assert_eq!((read("memory.max").as_str(), read("pids.max").as_str()), ("1048576", "5"));
    }

    #[test]
    fn usage_is_read_without_inactive_files() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 5\ninactive_file 300\n"),
            ("cpu.stat", "usage_usec 7\n"),
            ("pids.current", "2\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(usage(folder.path()).unwrap(), Usage { cpu_nanos: 7000, memory_bytes: 700, pids: 2 });
    }

    #[test]
    fn weights_span_the_whole_range() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
