//! Being woken when something in a folder is written.

#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A folder that is watched.
pub(super) struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    pub(super) fn folder(path: &Path) -> io::Result<Self> {
        let handle = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&handle, path, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        // SAFETY: an `OwnedFd` names the same open descriptor from here until it is dropped, and `AsyncFd` drops it only after
        // it has taken it out of the poller; nobody else has it.
        let events = unsafe { AsyncFd::register(handle) }?;
        Ok(Self { events })
    }

    /// Something happened since the last time. What, does not matter: all is looked at again.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [0u8; 4096];
        loop {
            match rustix::io::read(self.events.get_ref(), &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
