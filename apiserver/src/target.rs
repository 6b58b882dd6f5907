//! The target of a request: which resource, namespace, name and subresource a path means, and which verb its method.

use http::Method;

use crate::authz::Attributes;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read many.
    List,
    /// Follow many.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Update,
    /// Change one in part.
    Patch,
    /// Remove one.
    Delete,
    /// Remove many.
    DeleteCollection,
}

impl Verb {
    /// The word in RBAC rules and error messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// Reads alone.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }

    /// The verb of a method on one object or on all; none for methods that the API does not know.
    pub fn of(method: &Method, named: bool, watch: bool) -> Option<Self> {
        Some(match (method.as_str(), named) {
            ("GET" | "HEAD", true) => Self::Get,
            ("GET" | "HEAD", false) if watch => Self::Watch,
            ("GET" | "HEAD", false) => Self::List,
            ("POST", _) => Self::Create,
            ("PUT", _) => Self::Update,
            ("PATCH", _) => Self::Patch,
            ("DELETE", true) => Self::Delete,
            ("DELETE", false) => Self::DeleteCollection,
            _ => return None,
        })
    }
}

/// A path below `/api` or `/apis`, taken apart; nothing says yet that such a resource exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Namespace; none when the path names none.
    pub namespace: Option<String>,
    /// Object name; none for the collection.
    pub name: Option<String>,
    /// What follows the name.
    pub subresource: Option<String>,
}

impl Target {
    /// Takes apart `/api/V/…` and `/apis/G/V/…`; none when the path is no resource's.
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next()?;
        let rest: Vec<_> = parts.map(decode).collect::<Option<_>>()?;
        let rest: Vec<_> = rest.iter().map(String::as_str).collect();
        if rest.iter().any(|part| part.is_empty()) {
            return None;
        }
        // `namespaces/x`, `namespaces/x/status` and `namespaces/x/finalize` are the namespace itself
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", ns, resource, ..] if !(group.is_empty() && matches!(*resource, "status" | "finalize")) => {
                (Some(*ns), &rest[2..])
            }
            all => (None, all),
        };
        let (resource, name, subresource) = match rest {
            [resource] => (resource, None, None),
            [resource, name] => (resource, Some(name), None),
            [resource, name, subresource] => (resource, Some(name), Some(subresource)),
            _ => return None,
        };
        let own = |part: &&str| (*part).to_owned();
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: (*resource).to_owned(),
            namespace: namespace.map(Into::into),
            name: name.map(own),
            subresource: subresource.map(own),
        })
    }

    /// The namespace, or empty.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The name, or empty.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// What a user must be allowed to do for this. `name` may be one that the path does not say, but a selector does.
    pub fn attributes<'a>(&'a self, verb: Verb, name: &'a str) -> Attributes<'a> {
        // a namespace is inside itself
        let is_namespace = self.resource == "namespaces" && self.group.is_empty();
        Attributes {
            verb: verb.word(),
            group: &self.group,
            resource: &self.resource,
            subresource: self.subresource.as_deref().unwrap_or_default(),
            namespace: if is_namespace { name } else { self.namespace() },
            name,
            fields: "",
            path: "",
        }
    }
}

fn decode(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_they_mean() {
        let show = |path: &str| {
            Target::parse(path).map(|t| {
                let dash = |o: Option<String>| o.unwrap_or_else(|| "-".into());
                let (ns, name, sub) = (dash(t.namespace), dash(t.name), dash(t.subresource));
                format!("{}/{} {} {ns} {name} {sub}", t.group, t.version, t.resource)
            })
        };
        for (path, expected) in [
            ("/api/v1/pods", "/v1 pods - - -"),
            ("/api/v1/namespaces", "/v1 namespaces - - -"),
            ("/api/v1/namespaces/web", "/v1 namespaces - web -"),
            ("/api/v1/namespaces/web/status", "/v1 namespaces - web status"),
            ("/api/v1/namespaces/web/finalize", "/v1 namespaces - web finalize"),
            ("/api/v1/namespaces/web/pods", "/v1 pods web - -"),
            ("/api/v1/namespaces/web/pods/a/log", "/v1 pods web a log"),
            ("/apis/apps/v1/namespaces/web/deployments/a", "apps/v1 deployments web a -"),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "rbac.authorization.k8s.io/v1 clusterroles - system:node -",
            ),
        ] {
            assert_eq!(show(path).as_deref(), Some(expected), "{path}");
        }
        for path in ["/", "/healthz", "/api/v1/pods/", "/api/v1//pods", "/api/v1/a/b/c/d"] {
            assert_eq!(show(path), None, "{path}");
        }
    }
}
