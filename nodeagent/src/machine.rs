//! The machine under a node: what it has and what it is.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::NodeSystemInfo;

use crate::{
    admission::Offer,
    config::{Capacity, PODS},
};

/// What upstream's version would be: clients gate on it.
pub const KUBELET_VERSION: &str = concat!("v1.37.0+orlop.", env!("CARGO_PKG_VERSION"));

/// What the node offers: the machine's, unless the settings say otherwise.
pub fn offer(capacity: &Capacity) -> Offer {
    let cpus = std::thread::available_parallelism().map_or(1, |n| u64::try_from(n.get()).unwrap_or(1));
    Offer {
        cpu_millis: capacity.cpu_millis.unwrap_or(cpus * 1000),
        memory: capacity.memory.unwrap_or_else(memory),
        pods: capacity.pods.unwrap_or(PODS),
    }
}

/// Bytes of memory.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemTotal:").unwrap_or(1 << 20) * 1024
}

/// Bytes that could be had without swapping, and bytes in all.
pub fn memory_available() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (field(&text, "MemAvailable:").unwrap_or(0) * 1024, field(&text, "MemTotal:").unwrap_or(0) * 1024)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Bytes of the file system below a folder: free for us, and in all.
pub fn disk(folder: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

/// What the node is.
pub fn info() -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let os = read("/etc/os-release");
    let name = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("orlop://", env!("CARGO_PKG_VERSION")).into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: name.to_owned(),
        system_uuid: read("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// The machine's architecture in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
