//! What of a log is to be printed, when it comes in parts that overlap.
//!
//! A log is asked for with the time of each line. After a break it is asked for again [from a while before the last
//! line](Resume::since), and what comes again is not printed again: everything up to the lines of the last line's time that
//! were printed, which a container may have written at once and which have one time. A line that was printed half goes on where
//! it broke.
//!
//! A node's clock that is set back by more than [`OVERLAP`] while nobody serves hides what is written until it has caught up;
//! lines are printed twice rather than not at all where the log does not begin with what was printed.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;

/// How far before the last line a log is asked for: of several writers one may write a little late, and upstream's kubelet
/// counts whole seconds.
const OVERLAP: Duration = Duration::from_secs(1);

/// Lines of one time that are remembered, the newest; a container writes as many at once when they are short.
const LINES: usize = 64 << 10;

/// Bytes of a line by which it is known again: a piece in CRI's format.
const HEAD: usize = 16 << 10;

/// Longest word that may be a time, bytes.
const STAMP: usize = 64;

/// What was printed, and what comes.
#[derive(Debug, Default)]
pub struct Resume {
    /// Times are printed.
    stamps: bool,
    printed: Option<Printed>,
    /// While lines come that may have been printed: the last of those that have the time of the last one printed.
    again: Option<VecDeque<u64>>,
    line: Line,
}

/// The lines of the newest time that were printed.
#[derive(Debug)]
struct Printed {
    at: Timestamp,
    lines: VecDeque<u64>,
    /// The one that has no end yet.
    half: Option<Text>,
}

/// The line that comes.
#[derive(Debug)]
enum Line {
    /// Of its time so much.
    Stamp(Vec<u8>),
    /// It is printed as it comes.
    Live,
    /// It was printed, as its time tells.
    Known,
    /// It has the time of the last one printed; its text so far.
    Maybe(Text),
    /// It has no time: words of the node's about the log.
    Words,
}

impl Default for Line {
    fn default() -> Self {
        Self::Stamp(Vec::new())
    }
}

/// So much of a line's text as tells it from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Text {
    head: Vec<u8>,
    length: usize,
}

impl Text {
    fn take(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD - self.head.len())]);
        self.length += bytes.len();
    }

    fn begins_with(&self, other: &Self) -> bool {
        self.length >= other.length && self.head.starts_with(&other.head)
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Resume {
    /// Nothing is printed yet. The times of lines are printed with `stamps`.
    pub fn new(stamps: bool) -> Self {
        Self { stamps, ..Self::default() }
    }

    /// The log has broken off: what comes next is what is [asked for](Self::since).
    pub fn broken(&mut self) {
        self.line = Line::default();
        self.again = self.printed.is_some().then(VecDeque::new);
    }

    /// Since when the log is needed; none when all of it is.
    pub fn since(&self) -> Option<Timestamp> {
        let printed = self.printed.as_ref()?;
        Some(printed.at.saturating_sub(OVERLAP).unwrap_or(printed.at))
    }

    /// What is to be printed of bytes that have come.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, is_end) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            let text = self.stamp(piece, is_end, &mut out);
            self.text(text, &mut out);
            if is_end {
                self.end_line(&mut out);
            }
        }
        out
    }

    /// What is left to be printed when nothing more comes.
    pub fn end(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.line) {
            Line::Stamp(word) => word,
            Line::Live | Line::Known | Line::Maybe(_) | Line::Words => Vec::new(),
        }
    }

    /// Takes the line's time off, when that is where it is; what is left of the bytes.
    fn stamp<'a>(&mut self, bytes: &'a [u8], is_end: bool, out: &mut Vec<u8>) -> &'a [u8] {
        let Line::Stamp(word) = &mut self.line else { return bytes };
        let space = bytes.iter().position(|byte| *byte == b' ');
        let (of_word, rest) = bytes.split_at(space.unwrap_or(bytes.len()));
        word.extend_from_slice(of_word);
        if space.is_none() && !is_end && word.len() <= STAMP {
            return rest;
        }
        let word = std::mem::take(word);
        let Some(at) = std::str::from_utf8(&word).ok().and_then(|word| word.parse().ok()) else {
            self.line = Line::Words;
            out.extend_from_slice(&word);
            return rest;
        };
        self.begin(at, &word, out);
        rest.strip_prefix(b" ").unwrap_or(rest)
    }

    /// A line of this time begins.
    fn begin(&mut self, at: Timestamp, stamp: &[u8], out: &mut Vec<u8>) {
        if let (Some(_), Some(printed)) = (&self.again, &self.printed) {
            if at <= printed.at {
                self.line = if at < printed.at { Line::Known } else { Line::Maybe(Text::default()) };
                return;
            }
            // what was printed last is there no more
            if printed.half.is_some() {
                out.push(b'\n');
            }
        }
        self.again = None;
        self.line = Line::Live;
        if self.stamps {
            out.extend_from_slice(stamp);
            out.push(b' ');
        }
        let lines = self.printed.take().filter(|printed| printed.at == at).map(|printed| printed.lines);
        self.printed = Some(Printed { at, lines: lines.unwrap_or_default(), half: Some(Text::default()) });
    }

    fn text(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.line {
            Line::Stamp(_) | Line::Known => {}
            Line::Words => out.extend_from_slice(bytes),
            Line::Live => {
                out.extend_from_slice(bytes);
                if let Some(half) = self.printed.as_mut().and_then(|printed| printed.half.as_mut()) {
                    half.take(bytes);
                }
            }
            Line::Maybe(text) => {
                text.take(bytes);
                let Some(printed) = &mut self.printed else { return };
                let follows = self.again.as_ref().is_none_or(|again| *again == printed.lines);
                let Some(half) = printed.half.as_mut().filter(|half| follows && text.begins_with(half)) else { return };
                out.extend_from_slice(&bytes[bytes.len() - (text.length - half.length)..]);
                *half = std::mem::take(text);
                self.again = None;
                self.line = Line::Live;
            }
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        match (std::mem::take(&mut self.line), &mut self.printed) {
            (Line::Live, Some(printed)) => {
                out.push(b'\n');
                if let Some(text) = printed.half.take() {
                    remember(&mut printed.lines, text.digest(), LINES);
                }
            }
            (Line::Maybe(text), Some(printed)) => {
                let Some(again) = &mut self.again else { return };
                remember(again, text.digest(), printed.lines.len());
                if printed.half.is_none() && *again == printed.lines {
                    self.again = None;
                }
            }
            (Line::Words | Line::Live, _) => out.push(b'\n'),
            (Line::Stamp(_) | Line::Known | Line::Maybe(_), _) => {}
        }
    }
}

/// One more at the end, and at most so many.
fn remember(lines: &mut VecDeque<u64>, line: u64, most: usize) {
    lines.push_back(line);
    while lines.len() > most {
        lines.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container writes twice what has one time; the last line has no end yet.
    const LOG: &str = "2026-11-22T16:00:00.1Z one\n2026-11-22T16:00:00.2Z two\n2026-11-22T16:00:00.2Z two\n\
        2026-11-22T16:00:00.2Z three words here\n2026-11-22T16:00:03Z \n2026-11-22T16:00:03.000000001Z four";

    /// What a node answers that is asked for the log since then.
    fn since(at: Timestamp) -> String {
        let is_asked = |line: &&str| line.split(' ').next().unwrap().parse::<Timestamp>().unwrap() >= at;
        LOG.split_inclusive('\n').filter(is_asked).collect()
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn wherever_it_breaks_everything_is_printed_once() {
        let plain = "one\ntwo\ntwo\nthree words here\n\nfour";
        for (stamps, whole) in [(false, plain), (true, LOG)] {
            for first in 0..=LOG.len() {
                for second in 0..20 {
                    let mut resume = Resume::new(stamps);
                    let mut out = resume.take(&LOG.as_bytes()[..first]);
                    resume.broken();
                    let again = resume.since().map_or_else(|| LOG.to_owned(), since);
                    out.extend(resume.take(&again.as_bytes()[..second.min(again.len())]));
                    resume.broken();
                    // in pieces of any size
                    let again = resume.since().map_or_else(|| LOG.to_owned(), since);
                    again.as_bytes().chunks(second + 1).for_each(|piece| out.extend(resume.take(piece)));
                    out.extend(resume.end());
                    assert_eq!(text(out), whole, "broken at {first}, and {second} later");
                }
            }
        }
    }

    #[test]
    fn what_is_before_the_tail_is_not_printed_later() {
        let mut resume = Resume::new(false);
        assert_eq!(text(resume.take(b"2026-11-22T16:00:00.2Z three words here\n")), "three words here\n");
        resume.broken();
        assert_eq!(text(resume.take(since(resume.since().unwrap()).as_bytes())), "\nfour");
    }

    #[test]
    fn a_line_that_is_late_is_printed_and_one_that_is_gone_is_not_waited_for() {
        let mut resume = Resume::new(false);
        resume.take(b"2026-11-22T16:00:01.5Z one\n2026-11-22T16:00:02Z tw");
        resume.broken();
        assert_eq!(resume.since().unwrap().to_string(), "2026-11-22T16:00:01Z");
        let again = b"2026-11-22T16:00:01.5Z one\n2026-11-22T16:00:02Z two\n2026-11-22T16:00:01.9Z late\n";
        assert_eq!(text(resume.take(again)), "o\nlate\n");
        resume.take(b"2026-11-22T16:00:05Z ha");
        resume.broken();
        assert_eq!(text(resume.take(b"2026-11-22T16:00:09Z next\n")), "\nnext\n", "the log begins later now");
    }

    #[test]
    fn what_the_node_says_of_the_log_is_passed_on() {
        let mut resume = Resume::new(false);
        assert_eq!(text(resume.take(b"failed to watch the log\n")), "failed to watch the log\n");
        let long = vec![b'x'; 100];
        assert_eq!(resume.take(&long), long);
        assert_eq!(text(resume.take(b"\n12")), "\n");
        assert_eq!(text(resume.end()), "12");
        assert!(resume.since().is_none());
    }
}
