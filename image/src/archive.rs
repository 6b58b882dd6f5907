//! Archive: an image of one layer, packed as an OCI layout in a tar file.
//!
//! Packed twice from the same files it has the same digest: no times, no owners.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use oci_spec::image::{Arch, ConfigBuilder, ImageConfigurationBuilder, Os, RootFsBuilder};

use crate::{
    Digest, Error, Reference, error,
    manifest::{Descriptor, Index, Manifest, Platform},
};

/// What a file in an image holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file of the machine holds.
    File(PathBuf),
    /// Nothing: it is a folder.
    Folder,
    /// Nothing: it is a symbolic link to this.
    Link(PathBuf),
}

/// A file in an image.
#[derive(Clone, Debug)]
pub struct File {
    /// Where, from the root of the image.
    pub path: PathBuf,
    /// Permissions, `0o755`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it holds.
    pub content: Content,
}

impl File {
    /// A file of root's.
    pub fn new(path: impl Into<PathBuf>, mode: u32, content: Content) -> File {
        File { path: path.into(), mode, uid: 0, gid: 0, content }
    }
}

/// How an image is to be run; see the OCI image-spec's `config.md`.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What runs, before any arguments.
    pub entrypoint: Vec<String>,
    /// Arguments when the user gives none.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Folder it starts in.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
}

/// Writes an image of these files under this name.
///
/// # Errors
/// [`Error::Reference`], a file that cannot be read, an output that cannot be written.
pub fn write(output: impl Write, reference: &str, files: &[File], run: &Run) -> Result<(), Error> {
    let reference: Reference = reference.parse()?;
    let layer = layer(files)?;
    let config = config(run, &Digest::of(&layer))?;
    let described = |media_type: &str, bytes: &[u8]| Descriptor {
        media_type: format!("application/vnd.oci.image.{media_type}"),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: None,
    };
    let manifest = json(&Manifest {
        schema_version: 2,
        media_type: Some("application/vnd.oci.image.manifest.v1+json".into()),
        config: described("config.v1+json", &config),
        layers: vec![described("layer.v1.tar", &layer)],
    })?;
    let mut entry = described("manifest.v1+json", &manifest);
    entry.platform = Some(Platform::wanted(None));
    let tag = reference.tag().unwrap_or("latest").to_owned();
    entry.annotations = Some(
        [
            ("io.containerd.image.name".to_owned(), reference.to_string()),
            ("org.opencontainers.image.ref.name".to_owned(), tag),
        ]
        .into(),
    );
    let index = json(&Index { schema_version: 2, manifests: vec![entry] })?;
    let mut tar = tar::Builder::new(output);
    let written = (|| {
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        append(&mut tar, &File::new("oci-layout", 0o644, Content::Folder), &layout[..], tar::EntryType::Regular)?;
        append(&mut tar, &File::new("index.json", 0o644, Content::Folder), &index, tar::EntryType::Regular)?;
        for blob in [&layer, &config, &manifest] {
            let path = format!("blobs/sha256/{}", Digest::of(blob).hex());
            append(&mut tar, &File::new(path, 0o644, Content::Folder), blob, tar::EntryType::Regular)?;
        }
        tar.finish()
    })();
    written.map_err(error::io("write the archive of", reference.to_string()))
}

fn layer(files: &[File]) -> Result<Vec<u8>, Error> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let fail = || error::io("pack", &file.path);
        let added = match &file.content {
            Content::Bytes(bytes) => append(&mut tar, file, bytes, tar::EntryType::Regular),
            Content::File(source) => {
                let bytes = std::fs::read(source).map_err(error::io("read", source))?;
                append(&mut tar, file, &bytes, tar::EntryType::Regular)
            }
            Content::Folder => append(&mut tar, file, &[], tar::EntryType::Directory),
            Content::Link(target) => {
                let mut header = header(file, 0, tar::EntryType::Symlink);
                tar.append_link(&mut header, &file.path, target)
            }
        };
        added.map_err(fail())?;
    }
    tar.into_inner().map_err(error::io("pack", "layer"))
}

fn header(file: &File, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(file.mode);
    header.set_uid(file.uid.into());
    header.set_gid(file.gid.into());
    header.set_size(size);
    header
}

fn append(tar: &mut tar::Builder<impl Write>, file: &File, body: &[u8], kind: tar::EntryType) -> io::Result<()> {
    let mut header = header(file, body.len() as u64, kind);
    // Names are relative in archives; an absolute one is meant from the image's root.
    let path = file.path.strip_prefix("/").unwrap_or(&file.path);
    tar.append_data(&mut header, path, body)
}

fn config(run: &Run, diff_id: &Digest) -> Result<Vec<u8>, Error> {
    let wanted = Platform::wanted(None);
    let mut config = ConfigBuilder::default()
        .entrypoint(run.entrypoint.clone())
        .cmd(run.cmd.clone())
        .env(run.env.clone())
        .exposed_ports(run.exposed_ports.clone());
    if let Some(folder) = &run.working_dir {
        config = config.working_dir(folder.clone());
    }
    if let Some(user) = &run.user {
        config = config.user(user.clone());
    }
    let unsupported =
        |error: oci_spec::OciSpecError| Error::Unsupported { subject: "configuration".into(), why: error.to_string() };
    let rootfs = RootFsBuilder::default().diff_ids(vec![diff_id.to_string()]).build().map_err(unsupported)?;
    let image = ImageConfigurationBuilder::default()
        .architecture(Arch::from(wanted.architecture.as_str()))
        .os(Os::from(wanted.os.as_str()))
        .config(config.build().map_err(unsupported)?)
        .rootfs(rootfs)
        .build()
        .map_err(unsupported)?;
    json(&image)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Unsupported { subject: "document".into(), why: error.to_string() })
}
