//! Which objects a caller means: by labels (`app=web,tier in (front,back),!canary`) or by fields
//! (`metadata.name=a,status.phase!=Running`).
//!
//! Syntax and messages follow upstream's `apimachinery/pkg/labels` and `pkg/fields`.

mod fields;
mod labels;

pub use fields::{FieldSelector, FieldTerm};
pub use labels::{Operator, Requirement, Selector, validate, validate_labels};

/// Why a selector cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
