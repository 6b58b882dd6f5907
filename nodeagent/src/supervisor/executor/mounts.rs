//! Mounts: what a container finds in its root beside the image.
//!
//! OCI runtime-spec `config-linux.md` (default filesystems and devices) and runc's lists of masked and read-only paths.
//! Targets are opened inside the new root and mounted upon by descriptor: no path of the image is ever a string here.

use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt as _,
    },
    path::{Path, PathBuf},
};

use image::tree::{Tree, clean, resolve};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, symlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use super::{
    super::{
        protocol::Failure,
        sys::{MountAttributes, set_mount_attributes},
    },
    Plan,
};
use crate::runtime::{Container, Mount, Propagation};

/// Devices that every container has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links in `/dev`.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];
/// Hidden, as they tell or touch what is the whole machine's.
const MASKED: [&str; 11] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];
/// Read-only for the same reason.
const READONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// A volume and the detached copy of what the node has there.
pub(super) type Volume<'a> = (&'a Mount, OwnedFd);

/// Opens all volumes of a container.
pub(super) fn open_volumes(container: &Container) -> Result<Vec<Volume<'_>>, Failure> {
    container.mounts.iter().map(|mount| Ok((mount, open_volume(mount)?))).collect()
}

/// Mounts everything; `devpts` is left open for the terminal.
pub(super) fn populate(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    volumes: Vec<Volume<'_>>,
    devpts: &mut Option<OwnedFd>,
) -> Result<(), Failure> {
    let mut tree = Tree::new(root.try_clone_to_owned().map_err(|e| Failure::system("open", "root", e))?);
    standard(plan, &tree, devpts)?;
    if plan.container.masked && !plan.container.privileged {
        mask(root)?;
    }
    for (mount, source) in volumes {
        attach_volume(&mut tree, mount, &source)?;
    }
    working_folder(&tree, &plan.container.cwd)
}

/// Makes it while that is possible: the root may become read-only.
fn working_folder(tree: &Tree, cwd: &Path) -> Result<(), Failure> {
    let wrong = |why: String| Failure::Start(format!("working directory {}: {why}", cwd.display()));
    let path = clean(cwd).map_err(|why| wrong(why.into()))?;
    tree.ensure(&path).map(drop).map_err(|errno| wrong(super::program::plain(&errno.into())))
}

fn standard(plan: &Plan<'_>, tree: &Tree, devpts: &mut Option<OwnedFd>) -> Result<(), Failure> {
    let privileged = plan.container.privileged;
    let named = |what: &'static str| move |e: Errno| Failure::system("mount", what, e);
    let hardened = NOSUID | NODEV | NOEXEC;
    // Privileged containers may change what these show.
    let sys = if privileged { hardened } else { hardened | RDONLY };
    mount_on(tree, "proc", filesystem("proc", &[], hardened)).map_err(named("/proc"))?;
    mount_on(tree, "sys", filesystem("sysfs", &[], sys)).map_err(named("/sys"))?;
    // Devices come as bind mounts, so that those that the container makes itself are inert.
    // Mounted before anything is mounted upon it: until Linux 6.15 that cannot be done in a tree that hangs nowhere.
    let dev = filesystem("tmpfs", &[("mode", "0755"), ("size", "65536k")], NOSUID | NODEV).map_err(named("/dev"))?;
    let on_dev = Tree::new(dev.try_clone().map_err(|e| Failure::system("open", "/dev", e))?);
    mount_on(tree, "dev", Ok(dev)).map_err(named("/dev"))?;
    fill_dev(on_dev.root(), privileged)?;
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = filesystem("devpts", &options, NOSUID | NOEXEC).map_err(named("/dev/pts"))?;
    *devpts = Some(pts.try_clone().map_err(|e| Failure::system("open", "/dev/pts", e))?);
    mount_on(&on_dev, "pts", Ok(pts)).map_err(named("/dev/pts"))?;
    mount_on(&on_dev, "mqueue", filesystem("mqueue", &[], hardened)).map_err(named("/dev/mqueue"))?;
    mount_on(&on_dev, "shm", copy(&plan.shm, false)).map_err(named("/dev/shm"))?;
    cgroups(plan, tree)
}

/// The container's own cgroups, read-only.
fn cgroups(plan: &Plan<'_>, tree: &Tree) -> Result<(), Failure> {
    let failed = |e: Errno| Failure::system("mount", "/sys/fs/cgroup", e);
    let readonly = if plan.container.privileged { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let hardened = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let show = |tree: &Tree, name: &str, folder: &Path| {
        let mount = copy(folder, false).map_err(failed)?;
        let attributes = MountAttributes { set: hardened | readonly, ..MountAttributes::default() };
        set_mount_attributes(mount.as_fd(), attributes)
            .map_err(|e| Failure::system("make read-only", "/sys/fs/cgroup", e))?;
        mount_on(tree, name, Ok(mount)).map_err(failed)
    };
    if let [(name, folder)] = plan.cgroups.as_slice()
        && name.is_empty()
    {
        return show(tree, "sys/fs/cgroup", folder);
    }
    let tmpfs = filesystem("tmpfs", &[("mode", "0755"), ("size", "64k")], NOSUID | NODEV | NOEXEC).map_err(failed)?;
    let below = Tree::new(tmpfs.try_clone().map_err(|e| Failure::system("open", "/sys/fs/cgroup", e))?);
    mount_on(tree, "sys/fs/cgroup", Ok(tmpfs)).map_err(failed)?;
    plan.cgroups.iter().try_for_each(|(name, folder)| show(&below, name, folder))
}

fn fill_dev(dev: BorrowedFd<'_>, privileged: bool) -> Result<(), Failure> {
    let mut names: Vec<String> = DEVICES.map(str::to_owned).into();
    if privileged {
        let entries = fs::read_dir("/dev").map_err(|e| Failure::system("list", "/dev", e))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let device = entry.file_type().is_ok_and(|kind| kind.is_char_device() || kind.is_block_device());
            if device && name != "ptmx" && name != "console" && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    for name in names {
        let source = Path::new("/dev").join(&name);
        let bound = touch(dev, &name).and_then(|target| attach(&copy(&source, false)?, target.as_fd()));
        bound.map_err(|e| Failure::system("bind", source.display(), e))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, dev, name).map_err(|e| Failure::system("link", name, e))?;
    }
    for name in ["pts", "mqueue", "shm"] {
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).map_err(|e| Failure::system("make", name, e))?;
    }
    Ok(())
}

fn mask(root: BorrowedFd<'_>) -> Result<(), Failure> {
    for path in MASKED {
        let Some(target) = existing(root, path)? else { continue };
        let failed = |e: Errno| Failure::system("mask", path, e);
        let stat = rustix::fs::fstat(&target).map_err(failed)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            filesystem(
                "tmpfs",
                &[("size", "4k"), ("nr_inodes", "2"), ("mode", "0555")],
                NOSUID | NODEV | NOEXEC | RDONLY,
            )
        } else {
            copy(Path::new("/dev/null"), false)
        };
        cover.and_then(|cover| attach(&cover, target.as_fd())).map_err(failed)?;
    }
    for path in READONLY {
        let Some(target) = existing(root, path)? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let failed = |e: Errno| Failure::system("make read-only", path, e);
        let mount = open_tree(&target, "", flags).map_err(failed)?;
        let readonly = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, recursive: true, ..MountAttributes::default() };
        set_mount_attributes(mount.as_fd(), readonly).map_err(|e| Failure::system("make read-only", path, e))?;
        attach(&mount, target.as_fd()).map_err(failed)?;
    }
    Ok(())
}

/// A path of the root; none if this kernel has no such thing.
fn existing(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Failure> {
    match resolve(root, Path::new(path), OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Failure::system("open", path, errno)),
    }
}

/// A detached copy of a volume, with its propagation.
fn open_volume(mount: &Mount) -> Result<OwnedFd, Failure> {
    let source = copy(&mount.source, true).map_err(|errno| match errno {
        Errno::NOENT => Failure::Start(format!("volume source {} does not exist", mount.source.display())),
        _ => Failure::system("open volume", mount.source.display(), errno),
    })?;
    let propagation = match mount.propagation {
        Propagation::None => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    };
    let mut set = libc::MOUNT_ATTR_NODEV;
    if mount.readonly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    // Later mounts of the node come and go by themselves; only what is there now gets the attributes.
    let attributes = MountAttributes { set, propagation, recursive: true };
    match set_mount_attributes(source.as_fd(), attributes) {
        Ok(()) => Ok(source),
        Err(error) => Err(Failure::system("set propagation of", mount.source.display(), error)),
    }
}

fn attach_volume(tree: &mut Tree, mount: &Mount, source: &OwnedFd) -> Result<(), Failure> {
    let shown = mount.target.display();
    let wrong = |why: &str| Failure::Start(format!("mount target {shown}: {why}"));
    let path = clean(&mount.target).map_err(wrong)?;
    if path.as_os_str().is_empty() {
        return Err(wrong("it is the root itself"));
    }
    let refused = |errno: Errno| wrong(&std::io::Error::from(errno).to_string());
    let stat = rustix::fs::fstat(source).map_err(refused)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => tree.ensure(&path).map_err(refused)?,
        _ => file_target(tree, &path).map_err(refused)?,
    };
    let magic = rustix::fs::fstatfs(&target).map_err(refused)?.f_type;
    if magic == rustix::fs::PROC_SUPER_MAGIC {
        return Err(wrong("it is inside /proc"));
    }
    attach(source, target.as_fd()).map_err(refused)
}

/// Opens a file to mount upon, and makes it and its folders if missing.
fn file_target(tree: &mut Tree, path: &Path) -> Result<OwnedFd, Errno> {
    match resolve(tree.root(), path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        done => return done,
    }
    let place = tree.place(path)?;
    touch(place.folder, &place.name)
}

/// A new empty file.
fn touch(folder: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    openat(folder, name, flags, Mode::from_raw_mode(0o644))
}

/// A new filesystem, not attached anywhere.
fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(fs.as_fd(), *key)?;
        } else {
            fsconfig_set_string(fs.as_fd(), *key, *value)?;
        }
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached copy of what the node has at a path.
fn copy(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Mounts on a folder of the root, which is made if missing and must not be a link.
fn mount_on(tree: &Tree, path: &str, mount: Result<OwnedFd, Errno>) -> Result<(), Errno> {
    let mount = mount?;
    let path = PathBuf::from(path);
    drop(tree.ensure(&path)?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let target = openat2(tree.root(), &path, flags, Mode::empty(), strict)?;
    attach(&mount, target.as_fd())
}
