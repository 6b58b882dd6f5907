//! Upstream's strategic merge patch (`apimachinery/pkg/util/strategicpatch`): a merge patch that knows which lists are
//! maps in truth, by the merge key of their items.
//!
//! # Directives
//! * `$patch: replace | delete | merge` inside an object; in an item of a merged list, `delete` removes the item that has
//!   the same key and `replace` the whole list.
//! * `$deleteFromPrimitiveList/FIELD: [values]` removes scalars from a merged list.
//! * `$setElementOrder/FIELD: [items]` orders the merged list; what the patch does not name keeps its place among them.
//! * `$retainKeys: [fields]` removes every field that is not named: how a union such as a volume changes its member.
//!
//! # Where upstream differs
//! Results are upstream's (compared with `kubectl patch --local`), but for three accidents there: directives inside what is
//! new to the object stay in it, or drop it whole (`$patch: replace` in a map that was absent); and deleting the last item
//! of a list while adding another can order the two by the array they share.

use serde_json::{Map, Value};

use super::Error;
use crate::schema::{Field, Patch, Shape, Type};

mod list;

pub(super) const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Applies the patch to an object of the type.
pub fn apply(ty: &'static Type, object: &mut Value, patch: &Value) -> Result<(), Error> {
    let (Some(object), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
        return Err(Error::Malformed("a strategic merge patch is an object".into()));
    };
    merge_map(Rules::Type(ty), object, patch.clone())
}

/// What the schema says about the fields of an object.
#[derive(Clone, Copy)]
pub(super) enum Rules {
    /// The fields of a type.
    Type(&'static Type),
    /// A map: each value has this shape.
    Map(&'static Shape),
    /// Nothing is known: maps merge, lists are replaced.
    Free,
}

impl Rules {
    fn of(shape: &'static Shape) -> Self {
        match shape.resolved() {
            Shape::Map(value) => Self::Map(value),
            shape => shape.object().map_or(Self::Free, Self::Type),
        }
    }

    /// How the field merges, and the rules inside it (for a list: inside its items).
    fn field(self, name: &str) -> (Patch, Self) {
        match self {
            Self::Type(ty) => ty.field(name).map_or((Patch::default(), Self::Free), |f: &'static Field| {
                let inside = if let Shape::List(item) = &f.shape { item } else { &f.shape };
                (f.patch, Self::of(inside))
            }),
            Self::Map(value) => (Patch::default(), Self::of(value)),
            Self::Free => (Patch::default(), Self::Free),
        }
    }
}

pub(super) fn merge_map(
    rules: Rules,
    object: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), Error> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(word)) if word == "merge" => {}
        Some(Value::String(word)) if word == "replace" => {
            *object = patch;
            return Ok(());
        }
        Some(Value::String(word)) if word == "delete" => {
            object.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(&other)),
    }
    retain_keys(object, &mut patch)?;
    order_lists(rules, object, &mut patch)?;
    // What a patch both adds and deletes is deleted.
    let (deletions, fields): (Vec<_>, Vec<_>) =
        patch.into_iter().partition(|(name, _)| name.starts_with(DELETE_PREFIX));
    for (name, value) in fields {
        merge_field(rules, object, name, value)?;
    }
    for (name, value) in deletions {
        delete_scalars(object, &name[DELETE_PREFIX.len()..], &value)?;
    }
    Ok(())
}

fn merge_field(rules: Rules, object: &mut Map<String, Value>, name: String, value: Value) -> Result<(), Error> {
    if value.is_null() {
        object.remove(&name);
        return Ok(());
    }
    let (how, inside) = rules.field(&name);
    match (object.get_mut(&name), value) {
        (Some(Value::Object(old)), Value::Object(new)) if !how.replace => merge_map(inside, old, new),
        (Some(Value::Array(old)), Value::Array(new)) if how.merge => {
            let merged = list::merge(inside, how.key, std::mem::take(old), new)?;
            *old = merged;
            Ok(())
        }
        (_, value) => {
            object.insert(name, without_directives(value));
            Ok(())
        }
    }
}

/// `$retainKeys`: removes from the object what is not named.
fn retain_keys(object: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(Error::Malformed(format!("{RETAIN_KEYS} is not a list")));
    };
    let named = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    if let Some(stray) = patch.keys().find(|name| !name.starts_with('$') && !named(name)) {
        return Err(Error::Malformed(format!("{RETAIN_KEYS} does not name the patched field {stray:?}")));
    }
    object.retain(|name, _| named(name));
    Ok(())
}

/// `$setElementOrder/FIELD`: merges those lists and puts them in order; takes them out of the patch.
fn order_lists(rules: Rules, object: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in names {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(Error::Malformed(format!("{directive} is not a list")));
        };
        let name = &directive[ORDER_PREFIX.len()..];
        let (how, inside) = rules.field(name);
        let items = match patch.remove(name) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            Some(Value::Null) => {
                object.remove(name);
                continue;
            }
            Some(_) => return Err(Error::Malformed(format!("the patched field {name:?} is not a list"))),
        };
        if let Some(items) = &items {
            list::check_order(items, &order, how.key, name)?;
        }
        let old = match object.get_mut(name) {
            Some(Value::Array(old)) => Some(std::mem::take(old)),
            _ => None,
        };
        let before = old.clone().unwrap_or_default();
        let merged = match (old, items) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(list::added).collect(),
            (Some(old), Some(new)) if how.merge => list::merge(inside, how.key, old, new)?,
            (Some(_), Some(new)) => new,
        };
        object.insert(name.to_owned(), Value::Array(list::ordered(merged, &order, &before, how.key)));
    }
    Ok(())
}

/// `$deleteFromPrimitiveList/FIELD`.
fn delete_scalars(object: &mut Map<String, Value>, name: &str, values: &Value) -> Result<(), Error> {
    let Some(values) = values.as_array() else {
        return Err(Error::Malformed(format!("{DELETE_PREFIX}{name} is not a list")));
    };
    if let Some(Value::Array(items)) = object.get_mut(name) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

pub(super) fn unknown_directive(found: &Value) -> Error {
    Error::Malformed(format!("unknown {DIRECTIVE} directive {found}"))
}

/// A value that is new to the object: directives and nulls mean nothing in it.
pub(super) fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(name, value)| !value.is_null() && !is_directive(name))
                .map(|(name, value)| (name, without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().filter_map(list::added).collect()),
        scalar => scalar,
    }
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_PREFIX) || name.starts_with(ORDER_PREFIX)
}
