//! Network namespaces of pods: each is a file, a bind mount of nsfs named by the pod's uid.
//!
//! A namespace is entered only by throw-away threads: a runtime's thread that changed its namespace would take every later
//! task with it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};
use tokio::sync::oneshot;

/// Why a namespace could not be made, entered or dropped.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} network namespace {path}")]
pub struct Error {
    /// What was tried.
    pub operation: &'static str,
    /// The namespace's file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Runs `work` on a thread of its own that ends with it, and waits.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        // the receiver is gone only if the caller was cancelled
        drop(done.send(work()));
    })?;
    result.await.map_err(|_| io::Error::other("the thread panicked"))
}

/// Moves the calling thread, which must be a throw-away one, into a new namespace and pins that to `path`.
pub fn create(path: &Path) -> Result<File, Error> {
    let failed = |operation| move |source| Error { operation, path: path.to_owned(), source };
    File::create_new(path).map_err(failed("name"))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("create")(errno.into()))?;
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| failed("pin")(errno.into()))?;
    File::open(own).map_err(failed("open"))
}

/// Whether `path` is a pinned namespace, and not the empty file that a reboot leaves.
pub fn exists(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Drops the namespace. Its interfaces go with it, unless a process still lives there. No error if it does not exist.
pub fn remove(path: &Path) -> Result<(), Error> {
    let failed = |operation| move |source| Error { operation, path: path.to_owned(), source };
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(failed("unpin")(errno.into())),
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove")(error)),
    }
}

/// The uids of all namespace files in `directory`.
pub fn list(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error { operation: "list", path: directory.to_owned(), source };
    let mut uids = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        uids.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(uids)
}
