//! Who set which field: `metadata.managedFields`, and server-side apply (KEP-555, upstream's `structured-merge-diff`).

pub mod fields;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::Value;

use crate::{kinds::Kind, schema::Type};

/// Who writes, and through which door.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The name of the manager: `fieldManager`, or what the user agent says before its first slash.
    pub manager: &'a str,
    /// `apps/v1`: the version that the request was written in.
    pub api_version: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}
