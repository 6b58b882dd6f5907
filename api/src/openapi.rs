//! The OpenAPI documents that clients read: which fields a kind has, how patches merge them, which query parameters an
//! operation takes.
//!
//! Made from [`crate::schema`] and [`crate::kinds`] alone. Building a document takes milliseconds; the server keeps what it
//! built.

mod gnostic;
mod operations;
mod schemas;

use serde_json::{Map, Value, json};

use crate::{
    kinds::KINDS,
    schema::{Prose, Schema, Type},
};
use operations::Path;

/// What clients accept when they want [`v2_protobuf`]: the newer name and the older.
pub const V2_PROTOBUF_ACCEPTED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];
/// The `Content-Type` of [`v2_protobuf`], whichever name was asked for: Go's parser refuses the older one's `@`.
pub const V2_PROTOBUF: &str = V2_PROTOBUF_ACCEPTED[0];

/// Which version of OpenAPI a part is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0, `/openapi/v2`.
    V2,
    /// OpenAPI 3.0, `/openapi/v3`.
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The documents of `/openapi/v3`, each with its path below that: `api/v1`, `apis/apps/v1`.
pub fn v3() -> Vec<(String, Value)> {
    let prose = Prose::read();
    let mut versions: Vec<_> = KINDS.iter().map(|k| (k.group, k.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let document = |(group, version): (&str, &str)| {
        let root = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        (root, v3_document(group, version, &prose))
    };
    versions.into_iter().map(document).collect()
}

/// The answer to `/openapi/v3`: where each document is, and a name for its content, so that clients keep it.
pub fn v3_index<'a>(documents: impl Iterator<Item = (&'a str, &'a [u8])>) -> Value {
    let entry = |(root, content): (&str, &[u8])| {
        (root.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{root}?hash={}", hash(content))}))
    };
    let paths: Map<_, _> = documents.map(entry).collect();
    json!({"paths": paths})
}

/// Another one as soon as a single byte differs; FNV-1a, as the name must not depend on the process or the compiler.
fn hash(content: &[u8]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in content {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{hash:016X}")
}

fn v3_document(group: &str, version: &str, prose: &Prose) -> Value {
    let paths: Vec<_> =
        KINDS.iter().filter(|k| k.group == group && k.version == version).flat_map(operations::of).collect();
    let mut types: Vec<&'static Type> = Vec::new();
    for name in paths.iter().flat_map(Path::types) {
        schemas::reach(Schema::named(name), &mut types);
    }
    types.sort_by_key(|t| t.name);
    let schemas: Map<_, _> =
        types.iter().map(|t| (t.name.to_owned(), schemas::definition(t, prose, Dialect::V3))).collect();
    let paths: Map<_, _> = paths.iter().map(|p| (p.path.clone(), p.write(Dialect::V3))).collect();
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}})
}

/// The one document of `/openapi/v2`.
pub fn v2() -> Value {
    let prose = Prose::read();
    let types = Schema::types().iter();
    let definitions: Map<_, _> =
        types.map(|t| (t.name.to_owned(), schemas::definition(t, &prose, Dialect::V2))).collect();
    let paths = KINDS.iter().flat_map(operations::of);
    let paths: Map<_, _> = paths.map(|p| (p.path.clone(), p.write(Dialect::V2))).collect();
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions})
}

/// The same as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`, which older kubectls ask for.
pub fn v2_protobuf() -> Vec<u8> {
    gnostic::document(&v2())
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.37.0"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_references(value: &Value, prefix: &str, known: &Map<String, Value>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    let name = target.strip_prefix(prefix).unwrap();
                    assert!(known.contains_key(name), "{target}");
                }
                map.values().for_each(|v| check_references(v, prefix, known));
            }
            Value::Array(items) => items.iter().for_each(|v| check_references(v, prefix, known)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_its_target() {
        for (root, document) in v3() {
            assert!(root.starts_with("api"), "{root}");
            let known = document["components"]["schemas"].as_object().unwrap();
            check_references(&document, "#/components/schemas/", known);
        }
        let document = v2();
        check_references(&document, "#/definitions/", document["definitions"].as_object().unwrap());
    }

    #[test]
    fn clients_find_what_they_look_for() {
        let (_, apps) = v3().into_iter().find(|(root, _)| root == "apis/apps/v1").unwrap();
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<_> =
            patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
            assert!(names.contains(&name), "{name}");
        }
        let scale = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
        assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
        let pod = &v2()["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(pod["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert_eq!(pod["x-kubernetes-patch-merge-key"], "name");
        let replicas = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
        assert!(replicas["description"].as_str().unwrap().starts_with("Number of desired pods."), "{replicas}");
        let index = v3_index([("apis/apps/v1", b"a".as_slice())].into_iter());
        let url = "/openapi/v3/apis/apps/v1?hash=AF63DC4C8601EC8C";
        assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], url);
    }
}
