//! SIGTERM: the first process of a PID namespace gets it only when it has a handler.

#![allow(unsafe_code)]

use std::ffi::c_int;

const SIGTERM: c_int = 15;

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
    fn _exit(code: c_int) -> !;
}

/// `SIG_IGN` of signal(2).
const IGNORE: usize = 1;

extern "C" fn end(_number: c_int) {
    // SAFETY: _exit(2) is async-signal-safe and takes any number
    unsafe { _exit(0) }
}

/// Ends with 0 on SIGTERM.
pub fn end_on_terminate() {
    // SAFETY: `end` is a function of the type that signal(2) expects and only calls what a handler may
    unsafe { signal(SIGTERM, end as *const () as usize) };
}

/// Takes no notice of SIGTERM.
pub fn ignore_terminate() {
    // SAFETY: SIG_IGN is a valid disposition
    unsafe { signal(SIGTERM, IGNORE) };
}
