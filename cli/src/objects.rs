//! Whole objects of many kinds, by what they are called.

use std::{collections::BTreeMap, fmt};

use anyhow::Result;
use api::{Kind, kinds::KINDS};
use serde_json::Value;

use crate::{
    manifest::title,
    rest::{Rest, query},
};

/// Objects asked for at once.
const PAGE: &str = "500";

/// What an object is called. In the order of kinds: what others need comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; empty where its kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Id {
    fn order(&self) -> (Option<usize>, &str, &str) {
        (KINDS.iter().position(|kind| kind == self.kind), &self.namespace, &self.name)
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&title(self.kind, &self.name))
    }
}

/// Objects.
pub type Objects = BTreeMap<Id, Value>;

/// The kinds whose objects say what somebody wants, as against what happened.
pub fn wanted_kinds(cluster: bool) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| !kind.is_record() && (cluster || kind.namespaced()))
}

/// All objects of a kind in a namespace, or in all; each says its `apiVersion` and `kind`.
pub async fn list(rest: &Rest, kind: &'static Kind, namespace: Option<&str>, into: &mut Objects) -> Result<()> {
    let mut next = String::new();
    loop {
        let mut options = vec![("limit", PAGE)];
        if !next.is_empty() {
            options.push(("continue", &next));
        }
        let mut page: Value = rest.get(&format!("{}{}", kind.path(namespace), query(&options))).await?;
        let token = page.pointer("/metadata/continue").and_then(Value::as_str);
        next = token.unwrap_or_default().to_owned();
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            into.extend(items.into_iter().map(|item| named(kind, item)));
        }
        if next.is_empty() {
            return Ok(());
        }
    }
}

/// An object with its name.
pub fn named(kind: &'static Kind, mut object: Value) -> (Id, Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = Id { kind, namespace: text("/metadata/namespace"), name: text("/metadata/name") };
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), kind.api_version().into());
        fields.insert("kind".into(), kind.kind.into());
    }
    (id, object)
}
