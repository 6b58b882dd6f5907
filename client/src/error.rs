//! What can go wrong when a component talks to the API, and what that means for a reconcile.

use kube::Resource;

use crate::Key;

/// One failed step of a component. All are retried by the reconcile loop; see [`Error::is_conflict`] for the quiet ones.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed.
    #[error("cannot {operation} {kind} {key}")]
    Api {
        /// The verb: `create`, `update status of`.
        operation: &'static str,
        /// The kind, as in manifests.
        kind: String,
        /// The object.
        key: Key,
        /// What the API or the connection said.
        source: Box<kube::Error>,
    },
    /// An object is not as it must be for this component to work on it.
    #[error("{kind} {key} cannot be worked on: {why}")]
    Object {
        /// The kind, as in manifests.
        kind: String,
        /// The object.
        key: Key,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// An object of kind `K` that cannot be worked on.
    pub fn object<K: Resource<DynamicType = ()>>(key: &Key, why: impl std::fmt::Display) -> Self {
        Self::Object { kind: K::kind(&()).into_owned(), key: key.clone(), why: why.to_string() }
    }

    /// Somebody else wrote first: look again, nothing to tell anybody.
    pub fn is_conflict(&self) -> bool {
        matches!(self.status(), Some(s) if s.code == 409 && !s.is_already_exists())
    }

    /// The object is gone.
    pub fn is_not_found(&self) -> bool {
        matches!(self.status(), Some(s) if s.code == 404)
    }

    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// The namespace is being deleted: nothing new is let in.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.status().and_then(|s| s.details.as_ref()).map(|d| d.causes.as_slice()).unwrap_or_default();
        causes.iter().any(|c| c.reason == "NamespaceTerminating")
    }

    /// What the API answered, if it did.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Object { .. } => None,
        }
    }

    /// The error and all its sources in one line. Of what the API answered, its message: that is written for people.
    pub fn chain(&self) -> String {
        self.status().map_or_else(|| chain(self), |status| format!("{self}: {}", status.message))
    }
}

/// An error and all its sources in one line. A source that its parent already quotes is not repeated (kube's errors quote).
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Names the operation and its subject in a failed request.
pub trait During<T> {
    /// The error, about `operation` on the object of kind `K` with that key.
    ///
    /// # Errors
    /// Those of the request.
    fn during<K: Resource<DynamicType = ()>>(self, operation: &'static str, key: &Key) -> Result<T, Error>;
}

impl<T> During<T> for kube::Result<T> {
    fn during<K: Resource<DynamicType = ()>>(self, operation: &'static str, key: &Key) -> Result<T, Error> {
        self.map_err(|source| Error::Api {
            operation,
            kind: K::kind(&()).into_owned(),
            key: key.clone(),
            source: Box::new(source),
        })
    }
}

/// What a delete is told apart by: done or already gone are the same.
pub trait OrGone<T> {
    /// `None` when the object was not there.
    ///
    /// # Errors
    /// All but "not found".
    fn or_gone(self) -> Result<Option<T>, Error>;
}

impl<T> OrGone<T> for Result<T, Error> {
    fn or_gone(self) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn api(code: u16, reason: &str) -> Error {
        let status = kube::core::Status::failure("no", reason).with_code(code).boxed();
        Err::<(), _>(kube::Error::Api(status)).during::<Pod>("delete", &Key::new("a", "b")).unwrap_err()
    }

    #[test]
    fn the_operation_and_its_subject_are_named_once() {
        assert_eq!(api(409, "Conflict").to_string(), "cannot delete Pod a/b");
        assert_eq!(api(409, "Conflict").chain(), "cannot delete Pod a/b: no");
    }

    #[test]
    fn a_taken_name_is_no_conflict() {
        assert!(api(409, "Conflict").is_conflict());
        assert!(!api(409, "AlreadyExists").is_conflict() && api(409, "AlreadyExists").is_already_exists());
        assert!(Err::<(), _>(api(404, "NotFound")).or_gone().unwrap().is_none());
        assert!(Err::<(), _>(api(500, "InternalError")).or_gone().is_err());
    }
}
