//! Snapshots: the whole state in one file, so that the log before it can go.
//!
//! Written to a temporary file, made durable, then renamed: a snapshot under its final name is whole. A broken one is
//! [`Error::Corrupt`]; there is no older one to fall back to, since the log before it is gone.
//!
//! A snapshot that another member sent is built up in a file of its own. Once it is whole and durable it is renamed to
//! `installed-N`: from then on the log before it counts for nothing, also after a crash. The log says so with a mark, then
//! the file gets its ordinary name.

use std::io;

use bytes::Bytes;

use super::disk::{Disk, DiskFile, failed};
use super::roster::Roster;
use crate::backend::Error;
use crate::block::{Chain, PREFIX, Prefix};
use crate::mvcc::Mvcc;
use crate::mvcc::codec::{Malformed, Reader, Writer};

const MAGIC: [u8; 8] = *b"orlopsnp";

/// 1 had ids of voters in place of the roster.
const VERSION: u64 = 2;

/// A block is closed when it holds this much, bytes.
const BLOCK: usize = 256 << 10;

/// Snapshots of this member's own.
const OWN: &str = "snapshot-";

/// A whole one from another member, from which the log has not gone on yet.
const INSTALLED: &str = "installed-";

/// One that is being written.
pub(crate) const TEMPORARY: &str = "snapshot.tmp";

/// One that is being received.
pub(crate) const INCOMING: &str = "incoming.tmp";

/// A state, and where in the log it stands.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// Index of the last entry applied, and its term.
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The members, as of then.
    pub(crate) roster: Roster,
    pub(crate) state: Mvcc,
}

/// A snapshot that was found on disk.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) snapshot: Snapshot,
    /// Its size; 0 when there is none.
    pub(crate) bytes: u64,
    /// The log is yet to be told that it goes on from here.
    pub(crate) installed: bool,
}

/// Writes a snapshot and removes older ones; returns its size in bytes.
pub(crate) fn write(disk: &dyn Disk, snapshot: &Snapshot) -> Result<u64, Error> {
    let name = name(snapshot.index);
    let bytes = write_file(disk, snapshot).map_err(|source| {
        disk.discard(TEMPORARY);
        failed("write", disk.path(&name))(source)
    })?;
    disk.rename(TEMPORARY, &name).map_err(failed("rename", disk.path(&name)))?;
    disk.sync_dir().map_err(failed("sync", disk.path("")))?;
    remove_before(disk, snapshot.index)?;
    Ok(bytes)
}

fn remove_before(disk: &dyn Disk, index: u64) -> Result<(), Error> {
    for older in disk.numbered(OWN)?.into_iter().filter(|older| *older < index) {
        let older = name(older);
        disk.remove(&older).map_err(failed("remove", disk.path(&older)))?;
    }
    Ok(())
}

/// Reads the newest snapshot; an empty one when there is none.
pub(crate) fn read(disk: &dyn Disk) -> Result<Found, Error> {
    let newest = disk.numbered(OWN)?.into_iter().max();
    let installed =
        disk.numbered(INSTALLED)?.into_iter().max().filter(|installed| newest.is_none_or(|n| *installed > n));
    let Some(index) = installed.or(newest) else { return Ok(Found::default()) };
    let name = if installed.is_some() { format!("{INSTALLED}{index:016x}") } else { name(index) };
    let (snapshot, bytes) = read_file(disk, &name)?;
    if snapshot.index != index {
        let why = "its name does not match its content".to_owned();
        return Err(Error::Corrupt { path: disk.path(&name), offset: 0, why });
    }
    Ok(Found { snapshot, bytes, installed: installed.is_some() })
}

/// Reads what was received.
pub(crate) fn read_incoming(disk: &dyn Disk) -> Result<(Snapshot, u64), Error> {
    read_file(disk, INCOMING)
}

/// What was received, and read, is this member's state from now on: the log before it counts for nothing.
pub(crate) fn install(disk: &dyn Disk, index: u64) -> Result<(), Error> {
    let name = format!("{INSTALLED}{index:016x}");
    let file = disk.open(INCOMING).map_err(failed("open", disk.path(INCOMING)))?;
    file.sync().map_err(failed("sync", disk.path(INCOMING)))?;
    disk.rename(INCOMING, &name).map_err(failed("rename", disk.path(&name)))?;
    disk.sync_dir().map_err(failed("sync", disk.path("")))
}

/// The log has been told that it goes on from here.
pub(crate) fn settle(disk: &dyn Disk, index: u64) -> Result<(), Error> {
    let (from, to) = (format!("{INSTALLED}{index:016x}"), name(index));
    disk.rename(&from, &to).map_err(failed("rename", disk.path(&to)))?;
    disk.sync_dir().map_err(failed("sync", disk.path("")))?;
    for older in disk.numbered(INSTALLED)?.into_iter().filter(|older| *older < index) {
        let older = format!("{INSTALLED}{older:016x}");
        disk.remove(&older).map_err(failed("remove", disk.path(&older)))?;
    }
    remove_before(disk, index)
}

/// Bytes of this member's own snapshot, from an offset on.
pub(crate) fn read_part(disk: &dyn Disk, index: u64, offset: u64, length: usize) -> Result<Bytes, Error> {
    let name = name(index);
    let mut part = vec![0; length];
    let read = disk.open(&name).and_then(|file| file.read_exact_at(&mut part, offset));
    read.map_err(failed("read", disk.path(&name)))?;
    Ok(part.into())
}

fn name(index: u64) -> String {
    format!("{OWN}{index:016x}")
}

fn read_file(disk: &dyn Disk, name: &str) -> Result<(Snapshot, u64), Error> {
    let file = disk.open(name).map_err(failed("open", disk.path(name)))?;
    let size = file.len().map_err(failed("read", disk.path(name)))?;
    let mut blocks = Blocks { file, path: disk.path(name), size, at: 0, chain: Chain::default() };
    let mut snapshot = Snapshot::default();
    let head = blocks.next()?.ok_or_else(|| blocks.corrupt("it is empty"))?;
    read_head(&head, &mut snapshot).map_err(|why| blocks.corrupt(why.0))?;
    while let Some(block) = blocks.next()? {
        snapshot.state.read_items(block).map_err(|why| blocks.corrupt(why.0))?;
    }
    Ok((snapshot, blocks.at))
}

fn write_file(disk: &dyn Disk, snapshot: &Snapshot) -> io::Result<u64> {
    let mut out = Out { file: disk.create(TEMPORARY)?, at: 0, chain: Chain::default(), buffer: Vec::new() };
    let mut head = Writer(MAGIC.to_vec());
    head.number(VERSION);
    head.number(snapshot.index);
    head.number(snapshot.term);
    snapshot.roster.encode(&mut head);
    out.block(&head.0)?;
    let mut items = Writer::default();
    snapshot.state.write_items(&mut items, |items| {
        if items.0.len() >= BLOCK {
            out.block(&items.0)?;
            items.0.clear();
            items.0.shrink_to(2 * BLOCK);
        }
        io::Result::Ok(())
    })?;
    if !items.0.is_empty() {
        out.block(&items.0)?;
    }
    // The end is a block without bytes: a file that was cut at a block's border does not have it.
    out.block(&[])?;
    out.file.sync()?;
    Ok(out.at)
}

/// Blocks, one after the other.
struct Out {
    file: Box<dyn DiskFile>,
    at: u64,
    chain: Chain,
    buffer: Vec<u8>,
}

impl Out {
    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.chain.seal(block));
        self.buffer.extend_from_slice(block);
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        Ok(())
    }
}

fn read_head(head: &Bytes, snapshot: &mut Snapshot) -> Result<(), Malformed> {
    if !head.starts_with(&MAGIC) {
        return Err(Malformed("it is not a snapshot"));
    }
    let mut from = Reader::new(head.slice(MAGIC.len()..));
    let version = from.number()?;
    snapshot.index = from.number()?;
    snapshot.term = from.number()?;
    match version {
        1 => {
            let voters = (0..from.count()?).map(|_| from.number()).collect::<Result<Vec<_>, _>>()?;
            snapshot.roster = Roster::of_voters(&voters);
        }
        VERSION => snapshot.roster = Roster::decode(&mut from)?,
        _ => return Err(Malformed("it is of an unknown version")),
    }
    Ok(())
}

struct Blocks {
    file: Box<dyn DiskFile>,
    path: std::path::PathBuf,
    size: u64,
    at: u64,
    chain: Chain,
}

impl Blocks {
    /// The next block; none at the end.
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix, 0)?;
        let prefix = Prefix::parse(prefix);
        if self.at + (PREFIX + prefix.length()) as u64 > self.size {
            return Err(self.corrupt("a block goes beyond the end of the file"));
        }
        let mut block = vec![0; prefix.length()];
        self.fill(&mut block, PREFIX as u64)?;
        if !self.chain.follows(prefix, &block) {
            return Err(self.corrupt("a block's checksum does not match"));
        }
        self.at += (PREFIX + block.len()) as u64;
        if !block.is_empty() {
            return Ok(Some(block.into()));
        }
        if self.at < self.size {
            return Err(self.corrupt("bytes follow its end"));
        }
        Ok(None)
    }

    fn fill(&self, buffer: &mut [u8], behind: u64) -> Result<(), Error> {
        if self.at + behind + buffer.len() as u64 > self.size {
            return Err(self.corrupt("it ends early"));
        }
        let read = self.file.read_exact_at(buffer, self.at + behind);
        read.map_err(failed("read", self.path.clone()))
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: self.at, why: why.to_owned() }
    }
}
