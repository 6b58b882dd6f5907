//! Connection: one agent's socket, with messages and descriptors in both directions.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};

use super::protocol::DESCRIPTORS_MAX;

/// Bytes that may wait for a slow peer; beyond that it is hung up on.
const WAITING_MAX: usize = 32 << 20;
/// Descriptors that may wait for the message that announces them.
const PENDING_DESCRIPTORS_MAX: usize = 64;

/// Bytes and descriptors of a non-blocking stream socket.
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Received, not decoded yet.
    pub(crate) input: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Connection { socket, input: Vec::new(), descriptors: VecDeque::new(), output: VecDeque::new(), waiting: 0 }
    }

    /// Reads what is there into [`Connection::input`]; false at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                done => break done?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > PENDING_DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        self.input.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The descriptors that a message announced.
    ///
    /// # Errors
    /// When fewer came.
    pub(crate) fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > DESCRIPTORS_MAX || count > self.descriptors.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "announced descriptors did not come"));
        }
        Ok(self.descriptors.drain(..count).collect())
    }

    /// Sends as much as the socket takes now; the rest waits for [`Connection::flush`].
    ///
    /// # Errors
    /// When the peer is gone or too slow.
    pub(crate) fn send(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.waiting += bytes.len();
        if self.waiting > WAITING_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "peer does not read"));
        }
        self.output.push_back((bytes, descriptors));
        self.flush()
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// When the peer is gone.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, descriptors)) = self.output.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            if !borrowed.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, flags) {
                Ok(sent) => {
                    drop(borrowed);
                    descriptors.clear();
                    self.waiting -= sent;
                    if sent == bytes.len() {
                        self.output.pop_front();
                    } else {
                        bytes.drain(..sent);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.output.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
