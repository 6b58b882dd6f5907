//! SPDY/3.1 frames, to and from bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    Error,
    header::{Headers, Reader, Writer},
};

/// A frame is no larger than this, bytes.
const FRAME: usize = 1 << 20;
const VERSION: u16 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// RST_STREAM's status for a stream that is not wanted.
pub const REFUSED: u32 = 3;

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream is opened.
    SynStream {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Nothing will be sent on it.
        fin: bool,
    },
    /// A stream is accepted.
    SynReply {
        /// Its number.
        stream: u32,
        /// What the other side says of it.
        headers: Headers,
    },
    /// A stream is broken off.
    RstStream {
        /// Its number.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// To be answered with the same.
    Ping {
        /// Odd when a client asks.
        id: u32,
    },
    /// The connection will be closed.
    GoAway {
        /// The last stream that was accepted.
        last: u32,
    },
    /// More may be sent. We send what the other side's TCP window takes, as upstream's spdystream does.
    WindowUpdate {
        /// On which stream; 0 for the connection.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
    /// Bytes of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Nothing more will be sent on it.
        fin: bool,
    },
    /// SETTINGS and HEADERS, which mean nothing to us, and types that later versions may have.
    Other,
}

/// Reads frames; one a connection, as headers share their compressor.
#[derive(Debug, Default)]
pub struct Decoder {
    headers: Reader,
}

impl Decoder {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next frame off the buffer; none when it is not complete yet.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let Some(head) = buffer.first_chunk::<8>() else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > FRAME {
            return Err(Error::Protocol("frame is too large"));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(8);
        let body = buffer.split_to(length).freeze();
        let first = head.get_u32();
        let fin = head.get_u8() & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: body, fin }));
        }
        if u16::try_from(first >> 16 & 0x7fff).ok() != Some(VERSION) {
            return Err(Error::Protocol("not SPDY/3"));
        }
        let kind = u16::try_from(first & 0xffff).unwrap_or(0);
        self.control(kind, fin, body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, Error> {
        let least = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | PING | HEADERS => 4,
            RST_STREAM | GO_AWAY | WINDOW_UPDATE => 8,
            _ => 0,
        };
        if body.len() < least {
            return Err(Error::Protocol("frame is too short"));
        }
        Ok(match kind {
            SYN_STREAM => {
                let stream = body.get_u32() & 0x7fff_ffff;
                body.advance(6);
                Frame::SynStream { stream, headers: self.headers.block(&body)?, fin }
            }
            SYN_REPLY => {
                let stream = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply { stream, headers: self.headers.block(&body)? }
            }
            HEADERS => {
                body.advance(4);
                // read even though nobody wants it: later blocks build on it
                self.headers.block(&body)?;
                Frame::Other
            }
            RST_STREAM => Frame::RstStream { stream: body.get_u32() & 0x7fff_ffff, status: body.get_u32() },
            PING => Frame::Ping { id: body.get_u32() },
            GO_AWAY => Frame::GoAway { last: body.get_u32() & 0x7fff_ffff },
            WINDOW_UPDATE => Frame::WindowUpdate { stream: body.get_u32() & 0x7fff_ffff, delta: body.get_u32() },
            _ => Frame::Other,
        })
    }
}

/// Writes frames; one a connection.
#[derive(Debug, Default)]
pub struct Encoder {
    headers: Writer,
}

impl Encoder {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a stream.
    pub fn syn_stream(&mut self, stream: u32, headers: &[(String, String)], out: &mut BytesMut) -> Result<(), Error> {
        let block = self.headers.block(headers)?;
        control(SYN_STREAM, 10 + block.len(), out);
        out.put_u32(stream);
        out.put_bytes(0, 6);
        out.put_slice(&block);
        Ok(())
    }

    /// Accepts a stream.
    pub fn syn_reply(&mut self, stream: u32, out: &mut BytesMut) -> Result<(), Error> {
        let block = self.headers.block(&[])?;
        control(SYN_REPLY, 4 + block.len(), out);
        out.put_u32(stream);
        out.put_slice(&block);
        Ok(())
    }

    /// Breaks a stream off.
    pub fn rst_stream(&self, stream: u32, status: u32, out: &mut BytesMut) {
        control(RST_STREAM, 8, out);
        out.put_u32(stream);
        out.put_u32(status);
    }

    /// Asks for, or gives, a sign of life.
    pub fn ping(&self, id: u32, out: &mut BytesMut) {
        control(PING, 4, out);
        out.put_u32(id);
    }

    /// Announces the connection's end.
    pub fn go_away(&self, last: u32, out: &mut BytesMut) {
        control(GO_AWAY, 8, out);
        out.put_u32(last);
        out.put_u32(0);
    }

    /// Sends bytes on a stream.
    pub fn data(&self, stream: u32, bytes: &[u8], fin: bool, out: &mut BytesMut) {
        out.put_u32(stream);
        out.put_u8(if fin { FIN } else { 0 });
        out.put_uint(bytes.len() as u64, 3);
        out.put_slice(bytes);
    }
}

fn control(kind: u16, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(0);
    out.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As another implementation's client sends them.
    #[test]
    fn frames_of_real_bytes() {
        let mut decoder = Decoder::new();
        let mut take = |bytes: &[u8]| decoder.take(&mut BytesMut::from(bytes));
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        assert_eq!(take(&ping).unwrap(), Some(Frame::Ping { id: 1 }));
        let data = [0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i'];
        let bytes = Bytes::from_static(b"hi");
        assert_eq!(take(&data).unwrap(), Some(Frame::Data { stream: 5, bytes, fin: true }));
        let window = [0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 1, 0, 0];
        assert_eq!(take(&window).unwrap(), Some(Frame::WindowUpdate { stream: 5, delta: 65536 }));
        let settings = [0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0];
        assert_eq!(take(&settings).unwrap(), Some(Frame::Other));
        assert_eq!(take(&ping[..11]).unwrap(), None, "the rest may still come");
        assert!(take(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).is_err(), "SPDY/2");
        assert!(take(&[0x80, 3, 0, 6, 0, 0, 0, 1, 0]).is_err(), "too short for a ping");
        assert!(take(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).is_err(), "too large");
    }

    #[test]
    fn a_stream_is_opened_and_accepted() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut wire = BytesMut::new();
        let headers = vec![("streamtype".to_owned(), "stdout".to_owned())];
        encoder.syn_stream(3, &headers, &mut wire).unwrap();
        encoder.syn_reply(3, &mut wire).unwrap();
        encoder.rst_stream(9, REFUSED, &mut wire);
        assert_eq!(decoder.take(&mut wire).unwrap(), Some(Frame::SynStream { stream: 3, headers, fin: false }));
        assert_eq!(decoder.take(&mut wire).unwrap(), Some(Frame::SynReply { stream: 3, headers: vec![] }));
        assert_eq!(decoder.take(&mut wire).unwrap(), Some(Frame::RstStream { stream: 9, status: REFUSED }));
        assert!(wire.is_empty());
    }
}
