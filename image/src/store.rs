//! Store: the images of a machine, in one folder.
//!
//! ```text
//! DIR/index.json    references and images      DIR/layers/HEX   unpacked layers, by diff id
//! DIR/locks/HEX     who unpacks which layer    DIR/tmp/         half done; swept
//! ```

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;

use crate::{
    Digest, Error, Limits, Reference, error,
    index::{Content, Index, Record, lock},
    layer::Layers,
};

/// An image that is here, unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    /// Canonical names, `docker.io/library/x:latest` and `…@sha256:…`.
    pub references: Vec<String>,
    /// Of its manifest.
    pub digest: Digest,
    /// Of its configuration.
    pub id: Digest,
    /// Unpacked, bytes.
    pub size: u64,
    /// When it was built, RFC 3339, as it says itself.
    pub created: Option<String>,
    /// What to run and how.
    pub config: ImageConfiguration,
    /// Folders of its layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// How far a pull or load is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The manifest is known.
    Resolved {
        /// Of the manifest.
        digest: Digest,
        /// How many layers it has.
        layers: usize,
        /// Compressed bytes of all layers.
        bytes: u64,
    },
    /// Bytes of a layer have come in.
    Layer {
        /// Which, as named in the manifest.
        digest: Digest,
        /// Compressed bytes so far.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// A layer is unpacked, or was there before.
    Unpacked {
        /// Which, as named in the manifest.
        digest: Digest,
    },
}

/// Called from any thread; must not block.
pub(crate) type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// A folder of images. Cheap to clone; may be opened by several processes at once.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    dir: PathBuf,
    pub(crate) layers: Layers,
    index: Index,
}

impl Store {
    /// Opens the folder, makes it if missing, and sweeps what a crash left.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, Error> {
        Store::with_limits(dir, Limits::default())
    }

    /// As [`Store::open`], with other limits for layers.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn with_limits(dir: impl AsRef<Path>, limits: Limits) -> Result<Store, Error> {
        let dir = std::path::absolute(&dir).map_err(error::io("find", &dir))?;
        for folder in ["", "layers", "locks", "sizes", "tmp"] {
            let path = dir.join(folder);
            std::fs::create_dir_all(&path).map_err(error::io("make", &path))?;
        }
        let layers = Layers::new(&dir, limits);
        let index = Index::new(&dir);
        let store = Store { inner: Arc::new(Inner { dir, layers, index }) };
        store.sweep()?;
        Ok(store)
    }

    /// The image of this name; `name@digest` finds a manifest or the list that it was chosen from; a bare
    /// `sha256:…` finds by id or digest.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reference`], or when the index cannot be read.
    pub fn get(&self, reference: &str) -> Result<Image, Error> {
        let content = self.inner.index.read()?;
        let not_found = || Error::NotFound { reference: reference.to_owned() };
        if let Ok(digest) = reference.parse::<Digest>() {
            let by_id = || content.images.iter().find(|(_, record)| record.id == digest).map(|(digest, _)| digest);
            let key = content.images.get_key_value(&digest).map(|(key, _)| key).or_else(by_id);
            return key.and_then(|key| self.image(&content, key)).ok_or_else(not_found);
        }
        let canonical = reference.parse::<Reference>()?;
        let key = content.references.get(&canonical.to_string()).ok_or_else(not_found)?;
        self.image(&content, key).ok_or_else(not_found)
    }

    /// All images, by digest.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let content = self.inner.index.read()?;
        Ok(content.images.keys().filter_map(|digest| self.image(&content, digest)).collect())
    }

    /// Takes the name away; with its last name an image goes, with all layers that no other image uses. The caller
    /// makes sure that no container runs on them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Reference`], or when the store cannot be written.
    pub fn remove(&self, reference: &str) -> Result<(), Error> {
        let image = self.get(reference)?;
        let canonical = reference.parse::<Reference>().map(|reference| reference.to_string());
        self.inner.index.update(|content| {
            match &canonical {
                Ok(name) => drop(content.references.remove(name)),
                Err(_) => content.references.retain(|_, digest| *digest != image.digest),
            }
            // Names by digest came with one by tag; they do not keep an image alone.
            let kept = content.references.iter().any(|(name, digest)| *digest == image.digest && !name.contains('@'));
            if !kept {
                content.references.retain(|_, digest| *digest != image.digest);
                content.images.remove(&image.digest);
            }
        })?;
        self.sweep()
    }

    /// Removes layers of no image and half-done ones, unless a pull or load is on somewhere: then a later sweep does.
    fn sweep(&self) -> Result<(), Error> {
        let path = self.inner.dir.join("sweep.lock");
        let _alone = match lock(&path, FlockOperation::NonBlockingLockExclusive) {
            Ok(file) => file,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let content = self.inner.index.read()?;
        let used: HashSet<&str> =
            content.images.values().flat_map(|record| &record.layers).map(|digest| digest.hex()).collect();
        self.inner.layers.keep(&|name| used.contains(name))
    }

    /// Held while layers are added that the index does not name yet.
    pub(crate) fn adding(&self) -> Result<std::fs::File, Error> {
        lock(&self.inner.dir.join("sweep.lock"), FlockOperation::LockShared)
    }

    /// A file without a name, for what must be kept for a while.
    pub(crate) fn spool(&self) -> Result<std::fs::File, Error> {
        use rustix::fs::{Mode, OFlags};
        let path = self.inner.dir.join("tmp");
        rustix::fs::open(&path, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
            .map(std::fs::File::from)
            .map_err(error::os("make a temporary file in", &path))
    }

    /// Names an image whose layers are all there.
    pub(crate) fn record(
        &self,
        digest: &Digest,
        id: Digest,
        config: ImageConfiguration,
        layers: Vec<Digest>,
        references: &[Reference],
    ) -> Result<Image, Error> {
        let size = layers.iter().map(|layer| self.inner.layers.size(layer)).sum();
        let record = Record { id, size, layers, config };
        self.inner.index.update(|content| {
            content.images.insert(digest.clone(), record);
            for reference in references {
                let names = [reference.to_string(), reference.with_digest(digest.clone()).to_string()];
                for name in names {
                    content.references.insert(name, digest.clone());
                }
            }
            // An image whose tag has moved on stays as long as a name by digest does; what lost all names goes.
            let named: HashSet<&Digest> = content.references.values().collect();
            let lost: Vec<Digest> =
                content.images.keys().filter(|known| !named.contains(known) && *known != digest).cloned().collect();
            for digest in lost {
                content.images.remove(&digest);
            }
        })?;
        let content = self.inner.index.read()?;
        self.image(&content, digest).ok_or_else(|| Error::NotFound { reference: digest.to_string() })
    }

    fn image(&self, content: &Content, digest: &Digest) -> Option<Image> {
        let record = content.images.get(digest)?;
        let references = content.references.iter().filter(|(_, named)| *named == digest);
        Some(Image {
            references: references.map(|(name, _)| name.clone()).collect(),
            digest: digest.clone(),
            id: record.id.clone(),
            size: record.size,
            created: record.config.created().clone(),
            config: record.config.clone(),
            layers: record.layers.iter().map(|layer| self.inner.layers.path(layer)).collect(),
        })
    }
}
