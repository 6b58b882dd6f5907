//! A folder that lives as long as its pod, on disk or in memory.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use rustix::mount::{MountFlags, mount};

use super::{Error, io};
use crate::qos;

/// Makes it, unless it is there.
pub fn prepare(path: &Path, source: &EmptyDirVolumeSource, fs_group: Option<u32>) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(io("make", path))?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().and_then(qos::units);
        memory(path, limit)?;
    }
    let mode = if fs_group.is_some() { 0o2777 } else { 0o777 };
    chown(path, None, fs_group).map_err(io("chown", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io("chmod", path))
}

/// Mounts a tmpfs over a folder, no larger than that many bytes.
pub fn memory(path: &Path, limit: Option<u64>) -> Result<(), Error> {
    let options = limit.map_or_else(|| "mode=0755".to_owned(), |bytes| format!("mode=0755,size={bytes}"));
    let options = std::ffi::CString::new(options).map_err(|e| io("mount tmpfs at", path)(e.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).map_err(|e| io("mount tmpfs at", path)(e.into()))
}
