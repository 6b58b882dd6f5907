//! The streams of an exec over one connection, in either of the two ways that clients speak.

pub mod spdy;
pub mod websocket;

use tokio::sync::mpsc;

/// What a client does, whatever it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Stdin(bytes::Bytes),
    /// No more of them.
    StdinClosed,
    /// The terminal's columns and rows.
    Resize(u16, u16),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Bytes of standard output.
    Stdout(bytes::Bytes),
    /// Bytes of standard error.
    Stderr(bytes::Bytes),
    /// How it ended, and nothing after that.
    Exit(Box<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>),
}

/// Which streams there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The two directions of a client, once its streams are there.
#[derive(Debug)]
pub struct Client {
    /// What it does; ends when it is gone.
    pub input: mpsc::Receiver<Input>,
    /// What it is told.
    pub output: mpsc::Sender<Output>,
}

/// Messages under way in either direction.
pub const QUEUE: usize = 16;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    /// The client broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The client did not open the streams that it asked for.
    #[error("client opened {opened} of {wanted} streams in time")]
    Streams {
        /// So many came.
        opened: usize,
        /// So many were to come.
        wanted: usize,
    },
}

/// `{"Width":80,"Height":24}`, as clients send a terminal's size.
fn size(bytes: &[u8]) -> Option<Input> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let size: Size = serde_json::from_slice(bytes).ok()?;
    Some(Input::Resize(size.width, size.height))
}

/// How the end of a command is told by a protocol version: a `Status` since v4, before that a message, and nothing on success.
fn ending(version: u8, status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Vec<u8> {
    if version >= 4 {
        return serde_json::to_vec(status).unwrap_or_default();
    }
    if status.status.as_deref() == Some("Success") {
        return Vec::new();
    }
    status.message.clone().unwrap_or_default().into_bytes()
}
