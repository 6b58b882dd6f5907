//! Kernel parameters of the calling thread's network namespace.

use std::{fs, io, path::Path};

/// Why a parameter could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set kernel parameter {name} to {value}")]
pub struct Error {
    /// Its path below `/proc/sys/net`.
    pub name: String,
    /// The wanted value.
    pub value: String,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Writes a parameter, given as path below `/proc/sys/net`, unless it already has that value.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys/net").join(name);
    let failed = |source| Error { name: name.to_owned(), value: value.to_owned(), source };
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}

/// Writes a parameter that this kernel may not have.
pub fn set_if_present(name: &str, value: &str) -> Result<(), Error> {
    match set(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a node needs to route for its pods.
///
/// `bridge-nf-call-iptables` is off because every packet of a pod is routed (its address is a /32): it would be filtered twice.
/// Strict reverse path filtering would drop the direct answer of a pod to another node's underlay address; loose is kept.
pub fn prepare_node(bridge: &str, overlay: &str) -> Result<(), Error> {
    set("ipv4/ip_forward", "1")?;
    set_if_present("bridge/bridge-nf-call-iptables", "0")?;
    for device in ["all", bridge, overlay] {
        let name = format!("ipv4/conf/{device}/rp_filter");
        let path = Path::new("/proc/sys/net").join(&name);
        if fs::read_to_string(path).is_ok_and(|now| now.trim() == "1") {
            set(&name, "2")?;
        }
    }
    // a pod that reaches another pod of its node through the gateway must not be told to go there directly
    set(&format!("ipv4/conf/{bridge}/send_redirects"), "0")?;
    set_if_present(&format!("ipv6/conf/{bridge}/disable_ipv6"), "1")?;
    set_if_present(&format!("ipv6/conf/{overlay}/disable_ipv6"), "1")
}

/// What containerd and docker set for every pod: ports below 1024 and ICMP echo need no privilege inside a pod's own network.
pub fn prepare_pod() -> Result<(), Error> {
    set("ipv4/ip_unprivileged_port_start", "0")?;
    set("ipv4/ping_group_range", "0 2147483647")
}
