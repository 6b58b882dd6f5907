//! A path of the node. Only pods whose author may see the whole node have one: admission decides that, not we.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::PathBuf,
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{Error, io};

/// The path, after its type was checked, or it was made where the type says so.
pub fn prepare(source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    let kind = fs::metadata(&path).ok().map(|m| m.file_type());
    let is = |wanted: &'static str, ok: bool| {
        if ok { Ok(()) } else { Err(Error::HostPath { path: path.clone(), wanted }) }
    };
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" if kind.is_none() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(io("make", &path))?;
        }
        "FileOrCreate" if kind.is_none() => {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o644).open(&path).map_err(io("make", &path))?;
        }
        "DirectoryOrCreate" | "Directory" => is("directory", kind.is_some_and(|k| k.is_dir()))?,
        "FileOrCreate" | "File" => is("file", kind.is_some_and(|k| k.is_file()))?,
        "Socket" => is("socket", kind.is_some_and(|k| k.is_socket()))?,
        "CharDevice" => is("character device", kind.is_some_and(|k| k.is_char_device()))?,
        "BlockDevice" => is("block device", kind.is_some_and(|k| k.is_block_device()))?,
        // upstream checks nothing, and the runtime makes a folder where there is nothing
        _ if kind.is_none() => fs::create_dir_all(&path).map_err(io("make", &path))?,
        _ => {}
    }
    Ok(path)
}
