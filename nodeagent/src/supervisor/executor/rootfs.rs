//! Root filesystem: the image's layers below, the container's own folder on top.

use std::{
    ffi::OsString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, move_mount,
        unmount,
    },
};

use super::{
    super::{
        protocol::Failure,
        sys::{MountAttributes, set_mount_attributes},
    },
    Plan,
};

/// Mounts it in this mount namespace, and opens it. Nothing propagates back to the node from here on.
pub(super) fn assemble(plan: &Plan<'_>) -> Result<OwnedFd, Failure> {
    let failed = |e: Errno| Failure::system("mount", "root filesystem", e);
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(failed)?;
    match overlay(plan) {
        Ok(overlay) => {
            move_mount(&overlay, "", CWD, &plan.mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed)?;
        }
        // Before Linux 6.7 there is no `lowerdir+`.
        Err(Errno::INVAL) => overlay_by_options(plan).map_err(failed)?,
        Err(errno) => return Err(failed(errno)),
    }
    rustix::fs::open(&plan.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)
}

fn overlay(plan: &Plan<'_>) -> Result<OwnedFd, Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in plan.container.layers.iter().rev() {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", &plan.upper)?;
    fsconfig_set_string(fs.as_fd(), "workdir", &plan.work)?;
    // What a container wrote to its root does not outlive a crash of the machine: no syncs for it.
    fsconfig_set_flag(fs.as_fd(), "volatile")?;
    fsconfig_create(fs.as_fd())?;
    // Devices in images and those made in the container are inert; `mounts` binds the few that work.
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// All options together must fit a page: layers go by the numbers of descriptors, which are found in the working folder.
fn overlay_by_options(plan: &Plan<'_>) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layers = plan.container.layers.iter().rev().map(|layer| rustix::fs::open(layer, flags, Mode::empty()));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<_> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
    rustix::process::chdir("/proc/self/fd")?;
    let mut options = OsString::from("volatile,lowerdir=");
    options.push(numbers.join(":"));
    options.push(",upperdir=");
    options.push(escaped(&plan.upper));
    options.push(",workdir=");
    options.push(escaped(&plan.work));
    let options = std::ffi::CString::new(options.into_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    mount("overlay", &plan.mountpoint, "overlay", MountFlags::NODEV, options.as_c_str())
}

fn escaped(path: &std::path::Path) -> OsString {
    let mut escaped = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, ':' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped.into()
}

/// Makes it this process's root; the node's is gone for it and all its children.
pub(super) fn enter(plan: &Plan<'_>, root: OwnedFd) -> Result<(), Failure> {
    let failed = |e: Errno| Failure::system("enter", "root filesystem", e);
    if plan.container.readonly_root {
        let readonly = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        set_mount_attributes(mounted(plan)?.as_fd(), readonly)
            .map_err(|e| Failure::system("make read-only", "root filesystem", e))?;
    }
    rustix::process::fchdir(&root).map_err(failed)?;
    drop(root);
    // The old root ends up on top of the new one, and is taken away.
    rustix::process::pivot_root(".", ".").map_err(failed)?;
    unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

fn mounted(plan: &Plan<'_>) -> Result<OwnedFd, Failure> {
    rustix::fs::open(&plan.mountpoint, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::system("open", "root filesystem", e))
}
