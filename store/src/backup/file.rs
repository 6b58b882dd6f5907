//! A backup in a file: there whole, or not at all.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::AsyncWriteExt;

use super::{Error, Head, Item, Reader};

/// How much of a file is read at once, bytes.
const CHUNK: usize = 256 << 10;

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// What the backup says first; none before that has arrived.
    pub head: Option<Head>,
    /// Entries written.
    pub entries: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// Writes a stream to `path`, checking it on the way: to a file beside it (mode 0600, as Secrets and keys are in it), which
/// gets its name when it is whole and durable. A file of that name is replaced. `progress` is told how far it is.
///
/// # Errors
/// When the stream breaks off, or is no whole backup, or the file cannot be written. Then nothing is left.
pub async fn save<E>(
    path: &Path,
    stream: impl Stream<Item = Result<Bytes, E>>,
    mut progress: impl FnMut(Written),
) -> Result<Written, Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let partial = beside(path);
    let saved = write(&partial, stream, &mut progress).await;
    let written = match saved {
        Ok(written) => written,
        Err(error) => {
            if let Err(error) = tokio::fs::remove_file(&partial).await {
                tracing::debug!(%error, path = %partial.display(), "a file that could not be made was not removed");
            }
            return Err(error);
        }
    };
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    tokio::fs::rename(&partial, path).await.map_err(failed("name"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = tokio::fs::File::open(dir).await.map_err(failed("open the folder of"))?;
    dir.sync_all().await.map_err(failed("make durable"))?;
    Ok(written)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

async fn write<E>(
    path: &Path,
    stream: impl Stream<Item = Result<Bytes, E>>,
    progress: &mut impl FnMut(Written),
) -> Result<Written, Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    let mut options = tokio::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).await.map_err(failed("create"))?;
    let mut stream = std::pin::pin!(stream);
    let (mut reader, mut written) = (Reader::new(), Written::default());
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| Error::Stream(Box::new(error)))?;
        reader.feed(&bytes);
        while reader.take_item()?.is_some() {}
        file.write_all(&bytes).await.map_err(failed("write"))?;
        written = Written { head: reader.head(), entries: reader.entries, bytes: written.bytes + bytes.len() as u64 };
        progress(written);
    }
    reader.finish()?;
    file.sync_all().await.map_err(failed("write"))?;
    Ok(written)
}

/// The items of a backup in a file, in order. Ends with an error when it is not whole.
pub struct Items {
    file: std::fs::File,
    path: PathBuf,
    reader: Reader,
    done: bool,
}

impl Items {
    /// Opens a file. Reading it blocks.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { operation: "open", path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), reader: Reader::new(), done: false })
    }

    /// What the backup says first; known with the first item.
    pub fn head(&self) -> Option<Head> {
        self.reader.head()
    }

    fn step(&mut self) -> Result<Option<Item>, Error> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(item) = self.reader.take_item()? {
                return Ok(Some(item));
            }
            match std::io::Read::read(&mut self.file, &mut chunk) {
                Ok(0) => return self.reader.end().map(|_| None),
                Ok(bytes) => self.reader.feed(&chunk[..bytes]),
                Err(source) if source.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::File { operation: "read", path: self.path.clone(), source }),
            }
        }
    }
}

impl Iterator for Items {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}
