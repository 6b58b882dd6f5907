//! Error: why an image could not be had.

use std::{io, path::Path};

/// What went wrong, and with what. The agent shows it to the user under `ErrImagePull`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name of an image. Upstream's `InvalidImageName`.
    #[error("invalid image reference {reference:?}: {why}")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The registry, or the store, has no such image.
    #[error("image {reference} not found")]
    NotFound {
        /// Which.
        reference: String,
    },
    /// The registry wants other credentials. Many registries say this of images that do not exist, too.
    #[error("not authorized to pull {reference} (or it does not exist); {tried} credentials were tried")]
    Unauthorized {
        /// Which.
        reference: String,
        /// How many credentials were tried, 0 for anonymous only.
        tried: usize,
    },
    /// Content is not what its name says.
    #[error("digest of {subject} is {actual}, expected {expected}")]
    Digest {
        /// A manifest, config or layer, and of what.
        subject: String,
        /// By its name.
        expected: String,
        /// As computed.
        actual: String,
    },
    /// The registry could not be reached or broke off. Worth another try.
    #[error("cannot reach the registry of {reference}: {why}")]
    Network {
        /// What was wanted.
        reference: String,
        /// The chain of causes.
        why: String,
    },
    /// The registry answered with something else than what was asked for.
    #[error("registry of {reference} answered: {why}")]
    Registry {
        /// What was wanted.
        reference: String,
        /// What it said.
        why: String,
    },
    /// There is an image, but none for this machine.
    #[error("image {reference} is not made for {platform}; it has {available}")]
    Platform {
        /// Which image.
        reference: String,
        /// What is wanted, `linux/amd64`.
        platform: String,
        /// What it has.
        available: String,
    },
    /// An archive that is malformed or tries to write where it must not.
    #[error("{archive}: entry {entry:?}: {why}")]
    Archive {
        /// Layer or file.
        archive: String,
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than [`crate::Limits`] allows.
    #[error("{subject} has more than {limit} {what}")]
    Limit {
        /// Layer or file.
        subject: String,
        /// The limit.
        limit: u64,
        /// Its name and unit.
        what: &'static str,
    },
    /// Neither an OCI layout nor a docker archive, an unknown compression, a foreign kind of layer.
    #[error("{subject} is not supported: {why}")]
    Unsupported {
        /// What.
        subject: String,
        /// Why.
        why: String,
    },
    /// The disk is full. Nothing half done is left.
    #[error("no space left on the disk of {path} to {operation}")]
    NoSpace {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: String,
    },
    /// The system said no.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Wraps what the system said, with a full disk as a case of its own.
pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().display().to_string();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { operation, path },
        _ => Error::Io { operation, path, source },
    }
}

/// As [`io`], for the errors of rustix.
pub(crate) fn os(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Error {
    let wrap = io(operation, path);
    move |errno| wrap(errno.into())
}

/// An error and its causes in one line, for those that are kept as text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
