//! One line of a log in CRI format: `TIME STREAM TAG TEXT`.

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::Options;

/// Turns lines of a log file into what the reader asked for.
#[derive(Debug)]
pub(super) struct Lines {
    options: Options,
    left: Option<u64>,
    /// The piece before was not the end of its line: the next one gets no time of its own.
    inside: bool,
    rest: Vec<u8>,
}

/// A line longer than this without an end is passed on as it is, bytes. The writer cuts lines at 16 KiB.
const LINE: usize = 1 << 20;

impl Lines {
    pub(super) fn new(options: &Options) -> Self {
        Self { options: options.clone(), left: options.limit_bytes, inside: false, rest: Vec::new() }
    }

    /// Whether nothing more will be given.
    pub(super) fn full(&self) -> bool {
        self.left == Some(0)
    }

    /// Another file begins.
    pub(super) fn next_file(&mut self) {
        self.rest.clear();
    }

    /// Takes in bytes of the file; gives what is to be sent.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        self.rest.extend_from_slice(bytes);
        let mut rest = std::mem::take(&mut self.rest);
        let mut begin = 0;
        while let Some(end) = rest[begin..].iter().position(|b| *b == b'\n') {
            self.line(&rest[begin..begin + end], &mut out);
            begin += end + 1;
        }
        rest.drain(..begin);
        if rest.len() > LINE {
            rest.clear();
        }
        self.rest = rest;
        out.freeze()
    }

    fn line(&mut self, line: &[u8], out: &mut BytesMut) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag), text) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if self.options.stream.as_ref().is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at < since) {
                return;
            }
        }
        if self.options.timestamps && !self.inside {
            self.push(time, out);
            self.push(b" ", out);
        }
        self.push(text.unwrap_or_default(), out);
        self.inside = tag == b"P";
        if !self.inside {
            self.push(b"\n", out);
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let room = self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        out.extend_from_slice(&bytes[..room]);
        if let Some(left) = &mut self.left {
            *left -= u64::try_from(room).unwrap_or(*left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-22T16:00:00.1Z stdout F one\n2026-11-22T16:00:01Z stderr P tw\n\
        2026-11-22T16:00:02Z stderr F o\n2026-11-22T16:00:03Z stdout F \n";

    fn read(options: &Options) -> String {
        let mut lines = Lines::new(options);
        let (first, second) = LOG.as_bytes().split_at(50);
        let mut all = lines.take(first).to_vec();
        all.extend_from_slice(&lines.take(second));
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn lines_lose_their_prefix_and_pieces_are_joined() {
        assert_eq!(read(&Options::default()), "one\ntwo\n\n");
        let timestamps = Options { timestamps: true, stream: Some("stderr".into()), ..Options::default() };
        assert_eq!(read(&timestamps), "2026-11-22T16:00:01Z two\n");
        let since = Options { since: "2026-11-22T16:00:03Z".parse().ok(), ..Options::default() };
        assert_eq!(read(&since), "\n");
        assert_eq!(read(&Options { limit_bytes: Some(5), ..Options::default() }), "one\nt");
    }
}
