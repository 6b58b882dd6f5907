//! A part of a volume shown in a container (`subPath`). The volume belongs to containers: its links are not trusted.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

/// Why a part of a volume cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An absolute path, or one with `..`.
    #[error("subPath {path:?} must be relative and must not contain '..'")]
    Path {
        /// As asked for.
        path: String,
    },
    /// The system refused, because of a link that leaves the volume say.
    #[error("cannot {operation} subPath {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// As asked for.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Opens `path` below `volume`, making folders that are missing, and binds what it found to `target`, a place that no
/// container can change. Returns `target`. Links are followed inside the volume only.
pub fn bind(volume: &Path, path: &str, target: &Path) -> Result<PathBuf, Error> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let plain = parts.iter().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain || path.contains('\0') {
        return Err(Error::Path { path: path.into() });
    }
    let failed = |operation: &'static str| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io { operation, path, source }
    };
    let handle = open(volume, path, &parts).map_err(failed("open"))?;
    let is_folder = fstat(&handle)
        .map(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
        .map_err(|e| failed("look at")(e.into()))?;
    clear(target).map_err(failed("clear the place of"))?;
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed("make a place for"))?;
    }
    if is_folder { fs::create_dir(target) } else { fs::File::create_new(target).map(drop) }
        .map_err(failed("make a place for"))?;
    let source = format!("/proc/self/fd/{}", handle.as_raw_fd());
    mount_bind(source, target).map_err(|e| failed("bind")(e.into()))?;
    Ok(target.to_owned())
}

fn open(volume: &Path, path: &str, parts: &[Component<'_>]) -> io::Result<OwnedFd> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root = openat(CWD, volume, folder, Mode::empty())?;
    match openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(handle) => return Ok(handle),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut at = openat(&root, ".", folder, Mode::empty())?;
    let mut so_far = PathBuf::new();
    for part in parts {
        so_far.push(part);
        at = match openat2(&root, &so_far, folder, Mode::empty(), resolve) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o750))?;
                openat2(&root, &so_far, folder, Mode::empty(), resolve)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at)
}

/// Takes away what an earlier start of the container left there.
fn clear(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let gone = match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) => Err(error),
    };
    gone.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}
