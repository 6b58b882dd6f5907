//! Streams over WebSocket: each message begins with the number of its channel (upstream's `remotecommand/constants.go`).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{Client, Input, Output, QUEUE, Wanted, ending, size};

/// The largest message taken, bytes.
const MESSAGE: usize = 1 << 20;

/// How long a client may take to close after its command has ended.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A dialect of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    name: &'static str,
    version: u8,
    text: bool,
}

/// What we speak; the client's first known choice is taken.
const DIALECTS: [Dialect; 7] = [
    Dialect { name: "v5.channel.k8s.io", version: 5, text: false },
    Dialect { name: "v4.channel.k8s.io", version: 4, text: false },
    Dialect { name: "v4.base64.channel.k8s.io", version: 4, text: true },
    Dialect { name: "base64.channel.k8s.io", version: 1, text: true },
    Dialect { name: "channel.k8s.io", version: 1, text: false },
    Dialect { name: "v3.channel.k8s.io", version: 3, text: false },
    Dialect { name: "", version: 1, text: false },
];

impl Dialect {
    /// The first of a client's choices that we speak; one that offers none speaks the oldest.
    pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut offered = offered.map(str::trim).filter(|o| !o.is_empty()).peekable();
        if offered.peek().is_none() {
            return DIALECTS.last().copied();
        }
        offered.find_map(|name| DIALECTS.into_iter().find(|d| d.name == name))
    }

    /// Its name on the wire; empty for the one without a name.
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// The answer to a client's key.
pub fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// Speaks over a connection that was upgraded. The client is served by a task of its own until either side is done.
pub async fn serve<S>(stream: S, dialect: Dialect, wanted: Wanted) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (input_sender, input) = mpsc::channel(QUEUE);
    let (output, output_receiver) = mpsc::channel(QUEUE);
    tokio::spawn(run(socket, dialect, wanted, input_sender, output_receiver));
    Client { input, output }
}

async fn run<S>(
    socket: WebSocketStream<S>,
    dialect: Dialect,
    wanted: Wanted,
    input: mpsc::Sender<Input>,
    mut output: mpsc::Receiver<Output>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = socket.split();
    let reading = async {
        while let Some(Ok(message)) = messages.next().await {
            let event = match message {
                Message::Binary(bytes) => decode(dialect, &bytes, wanted),
                Message::Text(text) => decode(dialect, text.as_bytes(), wanted),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => None,
            };
            if let Some(event) = event {
                // when the command has ended nobody reads its input, and the writer says so
                drop(input.send(event).await);
            }
        }
    };
    let writing = async {
        // an empty message on the lowest channel tells the client that the command is about to run (upstream's websocket.go)
        let lowest = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        send(&mut sink, dialect, lowest, &[]).await?;
        while let Some(message) = output.recv().await {
            match message {
                Output::Stdout(bytes) => send(&mut sink, dialect, STDOUT, &bytes).await?,
                Output::Stderr(bytes) => send(&mut sink, dialect, STDERR, &bytes).await?,
                Output::Exit(status) => {
                    let text = ending(dialect.version, &status);
                    if !text.is_empty() {
                        send(&mut sink, dialect, ERROR, &text).await?;
                    }
                    break;
                }
            }
        }
        // without a code, client-go takes the end for a broken connection and the status for lost (its websocket.go)
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
        sink.close().await
    };
    let mut reading = std::pin::pin!(reading);
    tokio::select! {
        () = &mut reading => return,
        done = writing => if let Err(error) = done {
            return tracing::debug!(%error, "websocket ended");
        }
    }
    // what the client still sends is read: a connection closed over unread bytes would lose what we wrote
    if tokio::time::timeout(LINGER, reading).await.is_err() {
        tracing::trace!("client did not close its websocket in time");
    }
}

async fn send<S>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    dialect: Dialect,
    channel: u8,
    bytes: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    sink.send(encode(dialect, channel, bytes)).await
}

fn encode(dialect: Dialect, channel: u8, bytes: &[u8]) -> Message {
    if dialect.text {
        return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

fn decode(dialect: Dialect, bytes: &[u8], wanted: Wanted) -> Option<Input> {
    let (&channel, rest) = bytes.split_first()?;
    let (channel, payload) = if dialect.text {
        (channel.checked_sub(b'0')?, Bytes::from(STANDARD.decode(rest).ok()?))
    } else {
        (channel, Bytes::copy_from_slice(rest))
    };
    match channel {
        STDIN if wanted.stdin && !payload.is_empty() => Some(Input::Stdin(payload)),
        RESIZE if wanted.tty => size(&payload),
        CLOSE if dialect.version >= 5 && payload.first() == Some(&STDIN) => Some(Input::StdinClosed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_dialect_is_spoken() {
        let choose = |offered: &str| Dialect::choose(offered.split(',')).map(|d| d.name);
        assert_eq!(choose("v5.channel.k8s.io, v4.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose("x.channel.k8s.io,base64.channel.k8s.io"), Some("base64.channel.k8s.io"));
        assert_eq!(choose(""), Some(""));
        assert_eq!(choose("SPDY/3.1+portforward.k8s.io"), None);
    }

    #[test]
    fn channels_are_the_first_byte() {
        let all = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
        let five = DIALECTS[0];
        assert_eq!(decode(five, b"\0ls\n", all), Some(Input::Stdin(Bytes::from_static(b"ls\n"))));
        assert_eq!(decode(five, b"\x04{\"Width\":80,\"Height\":24}", all), Some(Input::Resize(80, 24)));
        assert_eq!(decode(five, b"\xff\0", all), Some(Input::StdinClosed));
        assert_eq!(decode(DIALECTS[1], b"\xff\0", all), None, "only v5 can close a channel");
        assert_eq!(decode(DIALECTS[2], b"0bHMK", all), Some(Input::Stdin(Bytes::from_static(b"ls\n"))));
        assert_eq!(encode(DIALECTS[2], STDOUT, b"hi"), Message::text("1aGk="));
    }
}
