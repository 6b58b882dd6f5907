//! A netlink socket that is spoken to synchronously.
//!
//! Netlink answers inside `sendmsg`: there is nothing to wait for, so a blocking socket on a thread of its own is both the
//! shortest and the fastest way. Requests are sent as one batch; the kernel handles them in order and acknowledges each.

use std::{io, os::fd::AsFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols};
use nix::{errno::Errno, sys::socket};

/// Bytes of one read: netlink never sends more than this in one datagram of a dump (`NLMSG_GOODSIZE` is 8 KiB to 32 KiB).
const READ_BYTES: usize = 64 << 10;

/// Bytes that the kernel may queue for us: an error for each message of a large transaction.
const RECEIVE_BYTES: usize = 1 << 20;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("cannot {operation} a netlink socket")]
    Socket {
        /// What was tried with it.
        operation: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {operation}")]
    Refused {
        /// What was asked, with its subject.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The kernel answered with what cannot be read.
    #[error("cannot read the kernel's answer to {operation}")]
    Answer {
        /// What was asked, with its subject.
        operation: String,
        /// What is wrong with it.
        #[source]
        source: netlink_packet_core::DecodeError,
    },
}

impl Error {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            Self::Socket { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Answer { .. } => None,
        }
    }
}

/// How a request treats what already exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Create; it is an error if it exists.
    Create,
    /// Create or overwrite.
    Replace,
    /// Change what exists, or delete.
    Change,
}

/// One request of a batch.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked, with its subject, for messages: `create bridge orlop0`.
    pub operation: String,
    /// How it treats what already exists.
    pub mode: Mode,
    /// Answers that count as done.
    pub tolerate: &'static [Errno],
    /// The message.
    pub message: RouteNetlinkMessage,
}

impl Request {
    /// A request that tolerates no error.
    pub fn new(operation: impl Into<String>, mode: Mode, message: RouteNetlinkMessage) -> Self {
        Self { operation: operation.into(), mode, tolerate: &[], message }
    }

    /// Counts these answers as done.
    #[must_use]
    pub fn tolerate(mut self, errors: &'static [Errno]) -> Self {
        self.tolerate = errors;
        self
    }
}

/// A socket. It belongs to the network namespace of the thread that opens it, whoever uses it later.
pub struct Socket {
    raw: RawSocket,
}

impl Socket {
    /// Opens a socket for links, addresses, routes and neighbours.
    pub fn route() -> Result<Self, Error> {
        Self::open(protocols::NETLINK_ROUTE)
    }

    /// Opens a socket for nf_tables and conntrack.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(protocols::NETLINK_NETFILTER)
    }

    fn open(protocol: isize) -> Result<Self, Error> {
        let failed = |operation| move |source| Error::Socket { operation, source };
        let mut raw = RawSocket::new(protocol).map_err(failed("open"))?;
        raw.bind_auto().map_err(failed("bind"))?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        raw.set_cap_ack(true).map_err(failed("set up"))?;
        Ok(Self { raw })
    }

    /// Sends all requests in one go. All are tried; the first error that is not tolerated is returned.
    pub fn apply(&self, requests: Vec<Request>) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut asked = Vec::with_capacity(requests.len());
        for (sequence, request) in requests.into_iter().enumerate() {
            let how = match request.mode {
                Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
                Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                Mode::Change => 0,
            };
            append(&mut bytes, request.message, NLM_F_REQUEST | NLM_F_ACK | how, sequence);
            asked.push((request.operation, request.tolerate));
        }
        self.send(&bytes)?;
        let mut first = Ok(());
        let mut open = asked.len();
        while open > 0 {
            for message in self.receive("a batch of requests")? {
                let NetlinkPayload::Error(error) = message.payload else { continue };
                open = open.saturating_sub(1);
                let Some((operation, tolerate)) = asked.get(message.header.sequence_number as usize) else { continue };
                let errno = Errno::from_raw(-error.raw_code());
                if error.raw_code() != 0 && !tolerate.contains(&errno) && first.is_ok() {
                    first = Err(Error::Refused { operation: operation.clone(), source: errno });
                }
            }
        }
        first
    }

    /// Everything that the kernel has of this kind.
    pub fn dump(&self, operation: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.ask(operation, message, NLM_F_REQUEST | NLM_F_DUMP)
    }

    /// One object, or `None` if there is no such.
    pub fn get(&self, operation: &str, message: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>, Error> {
        match self.ask(operation, message, NLM_F_REQUEST | NLM_F_ACK) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut bytes = Vec::new();
        append(&mut bytes, message, flags, 0);
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive(operation)? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.raw_code() == 0 => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        let source = Errno::from_raw(-error.raw_code());
                        return Err(Error::Refused { operation: operation.to_owned(), source });
                    }
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    _ => {}
                }
            }
        }
    }

    /// Sends raw bytes, making room for them in the send buffer first.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |operation| move |source| Error::Socket { operation, source };
        if bytes.len() > READ_BYTES {
            // twice: the kernel keeps some of the buffer for itself
            let room = bytes.len() * 2;
            let set = socket::setsockopt(&self.raw.as_fd(), socket::sockopt::SndBufForce, &room)
                .and_then(|()| socket::setsockopt(&self.raw.as_fd(), socket::sockopt::RcvBufForce, &RECEIVE_BYTES));
            set.map_err(|errno| failed("enlarge")(errno.into()))?;
        }
        self.raw.send(bytes, 0).map_err(failed("send on"))?;
        Ok(())
    }

    /// One datagram, or `None` when nothing is queued: netlink has answered when `send` returns.
    pub fn queued(&self) -> Result<Option<Vec<u8>>, Error> {
        self.read(nix::libc::MSG_DONTWAIT)
    }

    /// One datagram, waiting for it.
    pub fn wait(&self) -> Result<Vec<u8>, Error> {
        Ok(self.read(0)?.unwrap_or_default())
    }

    fn read(&self, flags: i32) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::with_capacity(READ_BYTES);
        match self.raw.recv(&mut bytes, flags) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(flags),
            Err(source) => Err(Error::Socket { operation: "read from", source }),
        }
    }

    fn receive(&self, operation: &str) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Error> {
        let bytes = self.wait()?;
        let unreadable = |source| Error::Answer { operation: operation.to_owned(), source };
        let mut messages = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(unreadable)?.length() as usize;
            messages.push(NetlinkMessage::deserialize(rest).map_err(unreadable)?);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: usize) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = u32::try_from(sequence).unwrap_or(u32::MAX);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}
