//! Unpack: a layer's tar stream becomes a folder that overlayfs can mount.
//!
//! Whiteouts of the image format become those of overlayfs: `.wh.NAME` a character device 0:0, `.wh..wh..opq` the attribute
//! `trusted.overlay.opaque` of its folder (OCI image-spec `layer.md`, kernel `filesystems/overlayfs.rst`).

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    Error,
    entry::{Entries, Entry, Kind},
    error,
    tree::{self, Place, Tree},
};

/// How much one layer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unpacked bytes of all files.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Unpacked bytes for each compressed one, beyond [`Limits::free_bytes`].
    pub ratio: u64,
    /// Unpacked bytes for which the ratio does not matter.
    pub free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 32 << 30, entries: 2_000_000, ratio: 200, free_bytes: 1 << 30 }
    }
}

/// Char devices that an image may hold: null, zero, full, random, urandom, tty, console, ptmx.
const DEVICES: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Unpacks into the folder `root`. `name` is for errors; `compressed` says how many bytes came in so far.
/// Returns the bytes of all files.
pub(crate) fn unpack(
    name: &str,
    tar: impl Read,
    root: OwnedFd,
    limits: &Limits,
    compressed: &dyn Fn() -> u64,
) -> Result<u64, Error> {
    let mut unpacking = Unpacking { name, tree: Tree::new(root), folders: Vec::new() };
    let mut entries = Entries::new(tar);
    let (mut count, mut bytes) = (0u64, 0u64);
    while let Some(entry) = entries.next().map_err(|source| unpacking.read_error(Path::new(""), source))? {
        count += 1;
        if count > limits.entries {
            return Err(Error::Limit { subject: name.into(), limit: limits.entries, what: "entries" });
        }
        // The header's size is believed for the refusal only: the body is counted as it comes.
        let room = limits.bytes.saturating_sub(bytes);
        if entry.size > room {
            return Err(Error::Limit { subject: name.into(), limit: limits.bytes, what: "bytes unpacked" });
        }
        let before = bytes;
        unpacking.entry(&entry, &mut Metered { entries: &mut entries, bytes: &mut bytes, limits, compressed })?;
        if bytes - before < entry.size && entry.kind == Kind::File {
            bytes = before + entry.size;
        }
    }
    // What follows the end of the archive is read by the caller, for the digest.
    drop(entries.into_inner());
    unpacking.finish()?;
    Ok(bytes)
}

/// The body of a member, with the ratio watched.
struct Metered<'a, R> {
    entries: &'a mut Entries<R>,
    bytes: &'a mut u64,
    limits: &'a Limits,
    compressed: &'a dyn Fn() -> u64,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.entries.read(buffer)?;
        *self.bytes += read as u64;
        let allowed = self.limits.free_bytes.saturating_add((self.compressed)().saturating_mul(self.limits.ratio));
        if *self.bytes > allowed {
            return Err(io::Error::other(BombError(self.limits.ratio)));
        }
        Ok(read)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than {0} times its size")]
struct BombError(u64);

struct Unpacking<'a> {
    name: &'a str,
    tree: Tree,
    /// Folders whose times are set at the end, when nothing changes them any more.
    folders: Vec<(PathBuf, (i64, u32))>,
}

impl Unpacking<'_> {
    fn refuse(&self, entry: &Path, why: impl Into<String>) -> Error {
        Error::Archive { archive: self.name.to_owned(), entry: entry.display().to_string(), why: why.into() }
    }

    fn read_error(&self, entry: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                self.refuse(entry, source.to_string())
            }
            _ if source.get_ref().is_some_and(|inner| inner.is::<BombError>()) => {
                self.refuse(entry, source.to_string())
            }
            _ => error::io("unpack", format!("{} of {}", entry.display(), self.name))(source),
        }
    }

    fn os(&self, entry: &Path) -> impl FnOnce(Errno) -> Error + use<> {
        let (subject, refused) = (format!("{} of {}", entry.display(), self.name), self.refuse(entry, ""));
        move |errno| match (errno, refused) {
            // What an archive can bring about by its own shape is its fault, not the machine's.
            (Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV | Errno::INVAL | Errno::EXIST, refused) => {
                let Error::Archive { archive, entry, .. } = refused else { return refused };
                Error::Archive { archive, entry, why: io::Error::from(errno).to_string() }
            }
            _ => error::os("unpack", subject)(errno),
        }
    }

    fn entry(&mut self, entry: &Entry, body: &mut impl Read) -> Result<(), Error> {
        let path = tree::clean(&entry.path).map_err(|why| self.refuse(&entry.path, why))?;
        let Some(name) = path.file_name() else { return self.root(entry) };
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&path, name, OsStr::from_bytes(hidden));
        }
        if !self.allowed(entry, &path)? {
            return Ok(());
        }
        if entry.kind != Kind::File {
            self.tree.forget();
        }
        let fail = self.os(&entry.path);
        let link_target = match entry.kind {
            Kind::Hardlink => Some(self.link_target(entry)?),
            _ => None,
        };
        let place = match self.tree.place(&path) {
            Ok(place) => place,
            Err(errno) => return Err(fail(errno)),
        };
        let replaced = match make_room(&place, entry.kind) {
            Ok(replaced) => replaced,
            Err(errno) => return Err(fail(errno)),
        };
        let made = match entry.kind {
            Kind::File => match write_file(&place, entry, body) {
                Err(source) => return Err(self.read_error(&entry.path, source)),
                Ok(()) => Ok(()),
            },
            Kind::Hardlink => {
                let (folder, target) = link_target.expect("invariant: set above for hard links");
                fs::linkat(&folder, target, place.folder, &place.name, AtFlags::empty())
            }
            _ => make_special(&place, entry, replaced == Replaced::Whiteout),
        };
        made.map_err(fail)?;
        if entry.kind == Kind::Directory {
            self.folders.push((path, entry.mtime));
        }
        Ok(())
    }

    /// The archive's `./`: the attributes of the layer's root.
    fn root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(self.refuse(&entry.path, "the root can only be a folder"));
        }
        let set = own(self.tree.root(), entry);
        set.map_err(self.os(&entry.path))?;
        self.folders.push((PathBuf::new(), entry.mtime));
        Ok(())
    }

    /// Whether to make it. Devices under `/dev` are left out, since the runtime mounts its own there; elsewhere unknown
    /// ones are refused, and so is a forged whiteout.
    fn allowed(&self, entry: &Entry, path: &Path) -> Result<bool, Error> {
        let (kind, major, minor) = match entry.kind {
            Kind::Character(major, minor) => ("character", major, minor),
            Kind::Block(major, minor) => ("block", major, minor),
            Kind::File | Kind::Directory | Kind::Symlink | Kind::Hardlink | Kind::Fifo => return Ok(true),
        };
        if path.starts_with("dev") {
            return Ok(false);
        }
        if kind == "character" && DEVICES.contains(&(major, minor)) {
            return Ok(true);
        }
        Err(self.refuse(&entry.path, format!("{kind} device {major}:{minor} is not allowed in an image")))
    }

    fn link_target(&self, entry: &Entry) -> Result<(OwnedFd, std::ffi::OsString), Error> {
        let target = tree::clean(&entry.link).map_err(|why| self.refuse(&entry.path, format!("hard link: {why}")))?;
        let name = target.file_name().ok_or_else(|| self.refuse(&entry.path, "hard link to nothing"))?.to_owned();
        match self.tree.folder(target.parent().unwrap_or(Path::new(""))) {
            Ok(folder) if matches!(tree::kind(folder.as_fd(), &name), Ok(Some(_))) => Ok((folder, name)),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {
                let why = format!("hard link to {}, which is not in the layer", entry.link.display());
                Err(self.refuse(&entry.path, why))
            }
            Err(errno) => Err(self.os(&entry.path)(errno)),
        }
    }

    fn whiteout(&mut self, path: &Path, name: &OsStr, hidden: &OsStr) -> Result<(), Error> {
        let fail = self.os(path);
        if name.as_bytes() == OPAQUE {
            let opaque = self.tree.place(path).and_then(|place| set_opaque(place.folder));
            return opaque.map_err(fail);
        }
        if hidden.as_bytes().starts_with(WHITEOUT) {
            return Ok(()); // aufs' own bookkeeping: .wh..wh.plnk, .wh..wh.aufs
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(self.refuse(path, "whiteout of nothing"));
        }
        let done = self.tree.place(path).and_then(|place| match tree::kind(place.folder, hidden)? {
            None => fs::mknodat(place.folder, hidden, FileType::CharacterDevice, Mode::empty(), 0),
            // In this layer already, so only what lies below is hidden.
            Some(FileType::Directory) => set_opaque(open_folder(&place, hidden)?.as_fd()),
            Some(_) => Ok(()),
        });
        done.map_err(fail)
    }

    fn finish(mut self) -> Result<(), Error> {
        self.tree.forget();
        for (path, mtime) in self.folders.iter().rev() {
            match self.tree.folder(path) {
                Ok(folder) => fs::futimens(&folder, &times(*mtime)).map_err(self.os(path))?,
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(self.os(path)(errno)),
            }
        }
        Ok(())
    }
}

#[derive(PartialEq)]
enum Replaced {
    Nothing,
    Whiteout,
}

/// A later entry replaces an earlier one, but a folder keeps what is in it.
fn make_room(place: &Place<'_>, kind: Kind) -> Result<Replaced, Errno> {
    match tree::kind(place.folder, &place.name)? {
        None => Ok(Replaced::Nothing),
        Some(FileType::Directory) if kind == Kind::Directory => Ok(Replaced::Nothing),
        Some(there) => {
            tree::remove(place.folder, &place.name)?;
            Ok(if there == FileType::CharacterDevice { Replaced::Whiteout } else { Replaced::Nothing })
        }
    }
}

fn write_file(place: &Place<'_>, entry: &Entry, body: &mut impl Read) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(fs::openat(place.folder, &place.name, flags, Mode::from_raw_mode(0o600))?);
    let mut buffer = [0; 64 * 1024];
    loop {
        match body.read(&mut buffer)? {
            0 => break,
            read => file.write_all(&buffer[..read])?,
        }
    }
    own(file.as_fd(), entry)?;
    Ok(fs::futimens(&file, &times(entry.mtime))?)
}

fn make_special(place: &Place<'_>, entry: &Entry, opaque: bool) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(entry.mode);
    match entry.kind {
        Kind::Directory => {
            match fs::mkdirat(place.folder, &place.name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let folder = open_folder(place, &place.name)?;
            if opaque {
                set_opaque(folder.as_fd())?;
            }
            return own(folder.as_fd(), entry);
        }
        Kind::Symlink => fs::symlinkat(&entry.link, place.folder, &place.name)?,
        Kind::Fifo => fs::mknodat(place.folder, &place.name, FileType::Fifo, mode, 0)?,
        Kind::Character(major, minor) => {
            fs::mknodat(place.folder, &place.name, FileType::CharacterDevice, mode, fs::makedev(major, minor))?;
        }
        Kind::Block(..) | Kind::File | Kind::Hardlink => return Err(Errno::INVAL),
    }
    let (uid, gid) = owner(entry);
    fs::chownat(place.folder, &place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.kind != Kind::Symlink {
        fs::chmodat(place.folder, &place.name, mode, AtFlags::empty())?;
    }
    fs::utimensat(place.folder, &place.name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner, then mode (chown clears setuid), then attributes (chown clears file capabilities).
fn own(file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = owner(entry);
    fs::fchown(file, uid, gid)?;
    fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in &entry.xattrs {
        // Others say how this machine treats the file, not what is in it; trusted.overlay. would forge layers.
        if name == "security.capability" || name.starts_with("user.") {
            match fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // u32::MAX means "leave" to the kernel: nobody's.
    let number = |id: u32| if id == u32::MAX { 65534 } else { id };
    (Some(Uid::from_raw(number(entry.uid))), Some(Gid::from_raw(number(entry.gid))))
}

fn open_folder(place: &Place<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(place.folder, name, flags, Mode::empty())
}

fn set_opaque(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    fs::fsetxattr(folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}
