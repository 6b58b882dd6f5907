//! Layer: unpacked once for all images and processes that use it.
//!
//! Keyed by diff id (the digest of the uncompressed tar), so that an image loaded from an archive and the same pulled from
//! a registry share it.

use std::{
    cell::Cell,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::{Digest, Error, Limits, digest::Hashing, error, index::lock, unpack};

/// Makes names of temporary folders differ within a process.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// What may follow the end of a layer's archive, bytes: tar pads to whole records.
const TRAILER_MAX: u64 = 16 << 20;

/// Where layers are.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    limits: Limits,
}

/// The right to unpack one layer, held against all processes.
pub(crate) struct Turn {
    _lock: File,
}

/// What a layer must turn out to be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// For errors: `layer sha256:… of docker.io/library/x`.
    pub(crate) subject: String,
    /// Of the bytes as they come, if they are named by it.
    pub(crate) blob: Option<Digest>,
    /// Of the uncompressed tar.
    pub(crate) diff_id: Digest,
}

impl Layers {
    pub(crate) fn new(dir: &Path, limits: Limits) -> Self {
        Layers { dir: dir.to_owned(), limits }
    }

    pub(crate) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// Waits until nobody else unpacks it; none if it is there already. Blocks.
    pub(crate) fn turn(&self, diff_id: &Digest) -> Result<Option<Turn>, Error> {
        if self.path(diff_id).is_dir() {
            return Ok(None);
        }
        let held = lock(&self.dir.join("locks").join(diff_id.hex()), FlockOperation::LockExclusive)?;
        Ok((!self.path(diff_id).is_dir()).then_some(Turn { _lock: held }))
    }

    /// Unpacks it. Either the whole layer is there afterwards, with the right digests, or nothing. Blocks.
    pub(crate) fn unpack(&self, _turn: &Turn, expected: &Expected, blob: impl Read) -> Result<(), Error> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let temporary =
            self.dir.join("tmp").join(format!("{}-{}-{serial}", expected.diff_id.hex(), std::process::id()));
        let done = self.unpack_to(&temporary, expected, blob);
        if done.is_err() {
            remove_folder(&temporary)?;
        }
        done
    }

    fn unpack_to(&self, temporary: &Path, expected: &Expected, blob: impl Read) -> Result<(), Error> {
        rustix::fs::mkdir(temporary, Mode::from_raw_mode(0o755)).map_err(error::os("make", temporary))?;
        let root = open_folder(temporary)?;
        let again = root.try_clone().map_err(error::io("open", temporary))?;
        let (diff_id, size) = read_layer(expected, blob, root, &self.limits)?;
        if diff_id != expected.diff_id {
            let subject = format!("uncompressed {}", expected.subject);
            return Err(mismatch(&subject, &expected.diff_id, &diff_id));
        }
        // Content before name: after a crash the folder is whole or not there.
        rustix::fs::syncfs(&again).map_err(error::os("sync", temporary))?;
        let record = self.size_path(&expected.diff_id);
        std::fs::write(&record, size.to_string()).map_err(error::io("write", &record))?;
        let target = self.path(&expected.diff_id);
        std::fs::rename(temporary, &target).map_err(error::io("rename to", &target))
    }

    fn size_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("sizes").join(diff_id.hex())
    }

    /// Bytes of its files; 0 when unknown.
    pub(crate) fn size(&self, diff_id: &Digest) -> u64 {
        std::fs::read_to_string(self.size_path(diff_id)).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Removes all layers but these, and what crashes left. Only while nobody pulls or loads.
    pub(crate) fn keep(&self, used: &dyn Fn(&str) -> bool) -> Result<(), Error> {
        for (folder, always) in [("tmp", false), ("layers", true), ("sizes", true), ("locks", true)] {
            let folder = self.dir.join(folder);
            for entry in std::fs::read_dir(&folder).map_err(error::io("list", &folder))? {
                let entry = entry.map_err(error::io("list", &folder))?;
                let name = entry.file_name();
                if always && name.to_str().is_some_and(used) {
                    continue;
                }
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn mismatch(subject: &str, expected: &Digest, actual: &Digest) -> Error {
    Error::Digest { subject: subject.to_owned(), expected: expected.to_string(), actual: actual.to_string() }
}

fn open_folder(path: &Path) -> Result<std::os::fd::OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(error::os("open", path))
}

/// Removes a folder of ours; its content may be anything.
fn remove_folder(path: &Path) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = open_folder(parent)?;
    crate::tree::remove(std::os::fd::AsFd::as_fd(&parent), name).map_err(error::os("remove", path))
}

/// Unpacks into `root` and returns the digest of the uncompressed archive and the size of all files.
fn read_layer(
    expected: &Expected,
    blob: impl Read,
    root: std::os::fd::OwnedFd,
    limits: &Limits,
) -> Result<(Digest, u64), Error> {
    let subject = &expected.subject;
    let read = |error: std::io::Error| error::io("read", subject)(error);
    let count = Cell::new(0);
    let mut blob = Hashing::new(Counting { reader: blob, count: &count });
    let unpacked = decompress(subject, BufReader::with_capacity(128 * 1024, &mut blob)).and_then(|plain| {
        let mut tar = Hashing::new(plain);
        let size = unpack::unpack(subject, &mut tar, root, limits, &|| count.get())?;
        Ok((tar.finish(TRAILER_MAX).map_err(read)?, size))
    });
    if let Err(Error::Limit { .. } | Error::NoSpace { .. }) = unpacked {
        return unpacked;
    }
    // What could not be unpacked is most likely not what was named: that says more.
    match (blob.finish(limits.bytes), &expected.blob) {
        (Ok(actual), Some(wanted)) if actual != *wanted => Err(mismatch(subject, wanted, &actual)),
        (Err(error), _) if unpacked.is_ok() => Err(read(error)),
        _ => unpacked,
    }
}

struct Counting<'a, R> {
    reader: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Largest window of zstd that is accepted, as a power of two of bytes (RFC 8878 recommends 8 MiB; 128 MiB is what zstd
/// itself accepts).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Tells gzip, zstd and plain by their first bytes: media types lie.
pub(crate) fn decompress<'a>(
    subject: &str,
    mut reader: impl std::io::BufRead + 'a,
) -> Result<Box<dyn Read + 'a>, Error> {
    let fail = |error| error::io("read", subject)(error);
    let head = reader.fill_buf().map_err(fail)?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader).map_err(fail)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(fail)?;
        return Ok(Box::new(decoder));
    }
    if head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']) {
        let why = "only gzip, zstd and no compression are known".to_owned();
        return Err(Error::Unsupported { subject: subject.to_owned(), why });
    }
    Ok(Box::new(reader))
}
