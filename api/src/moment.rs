//! A moment of the store's past: what `GET /asof/MOMENT` says. The API as it was then is served below that path.

use serde::{Deserialize, Serialize};

/// The group and version of what upstream has no word for.
pub const API_VERSION: &str = "orlop.dev/v1";

/// What the path of the past begins with; a revision or an RFC 3339 time follows.
pub const ROOT: &str = "/asof/";

/// A revision, and how far back one can look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Moment {
    /// `orlop.dev/v1`.
    pub api_version: String,
    /// `Moment`.
    pub kind: String,
    /// The revision that was asked for, or that was the newest at the time that was asked for.
    pub revision: u64,
    /// When it was the newest; as exact as times are noted. None when nobody noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The oldest revision that can be read.
    pub oldest: u64,
    /// The newest.
    pub newest: u64,
}
