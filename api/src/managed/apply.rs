//! Server-side apply: the object as the applier wants it, laid over the live one, as far as no other manager objects
//! (upstream's `structured-merge-diff/merge/update.go` and `managedfields/internal/lastapplied*.go`).

use serde_json::{Map, Value};

use super::{
    ApplyError, Conflict, Writer, compare,
    compare::compare as differ,
    entries::{self, Entry, Operation},
    fields::FieldSet,
    ignored,
    nature::Nature,
    structure,
};
use crate::schema::Type;

/// The manager of what was there before anybody applied, as upstream.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The manager whose server-side apply takes over from its client-side apply.
const KUBECTL: &str = "kubectl";
/// Where client-side apply remembers what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Upstream's limit on the sum of an object's annotations.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Lays `applied` over `live` and returns the object with its new `managedFields`.
///
/// Fields that the manager applied before and does not apply now are removed, unless another manager has them too.
/// The live object is returned as it is when nothing changes, neither in the object nor in who owns what.
///
/// # Errors
/// Fields that another manager owns and that would change, unless `force`; an applied object that makes no sense.
pub fn apply(
    ty: &'static Type,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    check(ty, applied)?;
    match attempt(ty, live, applied, writer, force) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == KUBECTL => {
            let allowed = live.map(|live| last_applied(ty, live)).unwrap_or_default();
            let rest: Vec<_> = conflicts
                .into_iter()
                .filter_map(|c| Conflict { fields: c.fields.difference(&allowed), ..c }.some())
                .collect();
            if rest.is_empty() { attempt(ty, live, applied, writer, true) } else { Err(ApplyError::Conflicts(rest)) }
        }
        result => result,
    }
}

fn check(ty: &'static Type, applied: &Value) -> Result<(), ApplyError> {
    if applied.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".into()));
    }
    if !applied.is_object() {
        return Err(ApplyError::Invalid("an apply configuration is an object".into()));
    }
    structure::unclear(Nature::of(ty), applied).map_or(Ok(()), |why| Err(ApplyError::Invalid(why)))
}

fn attempt(
    ty: &'static Type,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let nature = Nature::of(ty);
    let empty = Value::Object(Map::new());
    let before = live.unwrap_or(&empty);
    let mut managed = entries_of(ty, live, writer);
    let all = structure::paths(nature, applied);
    let set = ignored(writer.subresource, ty, all.clone());

    let own = managed.iter().position(|e| e.is_of(writer, Operation::Apply)).map(|i| managed.remove(i));
    let merged = structure::merged(nature, before, applied);
    let last = own.as_ref().map(Entry::fields);
    let mut object = match &last {
        Some(last) => pruned(nature, &merged, last, &all, &managed),
        None => merged,
    };
    structure::drop_nulls(&mut object);

    let compare::Difference { changed, removed } = differ(nature, Some(before), Some(&object));
    let changed = ignored(writer.subresource, ty, changed);
    let removed = ignored(writer.subresource, ty, removed);
    let conflicts: Vec<_> = managed.iter().filter_map(|e| conflict(e, &changed)).collect();
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    for entry in &mut managed {
        entry.give_up(&changed);
        entry.give_up(&removed);
    }
    let same_owner = own.as_ref().is_some_and(|e| last.as_ref() == Some(&set) && e.api_version == writer.api_version);
    if same_owner && live == Some(&object) {
        return Ok(object);
    }
    managed.push(Entry::new(writer, Operation::Apply, &set));
    if writer.manager == KUBECTL {
        renew_last_applied(&mut object, applied);
    }
    entries::set(&mut object, managed);
    Ok(object)
}

/// The live entries; where there are none, an entry for all that is there.
fn entries_of(ty: &'static Type, live: Option<&Value>, writer: &Writer<'_>) -> Vec<Entry> {
    let Some(live) = live else { return Vec::new() };
    let mut managed = entries::of(live);
    if managed.is_empty() {
        let fields = differ(Nature::of(ty), Some(&super::skeleton(live)), Some(live)).changed;
        let before = Writer { manager: BEFORE_FIRST_APPLY, subresource: "", ..*writer };
        managed.push(Entry::new(&before, Operation::Update, &super::strip(fields)));
    }
    managed
}

fn conflict(entry: &Entry, changed: &FieldSet) -> Option<Conflict> {
    if !entry.has_any(changed) {
        return None;
    }
    Conflict { manager: entry.describe(), fields: entry.fields().intersection(changed) }.some()
}

/// The merged object without what the manager applied before and does not apply now: upstream's `prune`.
fn pruned(nature: Nature, merged: &Value, last: &FieldSet, set: &FieldSet, others: &[Entry]) -> Value {
    let full = |set: &FieldSet| structure::with_parents(nature, set);
    let cut = structure::without(nature, merged, &full(last));
    let all = full(&structure::paths(nature, merged));
    let kept = full(&structure::paths(nature, &cut));
    // What somebody owns comes back, and what was only below a field that was cut.
    let owned = others.iter().fold(set.clone(), |sum, e| sum.union(&e.fields()));
    let gone = all.clone().difference(&kept.clone().union(&full(&owned)));
    let back = structure::without(nature, merged, &gone);
    let kept = full(&structure::paths(nature, &back));
    structure::without(nature, merged, &all.difference(&kept).intersection(&full(last)))
}

/// What client-side apply remembers and is still so: taking that over is no conflict.
fn last_applied(ty: &'static Type, live: &Value) -> FieldSet {
    let Some(Value::String(text)) = live.get("metadata").and_then(|m| m.get("annotations")?.get(LAST_APPLIED)) else {
        return FieldSet::default();
    };
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
    let nature = Nature::of(ty);
    let compare::Difference { changed, removed } = differ(nature, Some(&applied), Some(live));
    structure::paths(nature, &applied).difference(&changed).difference(&removed)
}

/// Keeps client-side apply's memory true, where there is one: the annotation is what was applied now.
fn renew_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(own) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    let text = format!("{applied}\n");
    if text.len() < ANNOTATIONS_BYTES_MAX {
        annotations.insert(LAST_APPLIED.to_owned(), text.into());
    } else {
        annotations.remove(LAST_APPLIED);
    }
}
