//! Lists in a strategic merge patch: items that are told apart by a merge key, or scalars that are there once.

use serde_json::Value;

use super::{DIRECTIVE, Error, Rules, merge_map, unknown_directive, without_directives};

/// Merges the patch's items into the list and orders the result by the patch.
pub(super) fn merge(
    inside: Rules,
    key: Option<&'static str>,
    old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, Error> {
    let before = old.clone();
    let objects = old.iter().chain(&new).any(Value::is_object);
    let (merged, order) = if objects {
        let key = key.ok_or_else(|| Error::Malformed("cannot merge lists without merge key".into()))?;
        merge_objects(inside, key, old, new)?
    } else {
        let mut merged = old;
        for item in &new {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        (merged, new)
    };
    Ok(ordered(merged, &order, &before, key))
}

/// The merged items and those of the patch that are no directives.
fn merge_objects(
    inside: Rules,
    key: &'static str,
    mut old: Vec<Value>,
    new: Vec<Value>,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut plain = Vec::with_capacity(new.len());
    let mut replace = false;
    for item in new {
        match item.get(DIRECTIVE).map(|d| (d.as_str(), d)) {
            None => plain.push(item),
            Some((Some("delete"), _)) => {
                let id = item.get(key).ok_or_else(|| no_key(&item, key))?;
                old.retain(|o| o.get(key) != Some(id));
            }
            Some((Some("replace"), _)) => replace = true,
            Some((Some("merge"), _)) => {
                return Err(Error::Malformed("merging lists cannot yet be specified in the patch".into()));
            }
            Some((_, other)) => return Err(unknown_directive(other)),
        }
    }
    if replace {
        return Ok((plain.iter().cloned().map(without_directives).collect(), plain));
    }
    for item in &plain {
        let id = item.get(key).ok_or_else(|| no_key(item, key))?;
        match old.iter_mut().find(|o| o.get(key) == Some(id)) {
            Some(Value::Object(found)) => {
                let Value::Object(item) = item.clone() else { return Err(no_key(item, key)) };
                merge_map(inside, found, item)?;
            }
            Some(_) | None => old.push(without_directives(item.clone())),
        }
    }
    Ok((old, plain))
}

/// An item of a list that is new as a whole; none if it only says what to delete.
pub(super) fn added(item: Value) -> Option<Value> {
    let directive = item.get(DIRECTIVE).and_then(Value::as_str);
    if directive == Some("delete") || (directive == Some("replace") && item.as_object().is_some_and(|m| m.len() == 1)) {
        return None;
    }
    Some(without_directives(item))
}

/// Whether each item of the patch is named in `$setElementOrder`, in that order.
pub(super) fn check_order(items: &[Value], order: &[Value], key: Option<&str>, name: &str) -> Result<(), Error> {
    let mut rest = order.iter();
    for item in items.iter().filter(|i| i.get(DIRECTIVE).is_none()) {
        if !rest.any(|o| same(o, item, key)) {
            return Err(Error::Malformed(format!(
                "The order in patch list:\n{items:?}\n doesn't match $setElementOrder/{name} list:\n{order:?}\n"
            )));
        }
    }
    Ok(())
}

/// The items in the order that `order` names; what it does not name keeps its place, as far as `before` tells it.
pub(super) fn ordered(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|o| same(o, item, key));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items.into_iter().partition(|i| place(order, i).is_some());
    named.sort_by_key(|i| place(order, i));
    others.sort_by_key(|i| place(before, i).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let here = place(before, &item);
        let earlier = |o: &Value| place(before, o).zip(here).is_some_and(|(other, here)| other < here);
        while let Some(other) = others.next_if(earlier) {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others);
    result
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) if a.is_object() && b.is_object() => a.get(key).is_some() && a.get(key) == b.get(key),
        _ => a == b,
    }
}

fn no_key(item: &Value, key: &str) -> Error {
    Error::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
}
