//! Version 1: one hierarchy per controller.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{CPU_PERIOD_MICROS, field, number, write};
use crate::runtime::{Resources, Usage};

pub(super) fn create(roots: &BTreeMap<String, PathBuf>, path: &Path, resources: &Resources) -> io::Result<()> {
    for root in roots.values() {
        fs::create_dir_all(root.join(path))?;
    }
    let file = |controller: &str, name: &str| roots[controller].join(path).join(name);
    if let Some(shares) = resources.cpu_shares {
        write(&file("cpu", "cpu.shares"), shares.clamp(2, 262_144))?;
    }
    if let Some(millis) = resources.cpu_limit_millis {
        write(&file("cpu", "cpu.cfs_period_us"), CPU_PERIOD_MICROS)?;
        write(&file("cpu", "cpu.cfs_quota_us"), quota(millis))?;
    }
    if let Some(bytes) = resources.memory_limit {
        write(&file("memory", "memory.limit_in_bytes"), bytes)?;
        // No swap beyond it, where swap is counted.
        let with_swap = file("memory", "memory.memsw.limit_in_bytes");
        if with_swap.exists() {
            write(&with_swap, bytes)?;
        }
    }
    if let Some(pids) = resources.pids_limit {
        write(&file("pids", "pids.max"), pids)?;
    }
    Ok(())
}

pub(super) fn usage(roots: &BTreeMap<String, PathBuf>, path: &Path) -> io::Result<Usage> {
    let file = |controller: &str, name: &str| roots[controller].join(path).join(name);
    let charged = number(&file("memory", "memory.usage_in_bytes"))?;
    let inactive =
        field(&fs::read_to_string(file("memory", "memory.stat"))?, "total_inactive_file").unwrap_or_default();
    let accounting = if roots.contains_key("cpuacct") { "cpuacct" } else { "cpu" };
    Ok(Usage {
        cpu_nanos: number(&file(accounting, "cpuacct.usage"))?,
        memory_bytes: charged.saturating_sub(inactive),
        pids: number(&file("pids", "pids.current"))?,
    })
}

/// Microseconds a period; the kernel takes no less than a millisecond.
pub(super) fn quota(millis: u64) -> u64 {
    (millis * CPU_PERIOD_MICROS / 1000).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_files_of_each_controller() {
        let folder = tempfile::tempdir().unwrap();
        let roots: BTreeMap<String, PathBuf> =
            ["cpu", "cpuacct", "memory", "pids"].map(|name| (name.to_owned(), folder.path().join(name))).into();
        let resources = Resources {
            cpu_shares: Some(1),
            cpu_limit_millis: Some(250),
            memory_limit: Some(64 << 20),
            pids_limit: Some(10),
        };
        create(&roots, Path::new("pod/c"), &resources).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("cpu/pod/c/cpu.shares"), "2");
        assert_eq!(read("cpu/pod/c/cpu.cfs_quota_us"), "25000");
        assert_eq!(read("memory/pod/c/memory.limit_in_bytes"), "67108864");
        assert_eq!(read("pids/pod/c/pids.max"), "10");
    }
}
