//! Load: images from an archive, OCI layout or docker's, plain or compressed.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    Digest, Error, Image, Progress, Reference, Store,
    entry::{Entries, Kind},
    error,
    layer::{Expected, decompress},
    manifest::{self, DOCUMENT_MAX, Descriptor, Document, Index, Manifest, Platform},
    store::OnProgress,
    tree,
};

/// Largest archive that is spooled, bytes.
const ARCHIVE_MAX: u64 = 64 << 30;
/// Most members of an archive.
const MEMBERS_MAX: usize = 100_000;
/// Indexes inside indexes that are followed.
const DEPTH_MAX: u32 = 3;

impl Store {
    /// Loads all images of an archive file. Blocks.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(
        &self,
        path: impl AsRef<Path>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Vec<Image>, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(error::io("open", path))?;
        self.load_from(path.display().to_string(), file, progress)
    }

    /// As [`Store::load`], from a stream; `name` stands for it in errors. Blocks.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load_from(
        &self,
        name: String,
        reader: impl Read,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Vec<Image>, Error> {
        let spool = self.spool()?;
        let plain = decompress(&name, BufReader::with_capacity(128 * 1024, reader))?;
        let copied = std::io::copy(&mut plain.take(ARCHIVE_MAX + 1), &mut &spool).map_err(error::io("read", &name))?;
        if copied > ARCHIVE_MAX {
            return Err(Error::Limit { subject: name, limit: ARCHIVE_MAX, what: "bytes" });
        }
        let archive = Archive::index(name, spool)?;
        let _adding = self.adding()?;
        if archive.members.contains_key(Path::new("index.json")) {
            return self.load_layout(&archive, progress);
        }
        if archive.members.contains_key(Path::new("manifest.json")) {
            return self.load_docker(&archive, progress);
        }
        let why = "neither an OCI layout (index.json) nor a docker archive (manifest.json)".to_owned();
        Err(Error::Unsupported { subject: archive.name, why })
    }

    fn load_layout(&self, archive: &Archive, progress: OnProgress<'_>) -> Result<Vec<Image>, Error> {
        let bytes = archive.small(Path::new("index.json"))?;
        let Document::Index(index) = Document::parse(&archive.name, &bytes)? else {
            let why = "its index.json is no index".to_owned();
            return Err(Error::Unsupported { subject: archive.name.clone(), why });
        };
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let named = names(descriptor)?;
            let Some((manifest, digest)) = archive.manifest(descriptor, 0)? else { continue };
            let mut references: Vec<Reference> = named.clone();
            references.extend(named.iter().map(|name| name.with_digest(descriptor.digest.clone())));
            let source = |layer: &Descriptor| archive.blob(&layer.digest);
            images.push(self.add(archive, &manifest, &digest, &references, &source, progress)?);
        }
        if images.is_empty() {
            let platform = Platform::wanted(None);
            let why = format!("it holds no image for {platform}");
            return Err(Error::Unsupported { subject: archive.name.clone(), why });
        }
        Ok(images)
    }

    fn load_docker(&self, archive: &Archive, progress: OnProgress<'_>) -> Result<Vec<Image>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Saved {
            config: PathBuf,
            repo_tags: Option<Vec<String>>,
            layers: Vec<PathBuf>,
        }
        let bytes = archive.small(Path::new("manifest.json"))?;
        let saved: Vec<Saved> = serde_json::from_slice(&bytes)
            .map_err(|error| archive.refuse("manifest.json", format!("not a docker manifest: {error}")))?;
        let mut images = Vec::new();
        for saved in saved {
            let config = archive.small(&saved.config)?;
            let (manifest, bytes) = described(archive, &config, &saved.layers)?;
            let digest = Digest::of(&bytes);
            let tags = saved.repo_tags.unwrap_or_default();
            let references: Vec<Reference> = tags.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
            let paths: HashMap<&Digest, &PathBuf> =
                manifest.layers.iter().map(|layer| &layer.digest).zip(&saved.layers).collect();
            let source = |layer: &Descriptor| archive.find(paths[&layer.digest]);
            let image =
                self.add_configured(archive, &manifest, &config, &digest, &references, &source, false, progress)?;
            images.push(image);
        }
        Ok(images)
    }

    fn add(
        &self,
        archive: &Archive,
        manifest: &Manifest,
        digest: &Digest,
        references: &[Reference],
        source: &dyn Fn(&Descriptor) -> Result<Member, Error>,
        progress: OnProgress<'_>,
    ) -> Result<Image, Error> {
        let config = archive.verified(&manifest.config, "configuration")?;
        self.add_configured(archive, manifest, &config, digest, references, source, true, progress)
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of two callers")]
    fn add_configured(
        &self,
        archive: &Archive,
        manifest: &Manifest,
        config: &[u8],
        digest: &Digest,
        references: &[Reference],
        source: &dyn Fn(&Descriptor) -> Result<Member, Error>,
        named_by_blob: bool,
        progress: OnProgress<'_>,
    ) -> Result<Image, Error> {
        let (config, diff_ids) = manifest::configuration(&archive.name, config, manifest)?;
        let bytes = manifest.layers.iter().map(|layer| layer.size).sum();
        progress(Progress::Resolved { digest: digest.clone(), layers: diff_ids.len(), bytes });
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            if let Some(turn) = self.inner.layers.turn(diff_id)? {
                let expected = Expected {
                    subject: format!("layer {} of {}", layer.digest, archive.name),
                    blob: named_by_blob.then(|| layer.digest.clone()),
                    diff_id: diff_id.clone(),
                };
                let body = archive.open(source(layer)?);
                self.inner.layers.unpack(&turn, &expected, Reporting { body, layer, done: 0, progress })?;
            }
            progress(Progress::Unpacked { digest: layer.digest.clone() });
        }
        self.record(digest, manifest.config.digest.clone(), config, diff_ids, references)
    }
}

/// Docker archives have no manifest: one is made, so that equal images get equal digests.
fn described(archive: &Archive, config: &[u8], layers: &[PathBuf]) -> Result<(Manifest, Vec<u8>), Error> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<Digest>,
    }
    let parsed: Config = serde_json::from_slice(config)
        .map_err(|error| archive.refuse("manifest.json", format!("its configuration: {error}")))?;
    if parsed.rootfs.diff_ids.len() != layers.len() {
        return Err(archive.refuse("manifest.json", "layers and diff_ids do not match"));
    }
    let mut descriptors = Vec::new();
    for (path, digest) in layers.iter().zip(parsed.rootfs.diff_ids) {
        let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
        let size = archive.find(path)?.size;
        descriptors.push(Descriptor { media_type, digest, size, platform: None, annotations: None });
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some("application/vnd.oci.image.manifest.v1+json".into()),
        config: Descriptor {
            media_type: "application/vnd.oci.image.config.v1+json".into(),
            digest: Digest::of(config),
            size: config.len() as u64,
            platform: None,
            annotations: None,
        },
        layers: descriptors,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|error| archive.refuse("manifest.json", error.to_string()))?;
    Ok((manifest, bytes))
}

/// Where a member's body is.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    size: u64,
}

/// A tar file and where its members are.
struct Archive {
    name: String,
    file: File,
    members: HashMap<PathBuf, Member>,
    /// Older docker archives name a layer that two images share once, and link to it.
    links: HashMap<PathBuf, PathBuf>,
}

impl Archive {
    fn index(name: String, mut file: File) -> Result<Archive, Error> {
        file.seek(SeekFrom::Start(0)).map_err(error::io("read", &name))?;
        let reader = file.try_clone().map_err(error::io("read", &name))?;
        let mut archive = Archive { name, file, members: HashMap::new(), links: HashMap::new() };
        let mut entries = Entries::new(BufReader::with_capacity(128 * 1024, reader));
        while let Some(entry) = entries.next().map_err(|error| archive.refuse("", error.to_string()))? {
            let display = entry.path.display().to_string();
            let path = tree::clean(&entry.path).map_err(|why| archive.refuse(&display, why))?;
            match entry.kind {
                Kind::File => {
                    archive.members.insert(path, Member { offset: entries.offset(), size: entry.size });
                }
                Kind::Symlink | Kind::Hardlink => {
                    let base = if entry.kind == Kind::Symlink { path.parent() } else { None };
                    let target = normal(base.unwrap_or(Path::new("")), &entry.link);
                    archive.links.insert(path, target);
                }
                Kind::Directory | Kind::Character(..) | Kind::Block(..) | Kind::Fifo => {}
            }
            if archive.members.len() > MEMBERS_MAX {
                return Err(Error::Limit { subject: archive.name, limit: MEMBERS_MAX as u64, what: "members" });
            }
        }
        Ok(archive)
    }

    fn refuse(&self, entry: &str, why: impl Into<String>) -> Error {
        Error::Archive { archive: self.name.clone(), entry: entry.to_owned(), why: why.into() }
    }

    fn find(&self, path: &Path) -> Result<Member, Error> {
        let cleaned = normal(Path::new(""), path);
        let target = self.links.get(&cleaned).unwrap_or(&cleaned);
        let found = self.members.get(target).copied();
        found.ok_or_else(|| self.refuse(&path.display().to_string(), "it is named but not in the archive"))
    }

    fn blob(&self, digest: &Digest) -> Result<Member, Error> {
        self.find(&Path::new("blobs/sha256").join(digest.hex()))
    }

    fn open(&self, member: Member) -> Body<'_> {
        Body { file: &self.file, at: member.offset, left: member.size }
    }

    fn read(&self, path: &str, member: Member) -> Result<Vec<u8>, Error> {
        if member.size > DOCUMENT_MAX {
            let subject = format!("{path} of {}", self.name);
            return Err(Error::Limit { subject, limit: DOCUMENT_MAX, what: "bytes" });
        }
        let mut bytes = Vec::new();
        self.open(member).read_to_end(&mut bytes).map_err(error::io("read", &self.name))?;
        Ok(bytes)
    }

    fn small(&self, path: &Path) -> Result<Vec<u8>, Error> {
        self.read(&path.display().to_string(), self.find(path)?)
    }

    fn verified(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
        let bytes = self.read(&descriptor.digest.to_string(), self.blob(&descriptor.digest)?)?;
        let actual = Digest::of(&bytes);
        if actual == descriptor.digest {
            return Ok(bytes);
        }
        let (expected, actual) = (descriptor.digest.to_string(), actual.to_string());
        Err(Error::Digest { subject: format!("{what} of {}", self.name), expected, actual })
    }

    /// The manifest that a descriptor leads to on this platform; none if it is for others only.
    fn manifest(&self, descriptor: &Descriptor, depth: u32) -> Result<Option<(Manifest, Digest)>, Error> {
        let wanted = Platform::wanted(None);
        let fits = |descriptor: &Descriptor| {
            let single = Index { schema_version: 2, manifests: vec![descriptor.clone()] };
            manifest::choose(&self.name, &single, &wanted).is_ok()
        };
        if !fits(descriptor) {
            return Ok(None);
        }
        let bytes = self.verified(descriptor, "manifest")?;
        match Document::parse(&self.name, &bytes)? {
            Document::Manifest(manifest) => Ok(Some((manifest, descriptor.digest.clone()))),
            Document::Index(_) if depth >= DEPTH_MAX => Err(self.refuse("index.json", "indexes are nested too deeply")),
            Document::Index(index) => match manifest::choose(&self.name, &index, &wanted) {
                Ok(chosen) => self.manifest(chosen, depth + 1),
                Err(_) => Ok(None),
            },
        }
    }
}

/// Names by annotation: containerd's and docker's full name, or OCI's, which skopeo fills with a tag or a full name.
fn names(descriptor: &Descriptor) -> Result<Vec<Reference>, Error> {
    let Some(annotations) = &descriptor.annotations else { return Ok(Vec::new()) };
    let full = annotations.get("io.containerd.image.name");
    let name = full.or_else(|| annotations.get("org.opencontainers.image.ref.name"));
    match name {
        // A bare tag names nothing.
        Some(name) if full.is_none() && !name.contains(['/', ':']) => Ok(Vec::new()),
        Some(name) => Ok(vec![name.parse()?]),
        None => Ok(Vec::new()),
    }
}

/// A link's or name's target as a path from the archive's root.
fn normal(base: &Path, path: &Path) -> PathBuf {
    use std::path::Component;
    let mut result = base.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result
}

struct Body<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

struct Reporting<'a, R> {
    body: R,
    layer: &'a Descriptor,
    done: u64,
    progress: OnProgress<'a>,
}

impl<R: Read> Read for Reporting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.body.read(buffer)?;
        self.done += read as u64;
        let (digest, total) = (self.layer.digest.clone(), self.layer.size);
        (self.progress)(Progress::Layer { digest, done: self.done, total });
        Ok(read)
    }
}
