//! The one list of kinds that Orlop serves. Adding a kind is one row here and one strategy in `apiserver`.

/// Whether objects of a kind live inside a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One namespace in the path.
    Namespaced,
    /// No namespace.
    Cluster,
}

/// A second door to an object, with its own verbs and often its own body kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subresource {
    /// `/status`: what controllers and nodes report; a write touches nothing else.
    Status,
    /// `/scale`: `autoscaling/v1` Scale, the replica count alone.
    Scale,
    /// `/binding`: assigns a Pod to a Node.
    Binding,
    /// `/eviction`: `policy/v1` Eviction, a delete that gives way to what protects the Pod.
    Eviction,
    /// `/log`: a container's output, served by the node.
    Log,
    /// `/exec`: a process in a running container, served by the node.
    Exec,
    /// `/token`: `authentication.k8s.io/v1` TokenRequest for a ServiceAccount.
    Token,
    /// `/finalize`: the finalizers of a Namespace's spec.
    Finalize,
}

impl Subresource {
    /// The last segment of the path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Token => "token",
            Self::Finalize => "finalize",
        }
    }
}

/// All that the system knows about a kind's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version inside the group.
    pub version: &'static str,
    /// CamelCase singular, as in manifests.
    pub kind: &'static str,
    /// Lower-case plural, as in paths.
    pub plural: &'static str,
    /// Lower-case singular, which clients accept too.
    pub singular: &'static str,
    /// Abbreviations that clients accept.
    pub short: &'static [&'static str],
    /// Groups of kinds that clients ask for at once, such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// The further doors to an object.
    pub subresources: &'static [Subresource],
}

impl Kind {
    /// `v1` or `apps/v1`, as in a manifest's `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`, as in error messages and RBAC.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether objects of this kind live inside a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether objects of this kind say what happened or who is at work, and not what somebody wants to be.
    pub fn is_record(&self) -> bool {
        matches!((self.group, self.kind), ("", "Event") | ("coordination.k8s.io", "Lease"))
    }

    /// Whether what objects of this kind hold is not to be shown.
    pub fn is_secret(&self) -> bool {
        matches!((self.group, self.kind), ("", "Secret"))
    }

    /// The path under which the API serves this kind, below the namespace where there is one:
    /// `/api/v1/namespaces/NS/pods`, `/apis/apps/v1/deployments`.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        match namespace.filter(|_| self.namespaced()) {
            Some(ns) => format!("{root}/{version}/namespaces/{ns}/{}", self.plural),
            None => format!("{root}/{version}/{}", self.plural),
        }
    }

    /// The row whose plural is served under this group and version.
    pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        KINDS.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
    }

    /// The row for a manifest's `apiVersion` and `kind`.
    pub fn by_manifest(api_version: &str, kind: &str) -> Option<&'static Self> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
    }

    /// The rows that a user means by `word`: a plural, singular, short name, `plural.group`, or a category.
    pub fn by_word(word: &str) -> Vec<&'static Self> {
        let word = word.to_ascii_lowercase();
        let (name, group) = word.split_once('.').map_or((word.as_str(), None), |(n, g)| (n, Some(g)));
        let named: Vec<_> = KINDS
            .iter()
            .filter(|k| k.plural == name || k.singular == name || k.short.contains(&name))
            .filter(|k| group.is_none_or(|g| k.group == g))
            .take(1)
            .collect();
        if named.is_empty() { KINDS.iter().filter(|k| k.categories.contains(&name)).collect() } else { named }
    }

    /// The row of a `k8s-openapi` type.
    pub fn of<K: k8s_openapi::Resource>() -> Option<&'static Self> {
        KINDS.iter().find(|k| k.group == K::GROUP && k.version == K::VERSION && k.kind == K::KIND)
    }
}

macro_rules! kinds {
    ($($kind:literal => $group:literal, $version:literal, $plural:literal, $singular:literal, $scope:ident,
        short [$($short:literal)*], categories [$($category:literal)*], subresources [$($sub:ident)*];)*) => {
        /// One row per kind.
        pub static KINDS: &[Kind] = &[$(Kind {
            group: $group, version: $version, kind: $kind, plural: $plural, singular: $singular,
            short: &[$($short),*], categories: &[$($category),*], scope: Scope::$scope,
            subresources: &[$(Subresource::$sub),*],
        }),*];
    };
}

kinds! {
    "Namespace" => "", "v1", "namespaces", "namespace", Cluster, short ["ns"], categories [], subresources [Status Finalize];
    "Node" => "", "v1", "nodes", "node", Cluster, short ["no"], categories [], subresources [Status];
    "Pod" => "", "v1", "pods", "pod", Namespaced, short ["po"], categories ["all"], subresources [Status Binding Eviction Log Exec];
    "Service" => "", "v1", "services", "service", Namespaced, short ["svc"], categories ["all"], subresources [Status];
    "ConfigMap" => "", "v1", "configmaps", "configmap", Namespaced, short ["cm"], categories [], subresources [];
    "Secret" => "", "v1", "secrets", "secret", Namespaced, short [], categories [], subresources [];
    "ServiceAccount" => "", "v1", "serviceaccounts", "serviceaccount", Namespaced, short ["sa"], categories [], subresources [Token];
    "Event" => "", "v1", "events", "event", Namespaced, short ["ev"], categories [], subresources [];
    "EndpointSlice" => "discovery.k8s.io", "v1", "endpointslices", "endpointslice", Namespaced, short [], categories [], subresources [];
    "Lease" => "coordination.k8s.io", "v1", "leases", "lease", Namespaced, short [], categories [], subresources [];
    "Deployment" => "apps", "v1", "deployments", "deployment", Namespaced, short ["deploy"], categories ["all"], subresources [Status Scale];
    "ReplicaSet" => "apps", "v1", "replicasets", "replicaset", Namespaced, short ["rs"], categories ["all"], subresources [Status Scale];
    "Role" => "rbac.authorization.k8s.io", "v1", "roles", "role", Namespaced, short [], categories [], subresources [];
    "RoleBinding" => "rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", Namespaced, short [], categories [], subresources [];
    "ClusterRole" => "rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", Cluster, short [], categories [], subresources [];
    "ClusterRoleBinding" => "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "clusterrolebinding", Cluster, short [], categories [], subresources [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_name_a_kind_in_any_usual_way() {
        for word in ["deployments", "deployment", "deploy", "Deployment", "deployments.apps"] {
            assert_eq!(Kind::by_word(word)[0].kind, "Deployment", "{word}");
        }
        let all: Vec<_> = Kind::by_word("all").iter().map(|k| k.kind).collect();
        assert_eq!(all, ["Pod", "Service", "Deployment", "ReplicaSet"]);
        assert!(Kind::by_word("pods.apps").is_empty());
    }

    #[test]
    fn every_row_is_a_type_of_the_schema() {
        assert_eq!(
            Kind::of::<k8s_openapi::api::core::v1::Pod>().unwrap().path(Some("web")),
            "/api/v1/namespaces/web/pods"
        );
        assert_eq!(Kind::by_manifest("apps/v1", "Deployment").unwrap().path(None), "/apis/apps/v1/deployments");
    }
}
