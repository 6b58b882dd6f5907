//! What the agent needs of the node's images. Kept by [`store`] over the `image` crate, and by [`fake`] in tests.

pub mod fake;
pub mod store;

use std::{path::PathBuf, sync::Arc};

/// An unpacked image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:...` of its configuration or manifest: names what runs.
    pub id: String,
    /// Layers of its root filesystem, lowest first.
    pub layers: Vec<PathBuf>,
    /// What runs first.
    pub entrypoint: Vec<String>,
    /// Arguments for it, or what runs without one.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where it runs.
    pub working_dir: String,
    /// `user[:group]`, names or numbers.
    pub user: String,
    /// `SIGQUIT`, `3`; empty for SIGTERM.
    pub stop_signal: String,
}

/// Who a registry knows us as.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The registry's host (and port, and path prefix) as written in the pull secret.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name breaks the rules. Upstream's `InvalidImageName`.
    #[error("couldn't parse image name {name:?}: {why}")]
    Name {
        /// As written.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry or the node failed. Upstream's `ErrImagePull`.
    #[error("failed to pull image {name:?}: {why}")]
    Pull {
        /// As written.
        name: String,
        /// The whole chain of causes.
        why: String,
    },
}

/// The node's images.
#[async_trait::async_trait]
pub trait Images: Send + Sync + 'static {
    /// The image that a reference names here, without asking any registry.
    async fn get(&self, reference: &str) -> Result<Option<Arc<Image>>, Error>;

    /// Brings an image here. One pull of the same image at a time reaches the registry.
    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Arc<Image>, Error>;
}

/// Whether a reference names the tag `latest`, by itself or by default: then upstream's default policy is `Always`.
pub fn is_latest(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    let name = reference.rsplit('/').next().unwrap_or(reference);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    #[test]
    fn latest_is_the_default_tag() {
        for (reference, latest) in [
            ("web", true),
            ("web:latest", true),
            ("web:v1", false),
            ("localhost:5000/web", true),
            ("localhost:5000/web:v1", false),
            ("web@sha256:0123", false),
        ] {
            assert_eq!(super::is_latest(reference), latest, "{reference}");
        }
    }
}
