//! The log on disk: numbered segments of records, preallocated, appended to, trimmed from the front.
//!
//! A segment is filled with zeros ahead of its records, so that making a record durable overwrites blocks that the file
//! has already: one `fdatasync` and no change of metadata. Space is taken by [`Wal::reserve`] before anything is
//! proposed; so a full disk refuses a write before it has begun.
//!
//! # Errors
//! A failed [`Wal::reserve`] leaves the log as it was and may be tried again. A failed [`Wal::append`] leaves it unknown
//! what is durable (the kernel drops what it could not write); nothing may be appended after it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{self, Chain, Found};
use crate::backend::Error;

/// How far zeros are written ahead at once, bytes.
const AHEAD: u64 = 1 << 20;

/// Bytes of a segment's own header.
const HEAD: usize = 32;

const MAGIC: [u8; 8] = *b"orlopwal";
const VERSION: u32 = 1;

/// The log. See the module.
pub(crate) struct Wal {
    dir: PathBuf,
    segments: Vec<Segment>,
    /// The newest segment, which is appended to.
    file: File,
    /// Where the next record goes.
    at: u64,
    /// How far the newest segment is filled with zeros.
    filled: u64,
    chain: Chain,
    segment_bytes: u64,
    sync: bool,
    buffer: Vec<u8>,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// The raft index of its last entry; 0 when it has none.
    last_index: u64,
}

impl Wal {
    /// Opens the log in `dir`, or makes one. `replay` is handed each record's body in order, and returns the index of its
    /// last entry. A torn tail is cut off; anything else that is not as it was written is [`Error::Corrupt`].
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        sync: bool,
        mut replay: impl FnMut(&[u8]) -> Result<u64, &'static str>,
    ) -> Result<Self, Error> {
        let numbers = numbers(dir)?;
        let Some(newest) = numbers.last().copied() else { return Self::create(dir, segment_bytes, sync) };
        let mut segments = Vec::new();
        let mut chain = None;
        let mut end = (0, 0);
        for number in numbers {
            if segments.last().is_some_and(|before: &Segment| before.number + 1 != number) {
                let why = format!("segment {} is missing", number - 1);
                return Err(Error::Corrupt { path: path(dir, number), offset: 0, why });
            }
            let path = path(dir, number);
            let bytes = std::fs::read(&path).map_err(disk("read", &path))?;
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
                erase(&path, at as u64, bytes.len() as u64)?;
            }
            end = (at as u64, bytes.len() as u64);
            chain = Some(then);
            segments.push(Segment { number, bytes: end.1, last_index });
        }
        let newest = path(dir, newest);
        let file = OpenOptions::new().write(true).open(&newest).map_err(disk("open", &newest))?;
        let chain = chain.expect("invariant: there is a segment");
        let dir = dir.to_owned();
        Ok(Self { dir, segments, file, at: end.0, filled: end.1, chain, segment_bytes, sync, buffer: Vec::new() })
    }

    fn create(dir: &Path, segment_bytes: u64, sync: bool) -> Result<Self, Error> {
        let (file, chain, filled) = start_segment(dir, 1, 0, 0)?;
        let segments = vec![Segment { number: 1, bytes: filled, last_index: 0 }];
        let (dir, at) = (dir.to_owned(), HEAD as u64);
        Ok(Self { dir, segments, file, at, filled, chain, segment_bytes, sync, buffer: Vec::new() })
    }

    /// Makes room for a record with a body of so many bytes, in a new segment if this one is full.
    pub(crate) fn reserve(&mut self, body: usize) -> Result<(), Error> {
        let need = record::length(body) as u64;
        if self.at > HEAD as u64 && self.at + need > self.segment_bytes {
            let number = self.newest().number + 1;
            let (file, chain, filled) = start_segment(&self.dir, number, self.chain.last, need)?;
            self.segments.push(Segment { number, bytes: filled, last_index: 0 });
            (self.file, self.chain, self.filled, self.at) = (file, chain, filled, HEAD as u64);
        }
        if self.at + need > self.filled {
            let path = path(&self.dir, self.newest().number);
            let to = (self.at + need).next_multiple_of(AHEAD);
            if let Err(source) = fill(&self.file, self.filled, to) {
                // What was filled is of no use without the rest, and others may need the space.
                self.file.set_len(self.filled).map_err(disk("shorten", &path))?;
                return Err(Error::Disk { operation: "extend", path, source });
            }
            self.filled = to;
            self.newest_mut().bytes = to;
        }
        Ok(())
    }

    /// Appends a record and makes it durable. `last_index` is the index of the last entry in it, 0 for none.
    pub(crate) fn append(&mut self, last_index: u64, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        record::begin(&mut buffer);
        body(&mut buffer);
        // A new segment has a chain of its own: the record is sealed after.
        self.reserve(buffer.len() - record::HEADER)?;
        let chain = record::seal(&mut buffer, 0, self.chain);
        let path = path(&self.dir, self.newest().number);
        self.file.write_all_at(&buffer, self.at).map_err(disk("write", &path))?;
        if self.sync {
            self.file.sync_data().map_err(disk("sync", &path))?;
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
            let path = path(&self.dir, self.segments[0].number);
            std::fs::remove_file(&path).map_err(disk("remove", &path))?;
            self.segments.remove(0);
        }
        sync_dir(&self.dir)
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Every later append fails, as on a disk that is gone.
    #[cfg(test)]
    pub(crate) fn fail_from_now_on(&mut self) {
        self.file = File::open(path(&self.dir, self.newest().number)).expect("the segment is there");
    }

    /// Whole records on disk.
    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        let mut records = 0;
        for segment in &self.segments {
            let bytes = std::fs::read(path(&self.dir, segment.number)).expect("the segment is there");
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

/// Makes a file's name durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(disk("sync", dir))
}

/// Turns what the system said into an error that names the file.
pub(crate) fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Disk { operation, path: path.to_owned(), source }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log-{number:016x}"))
}

fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk("list", dir))? {
        let name = entry.map_err(disk("list", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("log-"));
        numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A new segment under its final name only when its header is durable, so that a broken header is never a torn one.
fn start_segment(dir: &Path, number: u64, last: u32, need: u64) -> Result<(File, Chain, u64), Error> {
    let (temporary, path) = (dir.join("log.tmp"), path(dir, number));
    let chain = Chain { salt: rand_salt(), last };
    let filled = (HEAD as u64 + need).next_multiple_of(AHEAD);
    let made = make_segment(&temporary, &header(number, chain), filled);
    let file = match made {
        Ok(file) => file,
        Err(source) => {
            if let Err(error) = std::fs::remove_file(&temporary) {
                tracing::debug!(%error, path = %temporary.display(), "a file that could not be made was not removed");
            }
            return Err(Error::Disk { operation: "create", path, source });
        }
    };
    std::fs::rename(&temporary, &path).map_err(disk("rename", &path))?;
    sync_dir(dir)?;
    Ok((file, chain, filled))
}

fn make_segment(path: &Path, header: &[u8], filled: u64) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    fill(&file, 0, filled)?;
    file.write_all_at(header, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// Writes zeros.
fn fill(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while from < to {
        let length = (to - from).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())], from)?;
        from += length;
    }
    Ok(())
}

fn erase(path: &Path, from: u64, to: u64) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path).map_err(disk("open", path))?;
    fill(&file, from, to).and_then(|()| file.sync_data()).map_err(disk("erase the torn tail of", path))
}

fn rand_salt() -> u32 {
    // The hasher's keys are the standard library's random numbers; nothing secret hangs on them.
    use std::hash::{BuildHasher, RandomState};
    u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0)
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
