//! Executor: turns a fresh child of the supervisor into the container's program.
//!
//! Runs in the child, between clone and exec. The order matters: what needs the node's view (cgroup files, volumes,
//! layers) comes before the root changes, what needs privilege before it is dropped.
//!
//! What a container could turn against the node on the way is closed so: targets of mounts are resolved by the kernel
//! inside the new root; the child cannot be traced or looked into, as the supervisor is not dumpable; every descriptor
//! but the first three is closed by the exec. The seccomp filter comes last of what needs privilege, so that it need not
//! allow the rest.

mod identity;
mod mounts;
mod program;
mod rootfs;
mod seccomp;
mod terminal;

use std::{
    convert::Infallible,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use super::{protocol::Failure, sys};
use crate::runtime::{Container, Exec};
use nix::sched::CloneFlags;

/// What the child needs to know.
pub(super) struct Plan<'a> {
    pub(super) container: &'a Container,
    /// Cgroup files to write `0` into.
    pub(super) joins: Vec<PathBuf>,
    /// What is shown under `/sys/fs/cgroup`.
    pub(super) cgroups: Vec<(String, PathBuf)>,
    /// IPC, UTS and network namespaces to enter.
    pub(super) namespaces: Vec<BorrowedFd<'a>>,
    /// Folders for overlayfs, and one to mount it on.
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    pub(super) mountpoint: PathBuf,
    /// The pod's `/dev/shm`.
    pub(super) shm: PathBuf,
}

/// Standard input, output and error; none for a terminal.
pub(super) type Stdio = Option<[OwnedFd; 3]>;

/// Becomes the first process of a container. Returns only when it cannot.
pub(super) fn init(plan: &Plan<'_>, stdio: Stdio, channel: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    let container = plan.container;
    prepare(&plan.joins, container.oom_score_adj)?;
    for namespace in &plan.namespaces {
        nix::sched::setns(namespace, CloneFlags::empty()).map_err(|e| Failure::system("enter", "namespace", e))?;
    }
    unshare_cgroup()?;
    // Volumes first: their paths are the node's, and they may share later mounts with it.
    let volumes = mounts::open_volumes(container)?;
    let root = rootfs::assemble(plan)?;
    let mut devpts = None;
    mounts::populate(plan, root.as_fd(), volumes, &mut devpts)?;
    rootfs::enter(plan, root)?;
    match (stdio, devpts) {
        (Some(stdio), _) => terminal::without(stdio)?,
        (None, Some(devpts)) => terminal::open(devpts.as_fd(), channel)?,
        (None, None) => return Err(Failure::system("open", "terminal", "no devpts")),
    }
    become_program(container, &container.args, container.tty)
}

/// Becomes a process beside the container's first, in all its namespaces. The PID namespace is the caller's to enter.
pub(super) fn join(
    container: &Container,
    exec: &Exec,
    joins: &[PathBuf],
    process: BorrowedFd<'_>,
    stdio: Stdio,
    channel: BorrowedFd<'_>,
) -> Result<Infallible, Failure> {
    prepare(joins, container.oom_score_adj)?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::setns(process, all).map_err(|e| Failure::system("enter", "namespaces of the container", e))?;
    match stdio {
        Some(stdio) => terminal::without(stdio)?,
        None => terminal::open(terminal::devpts()?.as_fd(), channel)?,
    }
    become_program(container, &exec.args, exec.tty)
}

fn prepare(joins: &[PathBuf], oom_score_adj: i32) -> Result<(), Failure> {
    sys::reset_signals();
    for file in joins {
        fs::write(file, "0").map_err(|e| Failure::system("join", file.display(), e))?;
    }
    // Best effort: some machines do not let even root lower it.
    drop(fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()));
    rustix::process::setsid().map_err(|e| Failure::system("lead", "session", e))?;
    Ok(())
}

/// So that the container sees its own cgroup as the root.
fn unshare_cgroup() -> Result<(), Failure> {
    nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|e| Failure::system("unshare", "cgroup namespace", e))
}

fn become_program(container: &Container, args: &[String], tty: bool) -> Result<Infallible, Failure> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let env = program::environment(container, tty);
    terminal::hand_over(container.uid);
    program::enter_folder(&container.cwd)?;
    seccomp::confine(container)?;
    identity::take(container)?;
    sys::close_on_exec_from(3).map_err(|e| Failure::system("close", "descriptors", e))?;
    Err(program::execute(args, &env))
}
