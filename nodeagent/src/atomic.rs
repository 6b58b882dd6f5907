//! A folder whose files change all at once, as upstream's `AtomicWriter` makes it: a container sees all old or all new.
//!
//! ```text
//! volume/..2026-11-22_16_00_00.7/key   the files
//! volume/..data -> ..2026-11-22_16_00_00.7
//! volume/key -> ..data/key
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// A file's content and rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, when that is not root.
    pub uid: Option<u32>,
}

/// Files by their path relative to the volume.
pub type Files = BTreeMap<String, File>;

/// Why a volume cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path that leaves the volume, or that would hide its own links.
    #[error("invalid path {path:?} in volume")]
    Path {
        /// As asked for.
        path: String,
    },
    /// The disk failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}

/// Makes a volume show exactly these files. Returns whether anything changed. `gid` owns the files, when given.
pub fn write(volume: &Path, files: &Files, gid: Option<u32>, stamp: &str) -> Result<bool, Error> {
    files.keys().try_for_each(|path| valid(path))?;
    fs::create_dir_all(volume).map_err(failed("make", volume))?;
    let current = fs::read_link(volume.join(DATA)).ok();
    if let Some(current) = &current
        && same(&volume.join(current), files)
    {
        return Ok(false);
    }
    let name = fresh_name(volume, stamp);
    let next = volume.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&next).map_err(failed("make", &next))?;
    set_mode(&next, 0o755)?;
    for (path, file) in files {
        write_file(&next, path, file, gid)?;
    }
    let link = volume.join(NEXT);
    remove_if_there(&link)?;
    symlink(&name, &link).map_err(failed("link", &link))?;
    fs::rename(&link, volume.join(DATA)).map_err(failed("rename", &link))?;
    link_names(volume, files)?;
    if let Some(current) = current {
        let old = volume.join(current);
        fs::remove_dir_all(&old).or_else(ignore_missing).map_err(failed("remove", &old))?;
    }
    Ok(true)
}

fn fresh_name(volume: &Path, stamp: &str) -> OsString {
    let mut counter = 0u32;
    loop {
        let name = OsString::from(format!("..{stamp}.{counter}"));
        if fs::symlink_metadata(volume.join(&name)).is_err() {
            return name;
        }
        counter += 1;
    }
}

/// Relative, no `..`, and no first part that could be taken for our own links.
fn valid(path: &str) -> Result<(), Error> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || path.len() > 4096 || path.contains('\0') || !plain || path.starts_with("..") {
        return Err(Error::Path { path: path.into() });
    }
    Ok(())
}

fn same(folder: &Path, files: &Files) -> bool {
    let as_is = |(path, file): (&String, &File)| {
        let full = folder.join(path);
        let mode = fs::metadata(&full).map(|m| m.permissions().mode() & 0o7777);
        mode.is_ok_and(|m| m & 0o700 == file.mode & 0o700) && fs::read(&full).is_ok_and(|bytes| bytes == file.bytes)
    };
    files.iter().all(as_is) && count(folder) == files.len()
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 }).sum()
}

fn write_file(root: &Path, path: &str, file: &File, gid: Option<u32>) -> Result<(), Error> {
    let full = root.join(path);
    if let Some(parent) = full.parent().filter(|p| *p != root) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed("make", parent))?;
    }
    let mut out =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&full).map_err(failed("make", &full))?;
    out.write_all(&file.bytes).map_err(failed("write", &full))?;
    if file.uid.is_some() || gid.is_some() {
        std::os::unix::fs::fchown(&out, file.uid, gid).map_err(failed("chown", &full))?;
    }
    // the group that the pod's containers share may read (upstream's SetVolumeOwnership)
    let mode = if gid.is_some() { file.mode | 0o440 } else { file.mode };
    set_mode(&full, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("chmod", path))
}

fn link_names(volume: &Path, files: &Files) -> Result<(), Error> {
    let first = |path: &String| Path::new(path).components().next().map(|c| c.as_os_str().to_owned());
    let wanted: BTreeSet<_> = files.keys().filter_map(first).collect();
    for name in &wanted {
        let link = volume.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(failed("link", &link))?;
        }
    }
    for entry in fs::read_dir(volume).map_err(failed("read", volume))?.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"..") && !wanted.contains(&name) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).or_else(ignore_missing).map_err(failed("remove", path))
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.into(), mode: 0o644, uid: None };
        list.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn files_change_all_at_once_and_stale_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name));
        assert!(write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, "t1").unwrap());
        assert_eq!((read("a").unwrap(), read("sub/b").unwrap()), ("1".into(), "2".into()));
        let before = fs::read_link(dir.path().join(DATA)).unwrap();
        assert!(!write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, "t2").unwrap(), "nothing changed");
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), before);
        assert!(write(dir.path(), &files(&[("a", "3"), ("c", "4")]), None, "t1").unwrap());
        assert_eq!((read("a").unwrap(), read("c").unwrap()), ("3".into(), "4".into()));
        assert!(read("sub/b").is_err() && !dir.path().join(before).exists());
        assert_eq!(fs::read_link(dir.path().join("c")).unwrap(), Path::new("..data/c"));
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/../../x", "..data", "", "..x"] {
            let error = write(dir.path(), &files(&[(path, "evil")]), None, "t").unwrap_err();
            assert!(matches!(error, Error::Path { .. }), "{path:?}: {error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
