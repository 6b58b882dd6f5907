//! The item: one stored object as the bytes that every reader is sent.
//!
//! The store holds `{"apiVersion":…,"kind":…,"metadata":{…},…}` without `resourceVersion`, which is the store's own
//! revision. It is spliced in once, when the object is read from the store; after that GET, LIST and every watcher are sent the
//! same bytes.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, OnceLock},
};

use api::Kind;
use bytes::Bytes;
use store::Revision;

use crate::registry::{Entry, Stored};

/// What selectors look at.
#[derive(Debug, Default)]
pub struct Facts {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The values of the entry's fields, in the entry's order.
    pub fields: Vec<String>,
}

/// One object at one revision.
pub struct Item {
    /// `namespace/name`, or `name` for cluster-scoped kinds.
    pub id: Arc<str>,
    /// The revision that last wrote it.
    pub revision: Revision,
    /// The revision that created it.
    pub created: Revision,
    /// The lease that it dies with; 0 for none.
    pub lease: store::LeaseId,
    /// The object as JSON, with `resourceVersion`.
    pub body: Bytes,
    facts: OnceLock<Facts>,
}

const FIELD: &[u8] = b"\"resourceVersion\":\"";

/// How every stored object of a kind begins.
pub fn opening(kind: &Kind) -> String {
    format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{", kind.api_version(), kind.kind)
}

impl Item {
    /// The item for an entry of the store; none when the value does not begin as objects of the kind do.
    pub fn new(opening: &str, id: Arc<str>, entry: &store::Entry) -> Option<Self> {
        let rest = entry.value.strip_prefix(opening.as_bytes())?;
        let item = Self {
            id,
            revision: entry.mod_revision,
            created: entry.create_revision,
            lease: entry.lease,
            body: splice(opening, entry.mod_revision, rest),
            facts: OnceLock::new(),
        };
        Some(item)
    }

    /// The same object as it was last, stamped with the revision that removed it, as a DELETED event shows it.
    #[must_use]
    pub fn stamped(&self, opening: &str, revision: Revision) -> Self {
        let after = &self.body[opening.len() + FIELD.len()..];
        let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
        Self {
            id: Arc::clone(&self.id),
            revision,
            created: self.created,
            lease: self.lease,
            body: splice(opening, revision, &after[digits + 2..]),
            facts: OnceLock::new(),
        }
    }

    /// The namespace; empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.id.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.id.split_once('/').map_or(&self.id, |(_, name)| name)
    }

    /// The object itself.
    pub fn decode(&self, entry: &dyn Entry) -> serde_json::Result<Box<dyn Stored>> {
        entry.decode(&self.body)
    }

    /// What selectors look at, read at most once.
    pub fn facts(&self, entry: &dyn Entry) -> &Facts {
        self.facts.get_or_init(|| match self.decode(entry) {
            Ok(object) => {
                Facts { labels: object.meta().labels.clone().unwrap_or_default(), fields: entry.field_values(&*object) }
            }
            Err(error) => {
                tracing::error!(id = %self.id, %error, "stored object does not decode, no selector will match it");
                Facts::default()
            }
        })
    }
}

/// The object with `resourceVersion` as the first field of its metadata.
fn splice(opening: &str, revision: Revision, rest: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(opening.len() + FIELD.len() + 22 + rest.len());
    body.extend_from_slice(opening.as_bytes());
    body.extend_from_slice(FIELD);
    write!(body, "{revision}\",").expect("invariant: writing to a vector does not fail");
    body.extend_from_slice(rest);
    body.into()
}

/// The bytes to store: `metadata` moved to the front, `resourceVersion` left out.
pub fn encode(opening: &str, object: &dyn Stored) -> serde_json::Result<Vec<u8>> {
    let json = if object.meta().resource_version.is_some() {
        let mut copy = object.boxed();
        copy.meta_mut().resource_version = None;
        copy.encode()?
    } else {
        object.encode()?
    };
    if json.starts_with(opening.as_bytes()) {
        return Ok(json);
    }
    let Some((start, end)) = metadata(&json) else { return Ok(json) };
    let head = &opening.as_bytes()[..opening.len() - b"\"metadata\":{".len()];
    let mut moved = Vec::with_capacity(json.len());
    moved.extend_from_slice(head);
    moved.extend_from_slice(&json[start..end]);
    moved.extend_from_slice(&json[head.len() - 1..start - 1]);
    moved.extend_from_slice(&json[end..]);
    Ok(moved)
}

/// Where the top-level member `"metadata":{…}` begins and ends. It is never the first member.
pub fn metadata(json: &[u8]) -> Option<(usize, usize)> {
    let (mut depth, mut at, mut start) = (0_u32, 0, None);
    while at < json.len() {
        match json[at] {
            b'"' => {
                if depth == 1 && start.is_none() && json[at..].starts_with(b"\"metadata\":{") {
                    start = Some(at);
                }
                at = string_end(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if let Some(start) = start.filter(|_| depth == 1) {
                    return Some((start, at + 1));
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn string_end(json: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < json.len() {
        match json[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};

    use super::*;

    fn round(object: &dyn Stored, kind: &str) -> (Vec<u8>, Item) {
        let opening = opening(Kind::by_manifest("v1", kind).unwrap());
        let value = encode(&opening, object).unwrap();
        let entry = store::Entry {
            key: Bytes::from_static(b"/registry/core/x/ns/a"),
            value: value.clone().into(),
            create_revision: 3,
            mod_revision: 17,
            version: 2,
            lease: 0,
        };
        let item = Item::new(&opening, "ns/a".into(), &entry).unwrap();
        (value, item)
    }

    #[test]
    fn metadata_comes_first_and_the_revision_is_spliced_in() {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".into());
        map.metadata.resource_version = Some("9".into());
        map.data = Some([("metadata".to_owned(), "\"metadata\":{\\".to_owned())].into());
        map.immutable = Some(true);
        let (value, item) = round(&map, "ConfigMap");
        assert!(value.starts_with(b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}"));
        let mut read: ConfigMap = serde_json::from_slice(&item.body).unwrap();
        assert_eq!(read.metadata.resource_version.as_deref(), Some("17"));
        read.metadata.resource_version = map.metadata.resource_version.clone();
        assert_eq!(read, map);
    }

    #[test]
    fn a_deleted_object_carries_the_revision_of_its_end() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("a".into());
        let opening = opening(Kind::by_manifest("v1", "Pod").unwrap());
        let (_, item) = round(&pod, "Pod");
        let end: Pod = serde_json::from_slice(&item.stamped(&opening, 12345).body).unwrap();
        assert_eq!(end.metadata.resource_version.as_deref(), Some("12345"));
        assert_eq!((item.namespace(), item.name()), ("ns", "a"));
    }
}
