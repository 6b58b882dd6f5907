//! A client: GET over plain HTTP, with names resolved by [`crate::resolve`].

use std::{
    io::{self, BufReader, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{http::Message, resolve};

/// Longest wait for a connection or an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Fetches `http://host[:port][/path]`.
pub(crate) fn get(url: &str, headers: &[(String, String)]) -> io::Result<Reply> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: {why}"));
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("only http:// is spoken"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_port(authority);
    let port = port.map_or(Ok(80), str::parse).map_err(|_| invalid("port is no number"))?;
    let mut failed = invalid("name has no address");
    for address in resolve::resolve(host)? {
        match TcpStream::connect_timeout(&(address, port).into(), TIMEOUT) {
            Ok(stream) => return ask(stream, authority, if path.is_empty() { "/" } else { path }, headers),
            Err(error) => failed = io::Error::new(error.kind(), format!("{url} at {address}: {error}")),
        }
    }
    Err(failed)
}

/// `[::1]:80`, `host:80` or `host`.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    }
}

fn ask(stream: TcpStream, authority: &str, path: &str, headers: &[(String, String)]) -> io::Result<Reply> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    (&stream).write_all((request + "\r\n").as_bytes())?;
    let message = Message::read(&mut BufReader::new(stream), true)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = message.start.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "answer without a status"))?;
    Ok(Reply { status, body: message.body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_split() {
        for (authority, expected) in [
            ("web", ("web", None)),
            ("web:80", ("web", Some("80"))),
            ("[::1]:8", ("::1", Some("8"))),
            ("[::1]", ("::1", None)),
        ] {
            assert_eq!(split_port(authority), expected);
        }
    }
}
