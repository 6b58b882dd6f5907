//! Sets of field paths, as `fieldsV1` writes them (KEP-555): `{"f:spec":{"f:replicas":{}}}`.
//!
//! A path is a chain of steps: `f:NAME` into a field or map entry, `k:{"name":"a"}` to the item of a list with these key
//! values, `v:VALUE` to the item of a set, `i:N` to the N-th item. A step whose value is `{}` or holds `.` is in the set
//! itself. The set is kept in that very form, a tree of steps, so that reading and writing it is all but a copy.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value};

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is in the set.
    pub(super) itself: bool,
    /// What lies below; never an empty set.
    pub(super) below: BTreeMap<Box<str>, FieldSet>,
}

impl FieldSet {
    /// The set of one path that ends here.
    pub(super) fn leaf() -> Self {
        Self { itself: true, below: BTreeMap::new() }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.itself && self.below.is_empty()
    }

    /// Adds what lies below a step, unless that is empty.
    pub(super) fn put(&mut self, step: impl Into<Box<str>>, below: Self) {
        if !below.is_empty() {
            self.below.insert(step.into(), below);
        }
    }

    /// Reads `fieldsV1`. What makes no sense is left out: managed fields never refuse a write.
    pub fn decode(fields: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.itself = true;
            } else if let Some(step) = canonical(step) {
                let mut child = Self::decode(below);
                child.itself |= below.as_object().is_none_or(Map::is_empty);
                set.put(step, child);
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn encode(&self) -> Value {
        let dot = (self.itself && !self.below.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
        let below = self.below.iter().map(|(step, set)| (step.to_string(), set.encode()));
        Value::Object(dot.into_iter().chain(below).collect())
    }

    /// The paths of either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        self.itself |= other.itself;
        for (step, below) in &other.below {
            match self.below.get_mut(step) {
                Some(mine) => mine.add(below),
                None => {
                    self.below.insert(step.clone(), below.clone());
                }
            }
        }
    }

    /// The paths of this one that `other` does not have.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other);
        self
    }

    fn subtract(&mut self, other: &Self) {
        self.itself &= !other.itself;
        for (step, below) in &other.below {
            if let Some(mine) = self.below.get_mut(step) {
                mine.subtract(below);
                if mine.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    /// The paths of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self { itself: self.itself && other.itself, below: BTreeMap::new() };
        for (step, below) in &self.below {
            if let Some(theirs) = other.below.get(step) {
                both.put(step.clone(), below.intersection(theirs));
            }
        }
        both
    }

    /// Whether a set that is still in its written form has a path of this one.
    pub(super) fn touches(&self, written: &Value) -> bool {
        let Some(map) = written.as_object() else { return false };
        (self.itself && (map.is_empty() || map.contains_key(".")))
            || self.below.iter().any(|(step, below)| match map.get(&**step) {
                Some(theirs) => below.touches(theirs),
                None => false,
            })
    }

    /// The paths, as messages name them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        if self.itself {
            paths.push(path.clone());
        }
        for (step, below) in &self.below {
            let length = path.len();
            describe(step, path);
            below.collect(path, paths);
            path.truncate(length);
        }
    }
}

/// Appends a step to a path in the form of messages.
fn describe(step: &str, path: &mut String) {
    let written = match step.split_at_checked(2) {
        Some(("f:", name)) => write!(path, ".{name}"),
        Some(("v:", value)) => write!(path, "[={value}]"),
        Some(("k:", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(path, "[{}]", keys.join(","))
        }
        Some((_, index)) => write!(path, "[{index}]"),
        None => Ok(()),
    };
    written.expect("invariant: writing to a string does not fail");
}

/// The step in the form that we write: keys ordered, no spaces. None if it is no step.
fn canonical(step: &str) -> Option<Box<str>> {
    match step.split_at_checked(2)? {
        ("f:", _) => Some(step.into()),
        ("k:", keys) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).ok()?;
            Some(format!("k:{}", serde_json::to_string(&keys).ok()?).into())
        }
        ("v:", value) => Some(format!("v:{}", serde_json::from_str::<Value>(value).ok()?).into()),
        ("i:", index) => index.parse::<u32>().ok().map(|_| step.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reading_and_writing_is_the_identity() {
        let written = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "i:0": {}}});
        assert_eq!(FieldSet::decode(&written).encode(), written);
        let foreign = json!({"f:ports": {"k:{\"protocol\":\"TCP\", \"containerPort\":80}": {}}, "x": {}, "k:no": {}});
        assert_eq!(
            FieldSet::decode(&foreign).encode(),
            json!({"f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}}})
        );
    }

    #[test]
    fn paths_read_as_upstreams() {
        let set = FieldSet::decode(&json!({"f:metadata": {"f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}}));
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers[=\"a\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].name"
            ]
        );
    }

    #[test]
    fn sets_have_their_arithmetic() {
        let set = |v: Value| FieldSet::decode(&v);
        let a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = set(json!({"f:a": {"f:b": {}, "f:d": {}}}));
        assert_eq!(a.clone().union(&b), set(json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}})));
        assert_eq!(a.clone().difference(&b), set(json!({"f:a": {}, "f:c": {}})));
        assert_eq!(a.intersection(&b), set(json!({"f:a": {"f:b": {}}})));
        assert!(b.touches(&a.encode()) && !b.touches(&json!({"f:c": {}, "f:a": {}})));
    }
}
