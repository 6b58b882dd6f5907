//! Sys: the few system calls that no crate offers in safe form.
//!
//! Everything here is called by the supervisor's only thread, or by a child that it has just made.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
};

/// Propagation and attributes for [`set_mount_attributes`]; zero leaves as it is.
#[derive(Clone, Copy, Default)]
pub(super) struct MountAttributes {
    /// `MOUNT_ATTR_*` that are set.
    pub(super) set: u64,
    /// `MS_PRIVATE`, `MS_SLAVE` or `MS_SHARED`.
    pub(super) propagation: u64,
    /// Also for all mounts below.
    pub(super) recursive: bool,
}

/// Makes a child in new namespaces, given as `CLONE_NEW*`. Returns its pid, or 0 in the child.
///
/// # Errors
/// As clone3(2).
pub(super) fn clone(namespaces: i32) -> io::Result<i32> {
    let mut arguments = libc::clone_args {
        flags: namespaces as u64,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM this is fork(2): the child gets a copy of all memory. The process has one thread only, so
    // no lock can be held by a thread that the child lacks, and ordinary code may run in it. The structure outlives the
    // call and its size is right.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as i32) }
}

/// Ends this process at once, without destructors: for children that share files with their parent.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Sets attributes and propagation of a mount that is open.
///
/// # Errors
/// As mount_setattr(2).
pub(super) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    let change =
        libc::mount_attr { attr_set: attributes.set, attr_clr: 0, propagation: attributes.propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant string, the structure lives through the call and its size is right.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// All descriptors from this one on are closed when a program is executed.
///
/// # Errors
/// As close_range(2).
pub(super) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: marks descriptors only; none becomes invalid in this program.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// 128 + signal when killed by one.
    pub(super) code: i32,
    /// Or 0.
    pub(super) signal: i32,
}

/// How a process ended that somebody else is the parent of; none while it is not reaped.
///
/// # Errors
/// When the kernel does not tell (before Linux 6.13).
pub(super) fn exit_of(process: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    // SAFETY: a structure of integers, for which zeros are values.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the structure outlives the call, and the request's number holds its size.
    let done = unsafe { libc::ioctl(process.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    if info.mask & u64::from(libc::PIDFD_INFO_EXIT) == 0 {
        return Ok(None);
    }
    let status = info.exit_code;
    Ok(Some(match libc::WIFSIGNALED(status) {
        true => Ended { code: 128 + libc::WTERMSIG(status), signal: libc::WTERMSIG(status) },
        false => Ended { code: libc::WEXITSTATUS(status), signal: 0 },
    }))
}

/// Adds a filter for system calls to the calling thread, for good. Unlike seccompiler's own function it leaves
/// `no_new_privs` alone: setuid programs go on working where they may.
///
/// # Errors
/// As seccomp(2); without SYS_ADMIN when `no_new_privs` is not set.
pub(super) fn filter_system_calls(program: &seccompiler::BpfProgram) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: seccompiler's instruction has the kernel's layout, as the C library's has. The kernel copies them, and only
    // reads; both structures outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives all signals back their default action and unblocks them, as a new program expects it.
pub(super) fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no code of ours. SIGKILL, SIGSTOP and those of the C library refuse, which is right.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::all().thread_unblock().ok();
}
