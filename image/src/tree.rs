//! Tree: a folder whose content is decided by strangers.
//!
//! Every access is relative to a file descriptor and resolved by the kernel inside the tree (`openat2` with
//! `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`): an absolute link or `..` ends inside the tree, whatever else changes it
//! at the same time. Only names without a slash are ever created or removed, in folders that are open.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Links followed when folders are made behind dangling ones (as the kernel's `MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;
/// Longest path of an entry, bytes (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// An open folder that is the root of all paths given to it.
pub struct Tree {
    root: OwnedFd,
    /// The folder opened last, as neighbours follow each other in archives.
    last: Option<(PathBuf, OwnedFd)>,
}

/// A place in a tree: an open folder and a name in it.
pub struct Place<'a> {
    /// The folder.
    pub folder: BorrowedFd<'a>,
    /// The name, without a slash.
    pub name: OsString,
}

impl Tree {
    /// A tree whose root is this folder.
    pub fn new(root: OwnedFd) -> Self {
        Tree { root, last: None }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Where an entry goes; folders on the way are made. `path` must be [`clean`].
    ///
    /// # Errors
    /// As [`Tree::ensure`]; `EINVAL` for the root itself.
    pub fn place(&mut self, path: &Path) -> Result<Place<'_>, Errno> {
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        if self.last.as_ref().is_none_or(|(last, _)| *last != parent) {
            let folder = self.ensure(&parent)?;
            self.last = Some((parent, folder));
        }
        let folder = self.last.as_ref().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd());
        Ok(Place { folder, name })
    }

    /// Forgets open folders: called when one may have been replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Opens a folder, inside the tree whatever links say.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        resolve(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a folder and makes it and its parents if missing, also behind links that dangle. `path` must be [`clean`].
    ///
    /// # Errors
    /// `ENOTDIR` if something else is in the way, `ELOOP`, or as mkdirat(2).
    pub fn ensure(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.ensure_behind(path, 0)
    }

    fn ensure_behind(&self, path: &Path, links: u32) -> Result<OwnedFd, Errno> {
        match self.folder(path) {
            Err(Errno::NOENT) => {}
            done => return done,
        }
        if links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = self.ensure_behind(parent_path, links)?;
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => return self.folder(path),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        // Something is there which is no folder: follow a link by hand, one step, inside the tree.
        let target = fs::readlinkat(&parent, name, Vec::new())?;
        let target = Path::new(OsStr::from_bytes(target.as_bytes()));
        self.ensure_behind(&lexical(parent_path, target), links + 1)
    }
}

/// Opens a path of a tree, resolved inside it.
///
/// # Errors
/// As openat2(2).
pub fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: the kernel could not rule out a race with a rename (openat2(2)); another try is what it asks for.
        match fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), inside) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Where a link in `folder` points, as a path from the root without `..`.
fn lexical(folder: &Path, target: &Path) -> PathBuf {
    let mut path = if target.is_absolute() { PathBuf::new() } else { folder.to_owned() };
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// The path of an entry without `/` before and `.` within.
///
/// # Errors
/// `..`, zero bytes and oversized names are refused, with the reason.
pub fn clean(path: &Path) -> Result<PathBuf, &'static str> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > PATH_MAX {
        return Err("its name is longer than 4096 bytes");
    }
    if bytes.contains(&0) {
        return Err("its name holds a zero byte");
    }
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => return Err("its name leads out of the image with '..'"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(cleaned)
}

/// Removes whatever has this name, with all below it. Nothing there is fine.
///
/// # Errors
/// As unlinkat(2) and openat(2).
pub fn remove(folder: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    // Depth first, with an explicit stack: a hostile tree may be deeper than ours.
    let open = |at: BorrowedFd<'_>, name: &OsStr| {
        fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let mut stack = vec![(name.to_owned(), open(folder, name)?)];
    while let Some((_, top)) = stack.last() {
        let mut below = None;
        for entry in fs::Dir::read_from(top)? {
            let entry = entry?;
            let child = OsStr::from_bytes(entry.file_name().to_bytes());
            if child == "." || child == ".." {
                continue;
            }
            match fs::unlinkat(top, child, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => {
                    below = Some((child.to_owned(), open(top.as_fd(), child)?));
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        if let Some(below) = below {
            stack.push(below);
            continue;
        }
        let Some((name, _)) = stack.pop() else { break };
        let parent = stack.last().map_or(folder, |(_, fd)| fd.as_fd());
        fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// What is there, without following a link.
///
/// # Errors
/// As fstatat(2).
pub fn kind(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(folder: &Path) -> Tree {
        Tree::new(fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap())
    }

    #[test]
    fn folders_behind_dangling_links_are_made_inside() {
        let folder = tempfile::tempdir().unwrap();
        for (link, target) in [("lib", "usr/lib"), ("abs", "/deep/er"), ("up", "../../../outside"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
        }
        let mut tree = tree(folder.path());
        for (path, made) in [("lib/x", "usr/lib"), ("abs/x", "deep/er"), ("up/x", "outside")] {
            let place = tree.place(Path::new(path)).unwrap();
            fs::mkdirat(place.folder, &place.name, Mode::from_raw_mode(0o755)).unwrap();
            assert!(folder.path().join(made).join("x").is_dir(), "{path}");
        }
        assert_eq!(tree.place(Path::new("loop/x")).err(), Some(Errno::LOOP));
    }

    #[test]
    fn removal_takes_deep_trees_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().join("top");
        for _ in 0..200 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("top/link")).unwrap();
        let tree = tree(folder.path());
        remove(tree.root(), OsStr::new("top")).unwrap();
        assert!(!folder.path().join("top").exists());
        assert!(outside.path().join("keep").exists());
        remove(tree.root(), OsStr::new("top")).unwrap();
    }

    #[test]
    fn names_are_cleaned_or_refused() {
        for (given, cleaned) in [("/etc//passwd", "etc/passwd"), ("./a/./b/", "a/b"), ("", ""), ("./", "")] {
            assert_eq!(clean(Path::new(given)), Ok(PathBuf::from(cleaned)), "{given}");
        }
        for given in ["../x", "a/../../x", "a/.."] {
            assert!(clean(Path::new(given)).is_err(), "{given}");
        }
    }
}
