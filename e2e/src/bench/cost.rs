//! What processes cost: CPU time and resident memory, from `/proc` (proc(5)).

use std::fs;

/// What some processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// CPU seconds, user and system.
    pub cpu: f64,
    /// Resident bytes now.
    pub resident: u64,
    /// Most resident bytes ever.
    pub peak: u64,
}

impl Cost {
    /// The sum over these processes; those that are gone count nothing.
    pub fn of(pids: &[u32]) -> Self {
        pids.iter().map(|pid| Self::of_one(*pid)).fold(Self::default(), |sum, one| Self {
            cpu: sum.cpu + one.cpu,
            resident: sum.resident + one.resident,
            peak: sum.peak + one.peak,
        })
    }

    fn of_one(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // utime and stime are fields 14 and 15; the name (field 2) may hold anything but ends with the last parenthesis
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
            line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default() * 1024
        };
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Self { cpu: (ticks(11) + ticks(12)) / per_second, resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
    }
}

/// Megabytes of 2^20 bytes.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// All processes below these, these included.
pub fn family(roots: &[u32]) -> Vec<u32> {
    let mut all: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1)?.parse().ok());
        all.extend(parent.map(|parent| (pid, parent)));
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// The words of a process's command line.
pub fn words(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}
