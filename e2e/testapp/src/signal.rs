//! Signals, by the two functions of the C library that this needs.
//!
//! The first process of a PID namespace has no default actions: without a handler, SIGTERM does nothing to it.
#![allow(unsafe_code)]

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, IntoRawFd as _},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicI32, Ordering},
};

const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;
const SIG_IGN: usize = 1;

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn write(fd: i32, bytes: *const u8, count: usize) -> isize;
    fn _exit(code: i32) -> !;
    fn poll(fds: *mut PollFd, count: u64, timeout: i32) -> i32;
}

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;

/// Where the handler writes to.
static TOLD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn exit(_: i32) {
    // SAFETY: _exit(2) may be called in a handler and does not return.
    unsafe { _exit(0) }
}

extern "C" fn tell(_: i32) {
    let fd = TOLD.load(Ordering::Relaxed);
    // SAFETY: write(2) may be called in a handler; the byte is a constant. A full or closed socket has told already.
    unsafe { write(fd, b"x".as_ptr(), 1) };
}

/// SIGTERM and SIGINT end the process at once, with code 0.
pub(crate) fn exit_on_term() {
    for number in [SIGTERM, SIGINT] {
        // SAFETY: `exit` has a handler's signature and does only what a handler may.
        unsafe { signal(number, exit as *const () as usize) };
    }
}

/// Ends the process from any thread.
pub(crate) fn exit_with(code: u8) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { _exit(i32::from(code)) }
}

/// SIGTERM does nothing.
pub(crate) fn ignore_term() {
    // SAFETY: SIG_IGN is no address.
    unsafe { signal(SIGTERM, SIG_IGN) };
}

/// Says whether SIGTERM or SIGINT has come.
pub(crate) struct Term(UnixStream);

impl Term {
    /// From now on they are told here instead of ending the process.
    pub(crate) fn listen() -> io::Result<Term> {
        let (ours, handlers) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        handlers.set_nonblocking(true)?;
        TOLD.store(handlers.into_raw_fd(), Ordering::Relaxed);
        for number in [SIGTERM, SIGINT] {
            // SAFETY: `tell` has a handler's signature and does only what a handler may.
            unsafe { signal(number, tell as *const () as usize) };
        }
        Ok(Term(ours))
    }

    /// Waits until there is something to read from `other`, or the signal; true for the signal.
    pub(crate) fn wait(&mut self, other: &impl std::os::fd::AsRawFd) -> bool {
        let wanted = |fd| PollFd { fd, events: POLLIN, revents: 0 };
        let mut fds = [wanted(self.0.as_raw_fd()), wanted(other.as_raw_fd())];
        // SAFETY: the array lives through the call and has as many members as is said. An interrupted call returns early,
        // which the caller takes for nothing to read.
        unsafe { poll(fds.as_mut_ptr(), fds.len() as u64, -1) };
        matches!(self.0.read(&mut [0; 16]), Ok(1..))
    }
}
