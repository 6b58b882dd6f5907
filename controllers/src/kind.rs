//! Kinds that are only known by their row in [`api::kinds`].

use api::Kind;
use kube::core::ApiResource;

/// What kube's dynamic client needs to know about a kind.
pub fn resource(kind: &Kind) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}
