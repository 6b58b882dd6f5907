//! HTTP/1.1: heads and bodies, as much as a test needs.

use std::io::{self, BufRead, Read as _};

/// Largest head, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Largest body, bytes.
const BODY_MAX: usize = 16 << 20;

/// First line, headers and body of a request or response.
pub(crate) struct Message {
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The value of a header, whatever its case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the connection ends with the answer to this request (RFC 9112, 9.3).
    pub(crate) fn is_last(&self) -> bool {
        match self.header("connection") {
            Some(value) if value.eq_ignore_ascii_case("close") => true,
            Some(value) if value.eq_ignore_ascii_case("keep-alive") => false,
            _ => self.start.ends_with(" HTTP/1.0"),
        }
    }

    /// Reads one; none at the end of the stream. `to_end` says that a body without a length lasts as long as the stream.
    pub(crate) fn read(stream: &mut impl BufRead, to_end: bool) -> io::Result<Option<Message>> {
        let mut size = 0;
        let mut line = |stream: &mut dyn BufRead| -> io::Result<Option<String>> {
            let mut text = String::new();
            let read = stream.take((HEAD_MAX - size) as u64).read_line(&mut text)?;
            size += read;
            if size >= HEAD_MAX {
                return Err(invalid("head is too long"));
            }
            Ok((read > 0).then(|| text.trim_end().to_owned()))
        };
        let Some(start) = line(stream)? else { return Ok(None) };
        let mut message = Message { start, headers: Vec::new(), body: Vec::new() };
        loop {
            let text = line(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if text.is_empty() {
                break;
            }
            let (name, value) = text.split_once(':').ok_or_else(|| invalid("header without a colon"))?;
            message.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        message.read_body(stream, to_end)?;
        Ok(Some(message))
    }

    fn read_body(&mut self, stream: &mut impl BufRead, to_end: bool) -> io::Result<()> {
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(stream);
        }
        let length = match self.header("content-length") {
            Some(length) => length.parse().map_err(|_| invalid("content-length is no number"))?,
            None if to_end => return stream.take(BODY_MAX as u64).read_to_end(&mut self.body).map(drop),
            None => 0,
        };
        if length > BODY_MAX {
            return Err(invalid("body is too long"));
        }
        self.body.resize(length, 0);
        stream.read_exact(&mut self.body)
    }

    fn read_chunks(&mut self, stream: &mut impl BufRead) -> io::Result<()> {
        loop {
            let mut line = String::new();
            stream.take(64).read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid("chunk size is no number"))?;
            let start = self.body.len();
            if size > BODY_MAX - start {
                return Err(invalid("body is too long"));
            }
            self.body.resize(start + size, 0);
            stream.read_exact(&mut self.body[start..])?;
            line.clear();
            stream.take(64).read_line(&mut line)?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_wait_for_the_end_of_the_stream() {
        for (text, last) in [
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(Message::read(&mut text.as_bytes(), false).unwrap().unwrap().is_last(), last, "{text}");
        }
    }

    #[test]
    fn bodies_come_by_length_chunks_or_end() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\nrest", false, ""),
            ("POST / HTTP/1.1\r\ncontent-LENGTH: 2\r\n\r\nhixx", false, "hi"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", false, "abcd"),
            ("HTTP/1.0 200 OK\r\n\r\nall of it", true, "all of it"),
        ];
        for (text, to_end, body) in table {
            let message = Message::read(&mut text.as_bytes(), to_end).unwrap().unwrap();
            assert_eq!(message.body, body.as_bytes(), "{text}");
        }
        assert!(Message::read(&mut &b""[..], false).unwrap().is_none());
        assert!(Message::read(&mut "x".repeat(HEAD_MAX + 1).as_bytes(), false).is_err());
        assert!(Message::read(&mut &b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"[..], false).is_err());
    }
}
