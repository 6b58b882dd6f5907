//! Changes written as documents: JSON patch (RFC 6902), merge patch (RFC 7386) and upstream's strategic merge patch.
//!
//! (Server-side apply is in [`crate::managed`].) Every `apply` changes the object in place; after an error the object is
//! half changed and must be thrown away.

pub mod json;
pub mod merge;
pub mod strategic;

/// Why a patch cannot be applied. Answered with 400, or 422 where it is the object that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The patch is no patch of its kind.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a path that does not exist, a test that fails.
    #[error("{0}")]
    Unfit(String),
}
