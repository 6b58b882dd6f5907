//! What takes a namespace back to how it was: a pure function of then and now.
//!
//! The rule: what somebody wanted then is wanted again. What a controller owns is left to its controller, which follows its
//! owner; what happened (Events, Leases) and what is reported (status) is left alone.

use api::transaction::Operation;
use serde_json::{Map, Value};

use crate::objects::{Id, Objects};

/// Annotations that controllers keep up to date begin so.
const CONTROLLERS_OWN: [&str; 1] = ["deployment.kubernetes.io/"];

/// What the cluster itself decides after an object was made, and nobody may change.
const DECIDED: [(&str, &str); 2] = [("/spec", "nodeName"), ("/spec", "volumeName")];

/// Of an object's metadata, what its creator says.
const SAID: [&str; 6] = ["name", "namespace", "labels", "annotations", "finalizers", "ownerReferences"];

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is gone: it is made again.
    Create,
    /// It is different: it is made what it was.
    Restore,
    /// It came since: it goes.
    Delete,
}

impl Change {
    /// The word in a plan.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Restore => "restore",
            Self::Delete => "delete",
        }
    }
}

/// One object's part in a plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which.
    pub id: Id,
    /// What is done to it.
    pub change: Change,
    /// By which operations of a transaction.
    pub operations: Vec<Operation>,
}

/// What to do; nothing when all is as it was. An error says which object cannot be put back yet.
pub fn plan(then: &Objects, now: &Objects) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for (id, old) in then.iter().filter(|(_, old)| !is_owned(old)) {
        match now.get(id) {
            None => steps.push(create(id, old, now)),
            Some(new) if is_going(new) => return Err(format!("{id} is being deleted: try again when it is gone")),
            Some(new) if is_owned(new) => {}
            Some(new) => steps.extend(restore(id, old, new)),
        }
    }
    for (id, new) in now.iter().filter(|(id, new)| !then.contains_key(id) && !is_owned(new) && !is_going(new)) {
        let operations = vec![Operation::Delete(new.clone())];
        steps.push(Step { id: id.clone(), change: Change::Delete, operations });
    }
    Ok(steps)
}

fn is_owned(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

fn is_going(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

fn create(id: &Id, old: &Value, now: &Objects) -> Step {
    let mut wanted = said(old);
    for (parent, field) in DECIDED {
        if let Some(parent) = fields(&mut wanted, parent) {
            parent.remove(field);
        }
    }
    // an owner that is gone, or made again, is not the one that is meant
    let uids: Vec<_> = now.values().filter_map(|object| object.pointer("/metadata/uid")).collect();
    if let Some(Value::Array(owners)) = wanted.pointer_mut("/metadata/ownerReferences") {
        owners.retain(|owner| owner.get("uid").is_some_and(|uid| uids.contains(&uid)));
    }
    let owners = remembered(&wanted, old).map(Operation::Replace);
    let operations = std::iter::once(Operation::Create(wanted)).chain(owners).collect();
    Step { id: id.clone(), change: Change::Create, operations }
}

fn restore(id: &Id, old: &Value, new: &Value) -> Option<Step> {
    let (mut wanted, is) = (said(old), said(new));
    keep(&mut wanted, &is);
    if wanted == is {
        return None;
    }
    let owners = remembered(&wanted, old).map(Operation::Replace);
    // only if it still is as it was when this was decided
    for field in ["uid", "resourceVersion"] {
        let value = new.pointer(&format!("/metadata/{field}")).cloned();
        if let Some((meta, value)) = fields(&mut wanted, "/metadata").zip(value) {
            meta.insert(field.into(), value);
        }
    }
    let operations = std::iter::once(Operation::Replace(wanted)).chain(owners).collect();
    Some(Step { id: id.clone(), change: Change::Restore, operations })
}

/// The same object with its fields belonging to whom they belonged then, so that the next apply of who wrote them finds no
/// conflict. A step of its own: it changes nothing else, so nothing becomes the undoer's.
fn remembered(wanted: &Value, old: &Value) -> Option<Value> {
    let owners = old.pointer("/metadata/managedFields")?.clone();
    let mut wanted = wanted.clone();
    fields(&mut wanted, "/metadata")?.insert("managedFields".into(), owners);
    Some(wanted)
}

fn fields<'a>(object: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    object.pointer_mut(pointer)?.as_object_mut()
}

/// The object without what is not its creator's to say.
fn said(object: &Value) -> Value {
    let mut said = object.clone();
    if let Some(object) = said.as_object_mut() {
        object.remove("status");
    }
    if let Some(meta) = fields(&mut said, "/metadata") {
        meta.retain(|name, _| SAID.contains(&name.as_str()));
    }
    said
}

/// What is not to be taken back stays as it is.
fn keep(wanted: &mut Value, is: &Value) {
    for (parent, field) in DECIDED {
        let value = is.pointer(parent).and_then(|parent| parent.get(field)).cloned();
        if let Some((parent, value)) = fields(wanted, parent).zip(value) {
            parent.insert(field.to_owned(), value);
        }
    }
    let finalizers = is.pointer("/metadata/finalizers").cloned();
    let owned = |key: &str| CONTROLLERS_OWN.iter().any(|prefix| key.starts_with(prefix));
    let kept: Vec<_> = is
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| owned(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let Some(meta) = fields(wanted, "/metadata") else { return };
    match finalizers {
        Some(finalizers) => drop(meta.insert("finalizers".into(), finalizers)),
        None => drop(meta.remove("finalizers")),
    }
    let annotations = meta.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.retain(|key, _| !owned(key));
        annotations.extend(kept);
    }
    if meta.get("annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
        meta.remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::named;

    fn map(name: &str, value: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "7", "managedFields": [{"manager": "me"}]},
            "data": {"a": value},
        })
    }

    fn objects(all: &[Value]) -> Objects {
        let kind = api::Kind::by_manifest("v1", "ConfigMap").unwrap();
        all.iter().cloned().map(|object| named(kind, object)).collect()
    }

    fn shown(then: &[Value], now: &[Value]) -> Vec<String> {
        let steps = plan(&objects(then), &objects(now)).unwrap();
        steps.iter().map(|step| format!("{} {}", step.change.word(), step.id)).collect()
    }

    fn with(mut object: Value, pointer: &str, field: &str, value: Value) -> Value {
        fields(&mut object, pointer).unwrap().insert(field.into(), value);
        object
    }

    #[test]
    fn what_is_gone_comes_back_what_came_goes_and_what_changed_is_restored() {
        let then = [map("gone", "1"), map("changed", "1"), map("same", "1")];
        let now = [map("changed", "2"), map("same", "1"), map("new", "1")];
        assert_eq!(shown(&then, &now), ["restore configmap/changed", "create configmap/gone", "delete configmap/new"]);
        assert_eq!(shown(&then, &then), [""; 0]);
    }

    #[test]
    fn what_controllers_own_and_report_is_left_to_them() {
        let owned = |object| with(object, "/metadata", "ownerReferences", json!([{"uid": "x", "controller": true}]));
        assert_eq!(shown(&[owned(map("a", "1"))], &[owned(map("b", "1"))]), [""; 0]);
        let reported = with(map("a", "1"), "", "status", json!({"phase": "Running"}));
        assert_eq!(shown(&[map("a", "1")], &[reported]), [""; 0]);
        let rolled = json!({"deployment.kubernetes.io/revision": "2"});
        assert_eq!(shown(&[map("a", "1")], &[with(map("a", "1"), "/metadata", "annotations", rolled)]), [""; 0]);
    }

    #[test]
    fn a_restored_object_must_still_be_the_one_that_was_looked_at_and_its_fields_their_owners() {
        let steps = plan(&objects(&[map("a", "1")]), &objects(&[map("a", "2")])).unwrap();
        let [Operation::Replace(first), Operation::Replace(second)] = steps[0].operations.as_slice() else {
            panic!("{steps:?}")
        };
        assert_eq!(first.pointer("/metadata/resourceVersion"), Some(&json!("7")));
        assert_eq!((first.pointer("/data/a"), second.pointer("/data/a")), (Some(&json!("1")), Some(&json!("1"))));
        assert_eq!(first.pointer("/metadata/managedFields"), None);
        assert_eq!(second.pointer("/metadata/managedFields/0/manager"), Some(&json!("me")));
    }

    #[test]
    fn a_created_object_is_placed_anew_and_forgets_owners_that_are_gone() {
        let placed = with(map("a", "1"), "", "spec", json!({"nodeName": "n1", "x": 1}));
        let placed = with(placed, "/metadata", "ownerReferences", json!([{"uid": "gone"}, {"uid": "there"}]));
        let steps = plan(&objects(&[placed, map("there", "1")]), &objects(&[map("there", "1")])).unwrap();
        let made = steps[0].operations[0].object();
        assert_eq!(made.pointer("/spec"), Some(&json!({"x": 1})));
        assert_eq!(made.pointer("/metadata/ownerReferences"), Some(&json!([{"uid": "there"}])));
        assert_eq!(made.pointer("/metadata/uid"), None);
    }

    #[test]
    fn what_is_going_is_waited_for() {
        let going = with(map("a", "1"), "/metadata", "deletionTimestamp", json!("2026-01-01T00:00:00Z"));
        let error = plan(&objects(&[map("a", "1")]), &objects(&[going])).unwrap_err();
        assert_eq!(error, "configmap/a is being deleted: try again when it is gone");
    }
}
