//! The agent's end of a process's terminal.
//!
//! A master is read and written like a pipe, so tokio's pipes do the waiting.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::termios::Winsize;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
    sync::mpsc,
};

/// Reads a terminal's master. When all its copies are dropped, the process gets SIGHUP.
pub(super) struct Terminal(pipe::Receiver);

impl Terminal {
    /// The reading and the writing end; its size is set to whatever comes.
    pub(super) fn open(master: OwnedFd, sizes: mpsc::Receiver<(u16, u16)>) -> io::Result<(Terminal, pipe::Sender)> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let master = File::from(master);
        follow(master.try_clone()?, sizes);
        let writer = pipe::Sender::from_file_unchecked(master.try_clone()?)?;
        Ok((Terminal(pipe::Receiver::from_file_unchecked(master)?), writer))
    }
}

/// Its own copy does not keep the terminal up: it goes with the session's sender of sizes.
fn follow(master: File, mut sizes: mpsc::Receiver<(u16, u16)>) {
    tokio::spawn(async move {
        while let Some((columns, rows)) = sizes.recv().await {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // The process may be gone.
            rustix::termios::tcsetwinsize(master.as_fd(), size).ok();
        }
    });
}

impl AsyncRead for Terminal {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            // The last process closed its end.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::EIO) => Poll::Ready(Ok(())),
            other => other,
        }
    }
}
