//! Discovery: what is served, in the aggregated form (KEP-3352) and the older one, made once at start.

mod openapi;
pub mod version;

use api::{Kind, Subresource, transaction};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    handlers::review,
    negotiate,
    registry::Registry,
    reply::{self, Answer, Response},
};

/// A kind that is only ever created, and never stored.
#[derive(Clone, Copy)]
struct Virtual {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
}

fn virtuals() -> impl Iterator<Item = Virtual> {
    let reviews = review::KINDS.iter().map(|v| Virtual {
        group: v.group,
        version: v.version,
        plural: v.plural,
        kind: v.kind,
        namespaced: v.namespaced,
    });
    let transactions = Virtual {
        group: transaction::GROUP,
        version: transaction::VERSION,
        plural: transaction::PLURAL,
        kind: transaction::KIND,
        namespaced: false,
    };
    reviews.chain([transactions])
}

/// What can be done with every kind.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A document and its entity tag.
struct Document {
    bytes: Bytes,
    tag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        let tag = hex::encode_upper(&Sha256::digest(&bytes)[..16]);
        Self { bytes, tag }
    }
}

/// All documents.
pub struct Discovery {
    /// Below `/api` and `/apis`, in version `v2` and `v2beta1`.
    aggregated: Vec<(&'static str, &'static str, Document)>,
    /// By path.
    legacy: Vec<(String, Document)>,
    openapi: openapi::Documents,
}

impl Discovery {
    /// The documents for what the registry serves.
    pub fn new(registry: &Registry) -> Self {
        let kinds: Vec<_> = registry.entries().iter().map(|e| e.kind()).collect();
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        let rows = kinds.iter().map(|k| (k.group, k.version)).chain(virtuals().map(|v| (v.group, v.version)));
        for (group, version) in rows {
            match groups.iter_mut().find(|(g, _)| *g == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        let mut aggregated = Vec::new();
        for version in ["v2", "v2beta1"] {
            for root in ["/api", "/apis"] {
                aggregated.push((root, version, Document::new(&together(&kinds, &groups, root, version))));
            }
        }
        Self { aggregated, legacy: legacy(&kinds, &groups), openapi: openapi::Documents::default() }
    }

    /// The document of this path; none when there is none. `servers` are the URLs of all that serve, which `/api` tells.
    pub fn find(&self, path: &str, headers: &HeaderMap, servers: impl Fn() -> Vec<String>) -> Option<Answer<Response>> {
        if path.starts_with("/openapi/") {
            return self.openapi.find(path, headers);
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let (_, plain) = self.legacy.iter().find(|(p, _)| p == path)?;
        let versions = (path == "/api").then(|| Document::new(&versions(&servers())));
        let plain = versions.as_ref().unwrap_or(plain);
        for accepted in negotiate::accepted(headers) {
            let aggregated = accepted.param("g") == "apidiscovery.k8s.io"
                && accepted.param("as") == "APIGroupDiscoveryList"
                && accepted.media_type == reply::JSON;
            let found = self.aggregated.iter().find(|(root, v, _)| *root == path && *v == accepted.param("v"));
            if let Some((_, version, document)) = found.filter(|_| aggregated) {
                let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
                return Some(Ok(tagged(document, &media_type, headers)));
            }
            if matches!(accepted.media_type, "application/json" | "application/*" | "*/*")
                && accepted.param("as").is_empty()
            {
                return Some(Ok(tagged(plain, reply::JSON, headers)));
            }
        }
        let any = !headers.contains_key(header::ACCEPT);
        Some(if any { Ok(tagged(plain, reply::JSON, headers)) } else { Err(negotiate::not_acceptable()) })
    }
}

/// The document, or 304 when the client has it.
fn tagged(document: &Document, media_type: &str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", document.tag);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(&tag));
    let mut response = if known {
        reply::typed(StatusCode::NOT_MODIFIED, media_type, Bytes::new())
    } else {
        reply::typed(StatusCode::OK, media_type, document.bytes.clone())
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// Verbs and the kind that a subresource speaks, where it is not the object's own.
fn speaks(sub: Subresource) -> (&'static [&'static str], Option<(&'static str, &'static str, &'static str)>) {
    match sub {
        Subresource::Status => (&["get", "patch", "update"], None),
        Subresource::Scale => (&["get", "patch", "update"], Some(("autoscaling", "v1", "Scale"))),
        Subresource::Binding => (&["create"], Some(("", "v1", "Binding"))),
        Subresource::Eviction => (&["create"], Some(("policy", "v1", "Eviction"))),
        Subresource::Log => (&["get"], None),
        Subresource::Exec => (&["create", "get"], Some(("", "v1", "PodExecOptions"))),
        Subresource::Token => (&["create"], Some(("authentication.k8s.io", "v1", "TokenRequest"))),
        Subresource::Finalize => (&["update"], None),
    }
}

fn together(kinds: &[&'static Kind], groups: &[(&'static str, Vec<&'static str>)], root: &str, version: &str) -> Value {
    let here = groups.iter().filter(|(group, _)| group.is_empty() == (root == "/api"));
    let items: Vec<_> = here
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|v| json!({"version": v, "resources": resources(kinds, group, v), "freshness": "Current"}))
                .collect();
            let meta = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn resources(kinds: &[&'static Kind], group: &str, version: &str) -> Vec<Value> {
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let of = kinds.iter().filter(|k| k.group == group && k.version == version);
    let stored = of.map(|kind| {
        let subresources: Vec<_> = kind
            .subresources
            .iter()
            .map(|sub| {
                let (verbs, other) = speaks(*sub);
                let (g, v, k) = other.unwrap_or((kind.group, kind.version, kind.kind));
                json!({"subresource": sub.name(), "responseKind": gvk(g, v, k), "verbs": verbs})
            })
            .collect();
        let mut resource = json!({
            "resource": kind.plural,
            "responseKind": gvk(kind.group, kind.version, kind.kind),
            "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": VERBS,
        });
        let mut put = |name: &str, value: Value, empty: bool| {
            if let Some(fields) = resource.as_object_mut().filter(|_| !empty) {
                fields.insert(name.to_owned(), value);
            }
        };
        put("shortNames", json!(kind.short), kind.short.is_empty());
        put("categories", json!(kind.categories), kind.categories.is_empty());
        put("subresources", json!(subresources), kind.subresources.is_empty());
        resource
    });
    let virtuals = virtuals().filter(|v| v.group == group && v.version == version).map(|v| {
        json!({
            "resource": v.plural,
            "responseKind": gvk(v.group, v.version, v.kind),
            "scope": if v.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": v.kind.to_lowercase(),
            "verbs": ["create"],
        })
    });
    stored.chain(virtuals).collect()
}

/// What `/api` says: the versions of the core group, and which servers there are to go to.
fn versions(servers: &[String]) -> Value {
    let addresses = servers.iter().map(|url| url.trim_start_matches("https://"));
    let all: Vec<_> = addresses.map(|at| json!({"clientCIDR": "0.0.0.0/0", "serverAddress": at})).collect();
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": all})
}

fn legacy(kinds: &[&'static Kind], groups: &[(&'static str, Vec<&'static str>)]) -> Vec<(String, Document)> {
    let mut documents = vec![("/api".to_owned(), versions(&[]))];
    let group = |name: &str, versions: &[&str]| {
        let all: Vec<_> =
            versions.iter().map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v})).collect();
        json!({"name": name, "preferredVersion": all.first(), "versions": all})
    };
    let named: Vec<_> = groups.iter().filter(|(name, _)| !name.is_empty()).collect();
    let all: Vec<_> = named.iter().map(|(name, versions)| group(name, versions)).collect();
    documents.push(("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})));
    for (name, versions) in &named {
        let mut one = group(name, versions);
        if let Some(fields) = one.as_object_mut() {
            fields.insert("kind".into(), "APIGroup".into());
            fields.insert("apiVersion".into(), "v1".into());
        }
        documents.push((format!("/apis/{name}"), one));
    }
    for (name, versions) in groups {
        for version in versions {
            let (path, gv) = match *name {
                "" => (format!("/api/{version}"), (*version).to_owned()),
                name => (format!("/apis/{name}/{version}"), format!("{name}/{version}")),
            };
            let list = older(kinds, name, version);
            documents.push((
                path,
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": list}),
            ));
        }
    }
    documents.into_iter().map(|(path, value)| (path, Document::new(&value))).collect()
}

fn older(kinds: &[&'static Kind], group: &str, version: &str) -> Vec<Value> {
    let mut list = Vec::new();
    for kind in kinds.iter().filter(|k| k.group == group && k.version == version) {
        let mut row = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced(),
            "kind": kind.kind,
            "verbs": VERBS,
        });
        if let Some(fields) = row.as_object_mut() {
            if !kind.short.is_empty() {
                fields.insert("shortNames".into(), json!(kind.short));
            }
            if !kind.categories.is_empty() {
                fields.insert("categories".into(), json!(kind.categories));
            }
        }
        list.push(row);
        for sub in kind.subresources {
            let (verbs, other) = speaks(*sub);
            let mut row = json!({
                "name": format!("{}/{}", kind.plural, sub.name()),
                "singularName": "",
                "namespaced": kind.namespaced(),
                "kind": other.map_or(kind.kind, |(_, _, k)| k),
                "verbs": verbs,
            });
            if let Some(((g, v, _), fields)) = other.zip(row.as_object_mut()) {
                fields.insert("group".into(), g.into());
                fields.insert("version".into(), v.into());
            }
            list.push(row);
        }
    }
    for v in virtuals().filter(|v| v.group == group && v.version == version) {
        list.push(json!({
            "name": v.plural,
            "singularName": v.kind.to_lowercase(),
            "namespaced": v.namespaced,
            "kind": v.kind,
            "verbs": ["create"],
        }));
    }
    list
}
