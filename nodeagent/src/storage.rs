//! A pod on the node's disk: volumes, files in `/etc`, termination messages, logs.
//!
//! ```text
//! DATA/pods/UID/volumes/NAME           what containers mount
//! DATA/pods/UID/{hosts,hostname,resolv.conf}
//! DATA/pods/UID/containers/NAME/ATTEMPT/termination-log
//! DATA/pods/UID/containers/NAME/ATTEMPT/subpath-N
//! DATA/logs/NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log
//! ```

mod folder;

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod};

pub use folder::Folder;

use crate::{network::Attachment, runtime::Mount};

/// Why a pod's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its volumes.
    #[error("MountVolume.SetUp failed for volume {volume:?}")]
    Volume {
        /// Its name in the pod.
        volume: String,
        /// Why.
        #[source]
        source: crate::volume::Error,
    },
    /// What a volume shows cannot be read from the API.
    #[error("cannot read what the pod's volumes show")]
    Sources(#[source] Box<crate::sources::Error>),
    /// A container mounts a volume that the pod does not have.
    #[error("volume {volume:?} of container {container} is not defined in the pod")]
    NoVolume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// A part of a volume.
    #[error("cannot prepare subPath of volume {volume:?}")]
    SubPath {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: crate::subpath::Error,
    },
    /// A name that cannot be a file's.
    #[error("{name:?} cannot name a folder")]
    Name {
        /// What came from the API.
        name: String,
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
        source: std::io::Error,
    },
}

/// One start of a container, for whom files are made.
#[derive(Clone, Debug)]
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Arc<Container>,
    /// Which start.
    pub attempt: u32,
    /// The pod's place in the network; no addresses with `hostNetwork`.
    pub network: Attachment,
    /// The environment, for `subPathExpr`.
    pub env: Vec<(String, String)>,
}

/// Where the files of pods are. Kept by [`Folder`], and by [`Nowhere`] for nodes without a disk.
#[async_trait::async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Makes a pod's volumes, or brings them up to date.
    async fn prepare(&self, pod: &Arc<Pod>) -> Result<(), Error>;

    /// What a start of a container mounts.
    async fn mounts(&self, start: &Start) -> Result<Vec<Mount>, Error>;

    /// What a start of a container left as its last words; empty when nothing.
    async fn last_words(&self, pod: &Pod, container: &Container, attempt: u32, failed: bool) -> String;

    /// Where the log of a start of a container goes.
    fn log(&self, pod: &Pod, container: &str, attempt: u32) -> Result<PathBuf, Error>;

    /// Forgets logs of starts before this one.
    async fn trim_logs(&self, pod: &Pod, container: &str, oldest: u32);

    /// Removes a pod's files, logs excepted. Idempotent.
    async fn remove(&self, uid: &str) -> Result<(), Error>;

    /// Removes a pod's logs.
    async fn remove_logs(&self, pod: &Pod);

    /// Removes whatever belongs to no pod in `live`: after a restart, when the pods are known.
    async fn retain(&self, live: &HashSet<String>) -> Result<(), Error>;
}

/// For hollow nodes: no file is ever made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

#[async_trait::async_trait]
impl Storage for Nowhere {
    async fn prepare(&self, _: &Arc<Pod>) -> Result<(), Error> {
        Ok(())
    }

    async fn mounts(&self, _: &Start) -> Result<Vec<Mount>, Error> {
        Ok(Vec::new())
    }

    async fn last_words(&self, _: &Pod, _: &Container, _: u32, _: bool) -> String {
        String::new()
    }

    fn log(&self, _: &Pod, _: &str, _: u32) -> Result<PathBuf, Error> {
        Ok(PathBuf::from("/dev/null"))
    }

    async fn trim_logs(&self, _: &Pod, _: &str, _: u32) {}

    async fn remove(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn remove_logs(&self, _: &Pod) {}

    async fn retain(&self, _: &HashSet<String>) -> Result<(), Error> {
        Ok(())
    }
}
