//! Protocol: what agent and supervisor say to each other.
//!
//! Over one stream socket: a length (4 bytes, little endian), then JSON. Descriptors travel beside the first byte of the
//! message that announces them, in order. Both ends are the same binary or one release apart, so fields are only ever
//! added, with a default.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::runtime::{Container, ContainerState, Exec, Sandbox, Usage};

/// Longest message, bytes: a container's arguments and environment fit (`ARG_MAX` is 2 MiB).
pub(crate) const MESSAGE_MAX: usize = 8 << 20;
/// Most descriptors beside one message.
pub(crate) const DESCRIPTORS_MAX: usize = 3;
/// Most names under which descriptors are kept.
pub(crate) const KEPT_MAX: usize = 16;

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Comes back with the reply.
    pub(crate) sequence: u64,
    /// How many descriptors come along.
    #[serde(default)]
    pub(crate) descriptors: usize,
    /// What is asked.
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    List,
    CreateSandbox(Sandbox),
    RemoveSandbox(String),
    Sandboxes,
    Start(Box<Container>),
    Signal {
        id: String,
        signal: i32,
    },
    Remove {
        id: String,
    },
    /// With standard input (if wanted), output and error as descriptors, unless on a terminal.
    Exec {
        id: String,
        exec: Exec,
    },
    Usage {
        id: String,
    },
    /// Keep the descriptors that come along, in the place of earlier ones of that name, for the agents to come.
    Keep {
        name: String,
    },
    /// What was kept under that name.
    Kept {
        name: String,
    },
    /// Kill everything, remove cgroups and mounts, and end.
    Shutdown,
}

/// To the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Reply {
        sequence: u64,
        #[serde(default)]
        descriptors: usize,
        reply: Result<Reply, Failure>,
    },
    /// A container ended.
    Exited(ContainerState),
    /// The process of an exec ended.
    ExecExited { exec: u64, code: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Containers(Vec<ContainerState>),
    Sandboxes(Vec<String>),
    Started(ContainerState),
    /// With the terminal as a descriptor, if one was asked for.
    ExecStarted {
        exec: u64,
    },
    Usage(Usage),
    /// With the descriptors; none if nothing was kept.
    Kept,
    /// Folders that nobody uses any more; the agent deletes them at its leisure.
    Trash(Vec<String>),
}

/// Why not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// No such sandbox or container.
    NotFound { sandbox: bool, id: String },
    /// The container's own fault.
    Start(String),
    /// The node's fault: operation, subject and cause in one line.
    System(String),
}

impl Failure {
    /// The node's fault.
    pub(crate) fn system(operation: &str, subject: impl std::fmt::Display, cause: impl std::fmt::Display) -> Failure {
        Failure::System(format!("{operation} {subject}: {cause}"))
    }
}

/// What of a container survives the supervisor, in `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) state: ContainerState,
    pub(crate) recorded_at: SystemTime,
}

/// Length and JSON.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).expect("invariant: our own types have string keys and write to memory");
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The first whole message of a buffer, which is taken out of it; none if more bytes are needed.
///
/// # Errors
/// When it is too long or no JSON of ours: then the connection is of no more use.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(buffer: &mut Vec<u8>) -> std::io::Result<Option<T>> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MESSAGE_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "message is longer than 8 MiB"));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length])?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let mut stream = encode(&Call { sequence: 7, descriptors: 2, request: Request::List });
        stream.extend(encode(&Call { sequence: 8, descriptors: 0, request: Request::RemoveSandbox("x".into()) }));
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in stream {
            buffer.push(byte);
            while let Some(call) = decode::<Call>(&mut buffer).unwrap() {
                seen.push((call.sequence, call.descriptors));
            }
        }
        assert_eq!(seen, [(7, 2), (8, 0)]);
        assert!(decode::<Call>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
        assert!(decode::<Call>(&mut b"\x02\0\0\0{}".to_vec()).is_err());
    }
}
