//! The filter: which objects of a kind a reader asked for.

use api::{
    Kind,
    selector::{FieldSelector, Selector},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::{item::Item, registry::Entry};

/// One condition on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// Index into the entry's fields.
    field: usize,
    value: String,
    equal: bool,
}

/// Objects that fulfil everything that is given here.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this namespace; all when none.
    pub namespace: Option<String>,
    name: Option<String>,
    /// `metadata.name` and `metadata.namespace` with `!=`, and namespace equality: rare, hence a list.
    identity: Vec<(bool, String, bool)>,
    labels: Option<Selector>,
    fields: Vec<Requirement>,
}

impl Filter {
    /// The filter for a namespace (none: all) and the two selectors of the query. 400 for what does not parse or names a
    /// field that the kind does not offer.
    pub fn new(entry: &dyn Entry, namespace: Option<&str>, labels: &str, fields: &str) -> Result<Self, Box<Status>> {
        let bad = |why: String| Box::new(api::status::bad_request(why));
        let labels = if labels.is_empty() {
            None
        } else {
            Some(labels.parse().map_err(|e: api::selector::Error| bad(format!("unable to parse requirement: {e}")))?)
        };
        let mut filter = Self { namespace: namespace.map(Into::into), labels, ..Self::default() };
        let names = entry.field_names();
        let selector: FieldSelector = fields.parse().map_err(|e: api::selector::Error| bad(e.to_string()))?;
        for term in selector.terms {
            let (name, value, equal) = (term.field, term.value, term.equal);
            match name.as_str() {
                "metadata.name" if equal && filter.name.is_none() => filter.name = Some(value),
                "metadata.name" => filter.identity.push((false, value, equal)),
                "metadata.namespace" => filter.identity.push((true, value, equal)),
                _ => {
                    let field =
                        names.iter().position(|n| *n == name).ok_or_else(|| bad(unknown(entry.kind(), &name)))?;
                    filter.fields.push(Requirement { field, value, equal });
                }
            }
        }
        Ok(filter)
    }

    /// One object.
    pub fn named(namespace: Option<&str>, name: &str) -> Self {
        Self { namespace: namespace.map(Into::into), name: Some(name.into()), ..Self::default() }
    }

    /// The one object that can match, as an item's id, when namespace and name are both given.
    pub fn id(&self, kind: &Kind) -> Option<String> {
        let name = self.name.as_ref()?;
        if kind.namespaced() { self.namespace.as_ref().map(|ns| format!("{ns}/{name}")) } else { Some(name.clone()) }
    }

    /// The name that must match, if one is given.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// A field and the value that it must have: what changes are indexed by, so that a change of one node's pod does not
    /// wake the watchers of all others.
    pub fn trigger(&self) -> Option<(usize, &str)> {
        self.fields.iter().find(|r| r.equal).map(|r| (r.field, r.value.as_str()))
    }

    /// Every object of the kind matches.
    pub fn is_all(&self) -> bool {
        self.namespace.is_none()
            && self.name.is_none()
            && self.identity.is_empty()
            && self.labels.is_none()
            && self.fields.is_empty()
    }

    /// Nothing but the namespace decides.
    pub fn is_namespace_only(&self) -> bool {
        self.name.is_none() && self.identity.is_empty() && self.labels.is_none() && self.fields.is_empty()
    }

    /// Whether the object is one that was asked for.
    pub fn matches(&self, entry: &dyn Entry, item: &Item) -> bool {
        if self.namespace.as_ref().is_some_and(|ns| item.namespace() != ns)
            || self.name.as_ref().is_some_and(|name| item.name() != name)
        {
            return false;
        }
        let identity = |(namespace, value, equal): &(bool, String, bool)| {
            let is = if *namespace { item.namespace() } else { item.name() };
            (is == value) == *equal
        };
        if !self.identity.iter().all(identity) {
            return false;
        }
        if self.labels.is_none() && self.fields.is_empty() {
            return true;
        }
        let facts = item.facts(entry);
        self.fields.iter().all(|r| facts.fields.get(r.field).is_some_and(|f| (*f == r.value) == r.equal))
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&facts.labels))
    }
}

fn unknown(kind: &Kind, name: &str) -> String {
    // upstream: pkg/apis/core/v1/conversion.go, and runtime.DefaultMetaV1FieldSelectorConversion for all others
    if kind.group.is_empty() {
        format!("field label not supported: {name}")
    } else {
        format!(
            "{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\" and the kind's own"
        )
    }
}
