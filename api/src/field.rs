//! What is wrong with an object, and in which field: the words of upstream's `apimachinery/pkg/util/validation/field`,
//! so that messages and `details.causes` read as users know them.

use std::fmt;

/// Where in an object: `spec.containers[0].ports[1].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path that starts at a top-level field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A named field below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An item of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of mistake; the `reason` of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The value is not allowed by a rule of its own.
    Invalid,
    /// The value is missing.
    Required,
    /// The value is not one of a fixed set.
    NotSupported,
    /// The value must be unique and is not.
    Duplicate,
    /// The field may not be set, or not changed.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// A list has too many items.
    TooMany,
    /// The value names something that does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
}

impl Reason {
    /// The word in `status.details.causes[].reason`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid | Self::TooMany => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn prose(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

/// One mistake in one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where.
    pub path: Path,
    /// What kind of mistake.
    pub reason: Reason,
    /// The value as the user wrote it, as JSON; none where showing it says nothing.
    pub value: Option<String>,
    /// What would be right.
    pub detail: String,
}

impl Error {
    /// A value that breaks a rule; `value` is shown as JSON.
    pub fn invalid(path: &Path, value: impl serde::Serialize, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), reason: Reason::Invalid, value: json(value), detail: detail.into() }
    }

    /// A value that is missing.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), reason: Reason::Required, value: None, detail: detail.into() }
    }

    /// A value that is not one of `supported`.
    pub fn not_supported(path: &Path, value: impl serde::Serialize, supported: &[&str]) -> Self {
        let list: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Self { path: path.clone(), reason: Reason::NotSupported, value: json(value), detail }
    }

    /// A value that appears twice where it must be unique.
    pub fn duplicate(path: &Path, value: impl serde::Serialize) -> Self {
        Self { path: path.clone(), reason: Reason::Duplicate, value: json(value), detail: String::new() }
    }

    /// A field that may not be set or changed.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self { path: path.clone(), reason: Reason::Forbidden, value: None, detail: detail.into() }
    }

    /// A value longer than `limit` bytes.
    pub fn too_long(path: &Path, limit: usize) -> Self {
        let detail = format!("may not be more than {limit} bytes");
        Self { path: path.clone(), reason: Reason::TooLong, value: None, detail }
    }

    /// A reference to something that does not exist.
    pub fn not_found(path: &Path, value: impl serde::Serialize) -> Self {
        Self { path: path.clone(), reason: Reason::NotFound, value: json(value), detail: String::new() }
    }

    /// The message without the path: `Invalid value: "x": must be …`.
    pub fn message(&self) -> String {
        let mut text = self.reason.prose().to_owned();
        for part in self.value.iter().chain((!self.detail.is_empty()).then_some(&self.detail)) {
            text.push_str(": ");
            text.push_str(part);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

/// All mistakes of an object, in the order of its fields.
pub type Errors = Vec<Error>;

fn json(value: impl serde::Serialize) -> Option<String> {
    serde_json::to_string(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_upstreams() {
        let ports = Path::new("spec").child("containers").index(0).child("ports").index(1);
        assert_eq!(
            Error::invalid(&ports.child("containerPort"), 70000, "must be between 1 and 65535, inclusive").to_string(),
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
        );
        assert_eq!(
            Error::not_supported(&ports.child("protocol"), "ICMP", &["SCTP", "TCP", "UDP"]).to_string(),
            "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""
        );
        assert_eq!(
            Error::required(&ports.child("name"), "").to_string(),
            "spec.containers[0].ports[1].name: Required value"
        );
    }
}
