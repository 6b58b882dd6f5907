//! The log on disk: numbered segments of records, preallocated, appended to, trimmed from the front.
//!
//! A segment is filled with zeros ahead of its records, so that making a record durable overwrites blocks that the file
//! has already: one `fdatasync` and no change of metadata. Space is taken by [`Wal::reserve`] before anything is
//! proposed; so a full disk refuses a write before it has begun.
//!
//! # Errors
//! A failed [`Wal::reserve`] leaves the log as it was and may be tried again. A failed [`Wal::append`] leaves it unknown
//! what is durable (the kernel drops what it could not write); nothing may be appended after it.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, failed};
use super::record::{self, Chain, Found};
use crate::backend::Error;
use crate::planted::{self, Bug};

/// Bytes of a segment's own header.
const HEAD: usize = 32;

const MAGIC: [u8; 8] = *b"orlopwal";
const VERSION: u32 = 1;

const PREFIX: &str = "log-";

/// A segment that is being made.
pub(crate) const TEMPORARY: &str = "log.tmp";

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Size at which a segment is closed, bytes.
    pub(crate) segment_bytes: u64,
    /// How far zeros are written ahead at once, bytes.
    pub(crate) ahead: u64,
    /// Whether an append is durable when it returns.
    pub(crate) sync: bool,
    /// Random: the salts of new segments come from it.
    pub(crate) seed: u64,
}

/// The log. See the module.
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    segments: Vec<Segment>,
    /// The newest segment, which is appended to.
    file: Box<dyn DiskFile>,
    /// Where the next record goes.
    at: u64,
    /// How far the newest segment is filled with zeros.
    filled: u64,
    chain: Chain,
    layout: Layout,
    buffer: Vec<u8>,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// The raft index of its last entry; 0 when it has none.
    last_index: u64,
}

impl Wal {
    /// Opens the log, or makes one. `replay` is handed each record's body in order, and returns the index of its
    /// last entry. A torn tail is cut off; anything else that is not as it was written is [`Error::Corrupt`].
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        layout: Layout,
        mut replay: impl FnMut(&[u8]) -> Result<u64, &'static str>,
    ) -> Result<Self, Error> {
        let numbers = disk.numbered(PREFIX)?;
        let Some(newest) = numbers.last().copied() else { return Self::create(disk, layout) };
        let mut segments = Vec::new();
        let mut chain = None;
        let mut end = (0, 0);
        for number in numbers {
            let path = disk.path(&name(number));
            if segments.last().is_some_and(|before: &Segment| before.number + 1 != number) {
                let why = format!("segment {} is missing", number - 1);
                return Err(Error::Corrupt { path, offset: 0, why });
            }
            let bytes = disk.read(&name(number)).map_err(failed("read", path.clone()))?;
            let mut last_index = 0;
            let scanned = scan(&bytes, number, chain, |body| {
                last_index = replay(body)?.max(last_index);
                Ok(())
            });
            let (at, then, torn) =
                scanned.map_err(|(offset, why)| Error::Corrupt { path: path.clone(), offset: offset as u64, why })?;
            if torn && number != newest {
                let why = "a segment that is not the newest ends in a torn record".to_owned();
                return Err(Error::Corrupt { path, offset: at as u64, why });
            }
            if torn {
                tracing::info!(path = %path.display(), offset = at, "cut a torn record off the end of the log");
                erase(&*disk, number, at as u64, bytes.len() as u64)?;
            }
            end = (at as u64, bytes.len() as u64);
            chain = Some(then);
            segments.push(Segment { number, bytes: end.1, last_index });
        }
        let file = disk.open(&name(newest)).map_err(failed("open", disk.path(&name(newest))))?;
        let chain = chain.expect("invariant: there is a segment");
        Ok(Self { disk, segments, file, at: end.0, filled: end.1, chain, layout, buffer: Vec::new() })
    }

    fn create(disk: Arc<dyn Disk>, layout: Layout) -> Result<Self, Error> {
        let (file, chain, filled) = start_segment(&*disk, layout, 1, 0, 0)?;
        let segments = vec![Segment { number: 1, bytes: filled, last_index: 0 }];
        Ok(Self { disk, segments, file, at: HEAD as u64, filled, chain, layout, buffer: Vec::new() })
    }

    /// Makes room for a record with a body of so many bytes, in a new segment if this one is full.
    pub(crate) fn reserve(&mut self, body: usize) -> Result<(), Error> {
        let need = record::length(body) as u64;
        if self.at > HEAD as u64 && self.at + need > self.layout.segment_bytes {
            let number = self.newest().number + 1;
            let (file, chain, filled) = start_segment(&*self.disk, self.layout, number, self.chain.last, need)?;
            self.segments.push(Segment { number, bytes: filled, last_index: 0 });
            (self.file, self.chain, self.filled, self.at) = (file, chain, filled, HEAD as u64);
        }
        if self.at + need > self.filled {
            let path = self.disk.path(&name(self.newest().number));
            let to = (self.at + need).next_multiple_of(self.layout.ahead);
            if let Err(source) = fill(&*self.file, self.filled, to) {
                // What was filled is of no use without the rest, and others may need the space.
                self.file.set_len(self.filled).map_err(failed("shorten", path.clone()))?;
                return Err(Error::Disk { operation: "extend", path, source });
            }
            self.filled = to;
            self.newest_mut().bytes = to;
        }
        Ok(())
    }

    /// Appends a record and makes it durable. `last_index` is the index of the last entry in it, 0 for none.
    pub(crate) fn append(&mut self, last_index: u64, body: &[u8]) -> Result<(), Error> {
        self.reserve(body.len())?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        record::begin(&mut buffer);
        buffer.extend_from_slice(body);
        let chain = record::seal(&mut buffer, 0, self.chain);
        let path = || self.disk.path(&name(self.newest().number));
        self.file.write_all_at(&buffer, self.at).map_err(|source| failed("write", path())(source))?;
        if self.layout.sync && !planted::is(Bug::AckBeforeSync) {
            self.file.sync().map_err(|source| failed("sync", path())(source))?;
        }
        self.at += buffer.len() as u64;
        self.chain = chain;
        let newest = self.newest_mut();
        newest.last_index = newest.last_index.max(last_index);
        // One large record must not hold its memory for ever.
        buffer.shrink_to(1 << 20);
        self.buffer = buffer;
        Ok(())
    }

    /// Removes the segments that hold nothing after `index`; one with a record stays, for it says how raft voted.
    pub(crate) fn trim(&mut self, index: u64) -> Result<(), Error> {
        let stay = if self.at > HEAD as u64 { 1 } else { 2 };
        while self.segments.len() > stay && self.segments[0].last_index <= index {
            let name = name(self.segments[0].number);
            self.disk.remove(&name).map_err(failed("remove", self.disk.path(&name)))?;
            self.segments.remove(0);
        }
        self.disk.sync_dir().map_err(failed("sync", self.disk.path("")))
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whole records on disk.
    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        let mut records = 0;
        for segment in &self.segments {
            let bytes = self.disk.read(&name(segment.number)).expect("the segment is there");
            let count = |_: &[u8]| {
                records += 1;
                Ok(())
            };
            scan(&bytes, segment.number, None, count).expect("the segment is whole");
        }
        records
    }

    fn newest(&self) -> &Segment {
        self.segments.last().expect("invariant: there is a segment")
    }

    fn newest_mut(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("invariant: there is a segment")
    }
}

fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

/// A new segment under its final name only when its header is durable, so that a broken header is never a torn one.
fn start_segment(
    disk: &dyn Disk,
    layout: Layout,
    number: u64,
    last: u32,
    need: u64,
) -> Result<(Box<dyn DiskFile>, Chain, u64), Error> {
    let name = name(number);
    let chain = Chain { salt: salt(layout.seed, number), last };
    let filled = (HEAD as u64 + need).next_multiple_of(layout.ahead);
    let file = make_segment(disk, &header(number, chain), filled).map_err(|source| {
        disk.discard(TEMPORARY);
        failed("create", disk.path(&name))(source)
    })?;
    disk.rename(TEMPORARY, &name).map_err(failed("rename", disk.path(&name)))?;
    disk.sync_dir().map_err(failed("sync", disk.path("")))?;
    Ok((file, chain, filled))
}

fn make_segment(disk: &dyn Disk, header: &[u8], filled: u64) -> io::Result<Box<dyn DiskFile>> {
    let file = disk.create(TEMPORARY)?;
    fill(&*file, 0, filled)?;
    file.write_all_at(header, 0)?;
    file.sync()?;
    Ok(file)
}

/// Writes zeros.
fn fill(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while from < to {
        let length = (to - from).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())], from)?;
        from += length;
    }
    Ok(())
}

fn erase(disk: &dyn Disk, number: u64, from: u64, to: u64) -> Result<(), Error> {
    let (name, path) = (name(number), disk.path(&name(number)));
    let file = disk.open(&name).map_err(failed("open", path.clone()))?;
    fill(&*file, from, to).and_then(|()| file.sync()).map_err(failed("erase the torn tail of", path))
}

/// Different in every segment, and not to be guessed by who stores values.
fn salt(seed: u64, number: u64) -> u32 {
    let bits = super::mix(seed ^ number);
    u32::try_from(bits >> 32).unwrap_or(0)
}

fn header(number: u64, chain: Chain) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&chain.salt.to_le_bytes());
    head[16..24].copy_from_slice(&number.to_le_bytes());
    head[24..28].copy_from_slice(&chain.last.to_le_bytes());
    let sum = crc32fast::hash(&head[..28]);
    head[28..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// Reads all records: where they end, the chain from there, and whether a torn one follows.
fn scan(
    bytes: &[u8],
    number: u64,
    before: Option<Chain>,
    mut replay: impl FnMut(&[u8]) -> Result<(), &'static str>,
) -> Result<(usize, Chain, bool), (usize, String)> {
    let salt = bytes.get(12..16).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let last = bytes.get(24..28).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let (Some(salt), Some(last)) = (salt, last) else { return Err((0, "the segment has no header".to_owned())) };
    let mut chain = Chain { salt, last };
    if bytes.get(..HEAD) != Some(&header(number, chain)[..]) {
        return Err((0, "the segment's header is broken, or of another version".to_owned()));
    }
    if before.is_some_and(|before| before.last != last) {
        return Err((24, "the segment does not follow the one before".to_owned()));
    }
    let mut at = HEAD;
    loop {
        match record::read(bytes, at, chain) {
            Found::Record { body, next, chain: then } => {
                replay(&bytes[body]).map_err(|why| (at, why.to_owned()))?;
                (at, chain) = (next, then);
            }
            Found::End => return Ok((at, chain, false)),
            Found::Torn => return Ok((at, chain, true)),
            Found::Corrupt(why) => return Err((at, why.to_owned())),
        }
    }
}
