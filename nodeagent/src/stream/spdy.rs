//! Streams over SPDY/3.1, as kubectl before 1.31 and client-go's older executors speak: one SPDY stream each for error,
//! stdin, stdout, stderr and resize, told apart by their `streamType` header.

pub mod frame;
pub mod header;

use std::{collections::BTreeMap, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};

use super::{Client, Error, Input, Output, QUEUE, Wanted, ending, size};
use frame::{Decoder, Encoder, Frame};

/// How long a client may take to open its streams (upstream's DefaultStreamCreationTimeout).
const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to close after its command has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Payload of one frame that we send, bytes.
const PAYLOAD: usize = 32 * 1024;
/// Streams that a client may have open.
const STREAMS: usize = 16;

/// Versions of the protocol on top, newest first.
const VERSIONS: [(&str, u8); 4] =
    [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

/// The first of a client's choices that we speak; one that offers none speaks the oldest.
pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<(&'static str, u8)> {
    let mut offered = offered.map(str::trim).filter(|o| !o.is_empty()).peekable();
    if offered.peek().is_none() {
        return Some(("", 1));
    }
    offered.find_map(|name| VERSIONS.into_iter().find(|(known, _)| *known == name))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Error,
    Stdin,
    Stdout,
    Stderr,
    Resize,
}

impl Role {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "error" => Self::Error,
            "stdin" => Self::Stdin,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            "resize" => Self::Resize,
            _ => return None,
        })
    }
}

/// What the reading half asks the writing half to send.
enum Reply {
    Accept(u32),
    Refuse(u32),
    Pong(u32),
    Ready(BTreeMap<Role, u32>),
}

/// Speaks over a connection that was upgraded; returns when the client has opened all its streams. It is served by tasks of
/// their own until either side is done.
pub async fn serve<S>(stream: S, version: u8, wanted: Wanted) -> Result<Client, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let roles = [
        Some(Role::Error),
        wanted.stdin.then_some(Role::Stdin),
        wanted.stdout.then_some(Role::Stdout),
        (wanted.stderr && !wanted.tty).then_some(Role::Stderr),
        (wanted.tty && version >= 3).then_some(Role::Resize),
    ];
    let expected = roles.iter().flatten().count();
    let (reader, writer) = tokio::io::split(stream);
    let (input_sender, input) = mpsc::channel(QUEUE);
    let (output, output_receiver) = mpsc::channel(QUEUE);
    let (replies, reply_receiver) = mpsc::channel(QUEUE);
    let (ready_sender, ready) = oneshot::channel();
    tokio::spawn(async move {
        let reading = read(reader, expected, replies, input_sender);
        let writing = write(writer, version, output_receiver, reply_receiver, ready_sender);
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            done = &mut reading => if let Err(error) = done {
                tracing::debug!(%error, "SPDY connection ended");
            },
            done = writing => match done {
                Err(error) => tracing::debug!(%error, "SPDY connection ended"),
                // what the client still sends is read: a connection closed over unread bytes would lose what we wrote
                Ok(()) => if tokio::time::timeout(LINGER, reading).await.is_err() {
                    tracing::trace!("client did not close its SPDY connection in time");
                },
            },
        }
    });
    match tokio::time::timeout(OPENING, ready).await {
        Ok(Ok(())) => Ok(Client { input, output }),
        _ => Err(Error::Streams { opened: 0, wanted: expected }),
    }
}

async fn read<S: AsyncRead>(
    mut reader: ReadHalf<S>,
    expected: usize,
    replies: mpsc::Sender<Reply>,
    input: mpsc::Sender<Input>,
) -> Result<(), Error> {
    let mut buffer = BytesMut::with_capacity(PAYLOAD);
    let mut decoder = Decoder::new();
    let mut roles: BTreeMap<u32, Role> = BTreeMap::new();
    loop {
        while let Some(frame) = decoder.take(&mut buffer)? {
            let reply = match frame {
                Frame::SynStream { stream, headers, .. } => {
                    let word = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("streamtype"));
                    match word.and_then(|(_, value)| Role::parse(value)).filter(|_| roles.len() < STREAMS) {
                        Some(role) => {
                            roles.insert(stream, role);
                            Some(Reply::Accept(stream))
                        }
                        None => Some(Reply::Refuse(stream)),
                    }
                }
                Frame::Ping { id } if id % 2 == 1 => Some(Reply::Pong(id)),
                Frame::Data { stream, bytes, fin } => {
                    take_data(roles.get(&stream).copied(), bytes, fin, &input).await;
                    None
                }
                Frame::RstStream { stream, .. } => {
                    take_data(roles.get(&stream).copied(), Bytes::new(), true, &input).await;
                    None
                }
                Frame::GoAway { .. } => return Ok(()),
                Frame::SynReply { .. } | Frame::Ping { .. } | Frame::WindowUpdate { .. } | Frame::Other => None,
            };
            let opened = matches!(reply, Some(Reply::Accept(_))) && roles.len() == expected;
            if let Some(reply) = reply {
                replies.send(reply).await.map_err(|_| Error::Protocol("the writing half is gone"))?;
            }
            if opened {
                let by_role = roles.iter().map(|(stream, role)| (*role, *stream)).collect();
                replies.send(Reply::Ready(by_role)).await.map_err(|_| Error::Protocol("the writing half is gone"))?;
            }
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// When the command has ended nobody takes its input: that is no error.
async fn take_data(role: Option<Role>, bytes: Bytes, fin: bool, input: &mpsc::Sender<Input>) {
    match role {
        Some(Role::Stdin) => {
            if !bytes.is_empty() {
                drop(input.send(Input::Stdin(bytes)).await);
            }
            if fin {
                drop(input.send(Input::StdinClosed).await);
            }
        }
        Some(Role::Resize) => {
            if let Some(event) = size(&bytes) {
                drop(input.send(event).await);
            }
        }
        Some(Role::Error | Role::Stdout | Role::Stderr) | None => {}
    }
}

async fn write<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    version: u8,
    mut output: mpsc::Receiver<Output>,
    mut replies: mpsc::Receiver<Reply>,
    ready: oneshot::Sender<()>,
) -> Result<(), Error> {
    let mut encoder = Encoder::new();
    let mut ready = Some(ready);
    let mut streams: BTreeMap<Role, u32> = BTreeMap::new();
    loop {
        let mut out = BytesMut::new();
        let mut over = false;
        tokio::select! {
            reply = replies.recv() => match reply {
                Some(Reply::Accept(stream)) => encoder.syn_reply(stream, &mut out)?,
                Some(Reply::Refuse(stream)) => encoder.rst_stream(stream, frame::REFUSED, &mut out),
                Some(Reply::Pong(id)) => encoder.ping(id, &mut out),
                Some(Reply::Ready(by_role)) => {
                    streams = by_role;
                    if let Some(ready) = ready.take() {
                        // a server that does not wait any more has closed the connection
                        ready.send(()).map_err(|()| Error::Protocol("nobody waits for the streams"))?;
                    }
                }
                None => return Ok(()),
            },
            message = output.recv() => match message {
                Some(Output::Stdout(bytes)) => data(&encoder, streams.get(&Role::Stdout), &bytes, &mut out),
                Some(Output::Stderr(bytes)) => data(&encoder, streams.get(&Role::Stderr), &bytes, &mut out),
                Some(Output::Exit(status)) => {
                    finish(&encoder, &streams, &ending(version, &status), &mut out);
                    over = true;
                }
                None => over = true,
            },
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
        if over {
            writer.shutdown().await?;
            return Ok(());
        }
    }
}

fn data(encoder: &Encoder, stream: Option<&u32>, bytes: &[u8], out: &mut BytesMut) {
    if let Some(stream) = stream {
        bytes.chunks(PAYLOAD).for_each(|chunk| encoder.data(*stream, chunk, false, out));
    }
}

/// Outputs end first, then the error stream says how it went.
fn finish(encoder: &Encoder, streams: &BTreeMap<Role, u32>, text: &[u8], out: &mut BytesMut) {
    for role in [Role::Stdout, Role::Stderr] {
        if let Some(stream) = streams.get(&role) {
            encoder.data(*stream, &[], true, out);
        }
    }
    if let Some(stream) = streams.get(&Role::Error) {
        encoder.data(*stream, text, true, out);
    }
    encoder.go_away(streams.values().copied().max().unwrap_or(0), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec;

    #[test]
    fn the_clients_first_known_version_is_spoken() {
        let offered = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
        assert_eq!(choose(offered.into_iter()), Some(("v4.channel.k8s.io", 4)));
        assert_eq!(choose([].into_iter()), Some(("", 1)));
        assert_eq!(choose(["x"].into_iter()), None);
    }

    #[tokio::test]
    async fn a_client_opens_streams_and_learns_how_it_ended() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
        let serving = tokio::spawn(serve(ours, 4, wanted));
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut out = BytesMut::new();
        for (stream, word) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            encoder.syn_stream(stream, &[("streamtype".into(), word.into())], &mut out).unwrap();
        }
        encoder.ping(7, &mut out);
        encoder.data(3, b"hello", true, &mut out);
        theirs.write_all(&out).await.unwrap();
        let mut client = serving.await.unwrap().unwrap();
        assert_eq!(client.input.recv().await, Some(Input::Stdin(Bytes::from_static(b"hello"))));
        assert_eq!(client.input.recv().await, Some(Input::StdinClosed));
        client.output.send(Output::Stdout(Bytes::from_static(b"HELLO"))).await.unwrap();
        client.output.send(Output::Exit(Box::new(exec::exit_status(3)))).await.unwrap();
        let mut bytes = BytesMut::new();
        while theirs.read_buf(&mut bytes).await.unwrap() > 0 {}
        let mut told = Vec::new();
        while let Some(frame) = decoder.take(&mut bytes).unwrap() {
            told.push(match frame {
                Frame::SynReply { stream, .. } => format!("reply {stream}"),
                Frame::Ping { id } => format!("ping {id}"),
                Frame::Data { stream, bytes, fin } => {
                    format!("data {stream} {}{}", String::from_utf8_lossy(&bytes), if fin { " fin" } else { "" })
                }
                Frame::GoAway { last } => format!("goaway {last}"),
                other => format!("{other:?}"),
            });
        }
        let status = r#"{"apiVersion":"v1","kind":"Status","details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit status 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#;
        let expected = [
            "reply 1",
            "reply 3",
            "reply 5",
            "ping 7",
            "data 5 HELLO",
            "data 5  fin",
            &format!("data 1 {status} fin"),
            "goaway 5",
        ];
        assert_eq!(told, expected);
    }
}
