//! Snapshots: the whole state in one file, so that the log before it can go.
//!
//! Written to a temporary file, made durable, then renamed: a snapshot under its final name is whole. A broken one is
//! [`Error::Corrupt`]; there is no older one to fall back to, since the log before it is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::wal::{disk, sync_dir};
use crate::backend::Error;
use crate::mvcc::Mvcc;
use crate::mvcc::codec::{Reader, Writer};

const MAGIC: [u8; 8] = *b"orlopsnp";
const VERSION: u64 = 1;

/// A block is closed when it holds this much, bytes.
const BLOCK: usize = 256 << 10;

/// A state, and where in the log it stands.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// Index of the last entry applied, and its term.
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The members of the log, as of then.
    pub(crate) voters: Vec<u64>,
    pub(crate) state: Mvcc,
}

/// Writes a snapshot and removes older ones; returns its size in bytes.
pub(crate) fn write(dir: &Path, snapshot: &Snapshot) -> Result<u64, Error> {
    let (temporary, path) = (dir.join("snapshot.tmp"), path(dir, snapshot.index));
    let made = write_file(&temporary, snapshot);
    let bytes = match made {
        Ok(bytes) => bytes,
        Err(source) => {
            if let Err(error) = std::fs::remove_file(&temporary) {
                tracing::debug!(%error, path = %temporary.display(), "a file that could not be made was not removed");
            }
            return Err(Error::Disk { operation: "write", path, source });
        }
    };
    std::fs::rename(&temporary, &path).map_err(disk("rename", &path))?;
    sync_dir(dir)?;
    for older in indices(dir)?.into_iter().filter(|index| *index < snapshot.index) {
        let older = self::path(dir, older);
        std::fs::remove_file(&older).map_err(disk("remove", &older))?;
    }
    Ok(bytes)
}

/// Reads the newest snapshot, and its size; an empty one when there is none.
pub(crate) fn read(dir: &Path) -> Result<(Snapshot, u64), Error> {
    let Some(index) = indices(dir)?.into_iter().max() else { return Ok(Default::default()) };
    let path = path(dir, index);
    let file = File::open(&path).map_err(disk("open", &path))?;
    let size = file.metadata().map_err(disk("read", &path))?.len();
    let mut blocks = Blocks { file: io::BufReader::with_capacity(BLOCK, file), path, size, at: 0, chain: 0 };
    let mut snapshot = Snapshot::default();
    let head = blocks.next()?.ok_or_else(|| blocks.corrupt("it is empty"))?;
    read_head(&head, &mut snapshot).map_err(|why| blocks.corrupt(why))?;
    if snapshot.index != index {
        return Err(blocks.corrupt("its name does not match its content"));
    }
    while let Some(block) = blocks.next()? {
        snapshot.state.read_items(block).map_err(|why| blocks.corrupt(why.0))?;
    }
    Ok((snapshot, blocks.at))
}

fn path(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("snapshot-{index:016x}"))
}

fn indices(dir: &Path) -> Result<Vec<u64>, Error> {
    let mut indices = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(disk("list", dir))? {
        let name = entry.map_err(disk("list", dir))?.file_name();
        let index = name.to_str().and_then(|name| name.strip_prefix("snapshot-"));
        indices.extend(index.and_then(|index| u64::from_str_radix(index, 16).ok()));
    }
    Ok(indices)
}

fn write_file(path: &Path, snapshot: &Snapshot) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(file);
    let mut chain = 0;
    let mut head = Writer(MAGIC.to_vec());
    head.number(VERSION);
    head.number(snapshot.index);
    head.number(snapshot.term);
    head.number(snapshot.voters.len() as u64);
    snapshot.voters.iter().for_each(|voter| head.number(*voter));
    write_block(&mut out, &mut chain, &head.0)?;
    let mut items = Writer::default();
    snapshot.state.write_items(&mut items, |items| {
        if items.0.len() >= BLOCK {
            write_block(&mut out, &mut chain, &items.0)?;
            items.0.clear();
            items.0.shrink_to(2 * BLOCK);
        }
        io::Result::Ok(())
    })?;
    if !items.0.is_empty() {
        write_block(&mut out, &mut chain, &items.0)?;
    }
    // The end is a block without bytes: a file that was cut at a block's border does not have it.
    write_block(&mut out, &mut chain, &[])?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Length, checksum that goes on from the block before, bytes.
fn write_block(out: &mut impl Write, chain: &mut u32, block: &[u8]) -> io::Result<()> {
    let length = u32::try_from(block.len()).map_err(|_| io::Error::other("one item is larger than a block may be"))?;
    *chain = sum(*chain, length, block);
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&chain.to_le_bytes())?;
    out.write_all(block)
}

fn sum(chain: u32, length: u32, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&length.to_le_bytes());
    hasher.update(block);
    hasher.finalize()
}

fn read_head(head: &Bytes, snapshot: &mut Snapshot) -> Result<(), &'static str> {
    if !head.starts_with(&MAGIC) {
        return Err("it is not a snapshot");
    }
    let mut from = Reader::new(head.slice(MAGIC.len()..));
    let mut fields = || -> Result<u64, &'static str> {
        if from.number().map_err(|why| why.0)? != VERSION {
            return Err("it is of an unknown version");
        }
        snapshot.index = from.number().map_err(|why| why.0)?;
        snapshot.term = from.number().map_err(|why| why.0)?;
        from.number().map_err(|why| why.0)
    };
    for _ in 0..fields()? {
        snapshot.voters.push(from.number().map_err(|why| why.0)?);
    }
    Ok(())
}

struct Blocks {
    file: io::BufReader<File>,
    path: PathBuf,
    size: u64,
    at: u64,
    chain: u32,
}

impl Blocks {
    /// The next block; none at the end.
    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut head = [0; 8];
        self.fill(&mut head)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("invariant: four bytes"));
        let (length, want) = (word(0), word(4));
        if self.at + 8 + u64::from(length) > self.size {
            return Err(self.corrupt("a block goes beyond the end of the file"));
        }
        let mut block = vec![0; length as usize];
        self.fill(&mut block)?;
        self.chain = sum(self.chain, length, &block);
        if self.chain != want {
            return Err(self.corrupt("a block's checksum does not match"));
        }
        self.at += 8 + u64::from(length);
        if length > 0 {
            return Ok(Some(block.into()));
        }
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(None),
            Ok(_) => Err(self.corrupt("bytes follow its end")),
            Err(source) => Err(Error::Disk { operation: "read", path: self.path.clone(), source }),
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("it ends early"),
            _ => Error::Disk { operation: "read", path: self.path.clone(), source },
        })
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: self.at, why: why.to_owned() }
    }
}
