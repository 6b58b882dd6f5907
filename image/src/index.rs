//! Index: which names mean which images, on disk.
//!
//! One JSON file, replaced as a whole (temporary file, fsync, rename, fsync of the folder) under an exclusive `flock`
//! of a file beside it, so that several processes can share a store.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error, error};

/// Largest index that is read, bytes.
const INDEX_MAX: u64 = 256 << 20;

/// What is on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Content {
    /// By digest of the manifest.
    pub(crate) images: BTreeMap<Digest, Record>,
    /// Canonical references.
    pub(crate) references: BTreeMap<String, Digest>,
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: Digest,
    /// Unpacked bytes of all layers.
    pub(crate) size: u64,
    /// Diff ids, lowest first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) config: ImageConfiguration,
}

/// The file, and what was read from it last.
#[derive(Debug)]
pub(crate) struct Index {
    folder: PathBuf,
    seen: Mutex<Option<(Stamp, Arc<Content>)>>,
}

/// Tells versions of the file apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Index {
    pub(crate) fn new(folder: &Path) -> Self {
        Index { folder: folder.to_owned(), seen: Mutex::new(None) }
    }

    /// The newest content, read again only if another process changed it.
    pub(crate) fn read(&self) -> Result<Arc<Content>, Error> {
        let path = self.folder.join("index.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Arc::default()),
            Err(error) => return Err(error::io("open", &path)(error)),
        };
        let meta = file.metadata().map_err(error::io("look at", &path))?;
        let stamp = Stamp { inode: meta.ino(), size: meta.size(), mtime: (meta.mtime(), meta.mtime_nsec()) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, content)) = seen.as_ref()
            && *last == stamp
        {
            return Ok(content.clone());
        }
        if meta.size() > INDEX_MAX {
            return Err(Error::Limit { subject: path.display().to_string(), limit: INDEX_MAX, what: "bytes" });
        }
        let content: Arc<Content> =
            Arc::new(serde_json::from_reader(std::io::BufReader::new(file)).map_err(|error| Error::Io {
                operation: "read",
                path: path.display().to_string(),
                source: error.into(),
            })?);
        *seen = Some((stamp, content.clone()));
        Ok(content)
    }

    /// Changes it, alone among all processes. What `change` returned is durable when this returns.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Content) -> T) -> Result<T, Error> {
        let _alone = lock(&self.folder.join("index.lock"), FlockOperation::LockExclusive)?;
        let mut content = self.read()?.as_ref().clone();
        let result = change(&mut content);
        let path = self.folder.join("index.json");
        let fresh = self.folder.join("index.json.new");
        let written = write(&fresh, &content)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all());
        if let Err(error) = written {
            drop(std::fs::remove_file(&fresh));
            return Err(error::io("write", &path)(error));
        }
        Ok(result)
    }
}

fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let bytes = serde_json::to_vec(content).map_err(std::io::Error::from)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// Holds the lock until it is dropped; waits for others.
pub(crate) fn lock(path: &Path, operation: FlockOperation) -> Result<File, Error> {
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(error::io("open", path))?;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(error::os("lock", path)(errno)),
        }
    }
}
