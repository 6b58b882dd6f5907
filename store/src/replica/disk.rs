//! The files of one member, behind the few operations that they need.
//!
//! Everything that the log, snapshots and recovery do to a disk goes through [`Disk`]; so a simulated one can lose what was
//! not synced, tear writes, be slow or full, and stop a member at any single operation.
//!
//! What a disk promises: after [`DiskFile::sync`] the bytes and the length of a file survive; after [`Disk::sync_dir`] its
//! names do. Before that, any of the writes may survive in any part, or none.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::backend::Error;

/// One flat directory. Names are our own, never a user's.
pub(crate) trait Disk: Send + Sync {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new file, empty, in place of any that is there; opened for reading and writing.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// A file that is there, opened for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of any that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// What to call a file in an error.
    fn path(&self, name: &str) -> PathBuf;
}

/// One open file.
pub(crate) trait DiskFile: Send {
    /// Bytes in it.
    fn len(&self) -> io::Result<u64>;

    /// Fills the whole buffer.
    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all bytes.
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Cuts it off, or lengthens it with zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes content and length durable.
    fn sync(&self) -> io::Result<()>;
}

impl dyn Disk + '_ {
    /// The whole of a file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.open(name)?;
        let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, name: &str) -> io::Result<bool> {
        Ok(self.list()?.iter().any(|other| other == name))
    }

    /// The numbers of the files that are called `prefix` and a hexadecimal number, in order.
    pub(crate) fn numbered(&self, prefix: &str) -> Result<Vec<u64>, Error> {
        let names = self.list().map_err(failed("list", self.path("")))?;
        let number = |name: &String| u64::from_str_radix(name.strip_prefix(prefix)?, 16).ok();
        let mut numbers: Vec<_> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes what could not be made, as well as that is possible.
    pub(crate) fn discard(&self, name: &str) {
        if let Err(error) = self.remove(name) {
            tracing::debug!(%error, path = %self.path(name).display(), "a file that could not be made was not removed");
        }
    }
}

/// Turns what the system said into an error that names the file.
pub(crate) fn failed(operation: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Disk { operation, path, source }
}

/// The file that is locked.
pub(crate) const LOCK: &str = "lock";

/// A folder of the machine, locked for as long as this lives: two processes that append to one log would destroy it.
pub(crate) struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens and locks a folder, which is made when it does not exist.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(failed("create", dir.to_owned()))?;
        }
        let path = dir.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed("open", path.clone()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => {
                let why = format!("{} is locked: another process has this store open", path.display());
                Err(Error::Unavailable { operation: "open", why })
            }
            Err(TryLockError::Error(source)) => Err(Error::Disk { operation: "lock", path, source }),
        }
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(self.dir.join(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, at)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        // Not the times, but the length if it changed.
        self.sync_data()
    }
}
