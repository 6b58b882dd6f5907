//! Terminal: where a process reads and writes.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
};

use super::super::protocol::Failure;

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Takes three descriptors as standard input, output and error.
pub(super) fn without(stdio: [OwnedFd; 3]) -> Result<(), Failure> {
    let [stdin, stdout, stderr] = stdio;
    let failed = |e| Failure::system("take", "standard streams", e);
    nix::unistd::dup2_stdin(stdin).map_err(failed)?;
    nix::unistd::dup2_stdout(stdout).map_err(failed)?;
    nix::unistd::dup2_stderr(stderr).map_err(failed)
}

/// Opens a new terminal of this devpts, makes it the session's, and hands its other end to the supervisor.
pub(super) fn open(devpts: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> Result<(), Failure> {
    let failed = |e| Failure::system("open", "terminal", e);
    let master =
        openat(devpts, "ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    unlockpt(&master).map_err(failed)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(failed)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(channel, &[IoSlice::new(b"t")], &mut ancillary, SendFlags::NOSIGNAL).map_err(failed)?;
    let again = || slave.try_clone().map_err(|e| Failure::system("open", "terminal", e));
    without([again()?, again()?, again()?])
}

/// Lets the container's user open its streams again, by `/dev/stdout`. Best effort: not every stream has an owner.
pub(super) fn hand_over(uid: u32) {
    let streams = [std::io::stdin().as_fd().try_clone_to_owned(), std::io::stdout().as_fd().try_clone_to_owned()];
    for stream in streams.into_iter().chain([std::io::stderr().as_fd().try_clone_to_owned()]).flatten() {
        // The node's own /dev/null stays root's.
        let private = rustix::fs::fstat(&stream).is_ok_and(|stat| stat.st_rdev != rustix::fs::makedev(1, 3));
        if private {
            rustix::fs::fchown(&stream, Some(rustix::fs::Uid::from_raw(uid)), None).ok();
        }
    }
}

/// The devpts of the container that this process is in; nothing else that may lie at its path.
pub(super) fn devpts() -> Result<OwnedFd, Failure> {
    let failed = |e| Failure::system("open", "/dev/pts", e);
    let folder = openat(
        rustix::fs::CWD,
        "/dev/pts",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    if rustix::fs::fstatfs(&folder).map_err(failed)?.f_type != DEVPTS_MAGIC {
        return Err(Failure::system("open", "/dev/pts", "it is no devpts"));
    }
    Ok(folder)
}
