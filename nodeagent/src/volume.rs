//! A pod's volumes: what each shows, and where it lies.
//!
//! Volumes made of texts (ConfigMaps, Secrets, fields, tokens) are computed as [`Files`] by pure functions, one file a
//! source, and written by [`crate::atomic`].

pub mod configmap;
pub mod downward;
pub mod emptydir;
pub mod hostpath;
pub mod projected;
pub mod secret;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{KeyToPath, Pod, PodSpec, Volume};

use crate::{
    atomic::{self, Files},
    field::Place,
    lookup::Lookup,
};

/// Why a volume cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret does not exist.
    #[error("{what} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It exists, the key does not.
    #[error("references non-existent {what} key: {key}")]
    Key {
        /// `config` or `secret`.
        what: &'static str,
        /// What was asked of it.
        key: String,
    },
    /// A field that pods do not have.
    #[error("unsupported field {path:?}")]
    Field {
        /// The field.
        path: String,
    },
    /// A kind of volume that this node does not have.
    #[error("volume type is not supported by this node")]
    Unsupported,
    /// The path on the node is not what the volume's type says.
    #[error("hostPath type check failed: {} is not a {wanted}", path.display())]
    HostPath {
        /// On the node.
        path: PathBuf,
        /// `directory`, `file` ...
        wanted: &'static str,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] atomic::Error),
    /// The disk failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// What volumes of texts are made from.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// ConfigMaps and Secrets.
    pub lookup: &'a Lookup,
    /// What only the node knows.
    pub place: &'a Place,
    /// Tokens by audience and life, seconds.
    pub tokens: &'a BTreeMap<(String, i64), Arc<str>>,
}

/// The files of a volume that is made of texts, and whether they must stay in memory; `None` for other volumes.
pub fn files(volume: &Volume, inputs: &Inputs<'_>) -> Result<Option<(Files, bool)>, Error> {
    let files = if let Some(source) = &volume.config_map {
        (configmap::volume(source, inputs)?, false)
    } else if let Some(source) = &volume.secret {
        (secret::volume(source, inputs)?, true)
    } else if let Some(source) = &volume.downward_api {
        (downward::volume(source, inputs)?, false)
    } else if let Some(source) = &volume.projected {
        (projected::volume(source, inputs)?, true)
    } else {
        return Ok(None);
    };
    Ok(Some(files))
}

/// Permissions of files that say nothing.
const DEFAULT_MODE: i32 = 0o644;

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0) & 0o777
}

/// The chosen keys under their chosen paths, or all keys under their own names.
fn choose(
    what: &'static str,
    all: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    default_mode: Option<i32>,
) -> Result<Files, Error> {
    let file = |bytes: &Vec<u8>, own| atomic::File { bytes: bytes.clone(), mode: mode(own, default_mode), uid: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all.iter().map(|(key, bytes)| (key.clone(), file(bytes, None))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match all.get(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), file(bytes, item.mode));
            }
            None if optional => {}
            None => return Err(Error::Key { what, key: item.key.clone() }),
        }
    }
    Ok(files)
}

/// The user that all containers of a pod run as, where the pod says so: tokens belong to it (upstream's FsUser).
pub fn common_user(spec: &PodSpec) -> Option<u32> {
    let shared = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(shared)
    });
    let first = users.next()??;
    if users.all(|u| u == Some(first)) { u32::try_from(first).ok() } else { None }
}

/// The group that volumes belong to.
pub fn fs_group(spec: &PodSpec) -> Option<u32> {
    spec.security_context.as_ref().and_then(|c| c.fs_group).and_then(|g| u32::try_from(g).ok())
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}
