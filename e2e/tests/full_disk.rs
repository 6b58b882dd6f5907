//! A server whose disk is full: it says so, answers what it knows, and loses nothing.

use anyhow::{Context, Result, ensure};
use e2e::Server;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Bytes of the disk.
const DISK: usize = 24 << 20;

/// Bytes of an object: nearly the most that one may have.
const OBJECT: usize = 900 << 10;

/// What refuses a write for want of room must say so.
const FULL: &str = "No space left on device";

#[test]
fn a_full_disk_is_named_and_costs_nothing() -> Result<()> {
    // namespaces of mounts belong to threads: the small disk is there for this one and what it starts
    std::thread::spawn(on_a_small_disk).join().map_err(|_| anyhow::anyhow!("the story panicked"))?
}

fn on_a_small_disk() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("keep mounts to itself")?;
    let folder = std::env::temp_dir();
    let size = format!("size={DISK}");
    mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        .context("mount a small disk")?;
    let mut server = Server::start(&[])?;
    let mut kept = Vec::new();
    let refused = loop {
        let name = format!("large-{}", kept.len());
        let said = server.try_kubectl(&["create", "-f", "-"], &large(&name));
        if !said.ok {
            break said.err;
        }
        kept.push(name);
        ensure!(kept.len() * OBJECT < DISK, "more was kept than the disk can hold");
    };
    ensure!(refused.contains(FULL), "{refused}");
    ensure!(server.kubectl(&["get", "configmaps", "-o", "name"])?.contains("large-0"), "reading must go on");
    let again = server.try_kubectl(&["create", "-f", "-"], &large("last"));
    ensure!(!again.ok && again.err.contains(FULL), "{again:?}");

    server.kill()?;
    server.resume().context("start on a full disk")?;
    let stored = server.kubectl(&["get", "configmaps", "-o", "name"])?;
    for name in &kept {
        ensure!(
            stored.lines().any(|l| l == format!("configmap/{name}")),
            "{name} was acknowledged and is lost:\n{stored}"
        );
    }
    ensure!(!stored.contains("configmap/last"), "what was refused is there:\n{stored}");
    server.kubectl(&["delete", "configmap", "large-0"]).context("make room").map(drop)
}

fn large(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{x: {}}}\n", "x".repeat(OBJECT))
}
