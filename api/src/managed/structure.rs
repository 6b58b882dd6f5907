//! Objects and sets of field paths, one from the other: which paths an object has, an object without some paths, and two
//! objects merged (upstream's `typed/{toset,remove,merge}.go`).

use serde_json::{Map, Value};

use super::{
    fields::FieldSet,
    nature::{Nature, Unclear},
};

/// The paths that an object sets.
pub(super) fn paths(nature: Nature, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match (nature, value) {
        (_, Value::Null) => {}
        (Nature::Struct(_) | Nature::Map(_), Value::Object(map)) => {
            let entries = matches!(nature, Nature::Map(_));
            for (name, value) in map {
                let mut below = paths(nature.field(name), value);
                below.itself |= entries || value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.put(format!("f:{name}"), below);
            }
        }
        (Nature::Set | Nature::Keyed(..), Value::Array(items)) => match nature.steps(items) {
            Ok(steps) => {
                for (step, item) in steps.into_iter().zip(items) {
                    set.put(step, FieldSet::leaf().union(&paths(nature.item(), item)));
                }
            }
            Err(_) => set.itself = true,
        },
        _ => set.itself = true,
    }
    set
}

/// What is wrong with lists whose items must be told apart: the path of the list and why.
pub(super) fn unclear(nature: Nature, value: &Value) -> Option<String> {
    match (nature, value) {
        (Nature::Struct(_) | Nature::Map(_), Value::Object(map)) => {
            map.iter().find_map(|(name, value)| unclear(nature.field(name), value).map(|rest| format!(".{name}{rest}")))
        }
        (Nature::Set | Nature::Keyed(..), Value::Array(items)) => match nature.steps(items) {
            Ok(_) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| unclear(nature.item(), item).map(|rest| format!("[{index}]{rest}"))),
            Err(Unclear::NoKey(index)) => {
                Some(format!(": element {index}: associative list with keys has an element that omits all keys"))
            }
            Err(Unclear::Twice(step)) => {
                let mut one = FieldSet::default();
                one.put(step, FieldSet::leaf());
                Some(format!(": duplicate entries for key {}", one.paths().concat()))
            }
        },
        _ => None,
    }
}

/// The value without the paths; nothing if that leaves nothing.
pub(super) fn without(nature: Nature, value: &Value, gone: &FieldSet) -> Value {
    match (nature, value) {
        (Nature::Struct(_) | Nature::Map(_), Value::Object(map)) if !map.is_empty() => {
            let rest: Map<_, _> = map
                .iter()
                .filter_map(|(name, value)| match gone.below.get(format!("f:{name}").as_str()) {
                    None => Some((name.clone(), value.clone())),
                    Some(below) if below.itself => None,
                    Some(below) => Some((name.clone(), without(nature.field(name), value, below))),
                })
                .collect();
            if rest.is_empty() { Value::Null } else { Value::Object(rest) }
        }
        (Nature::Set | Nature::Keyed(..), Value::Array(items)) if !items.is_empty() => {
            let keep = |item: &Value| match nature.step(item).and_then(|step| gone.below.get(&step)) {
                None => Some(item.clone()),
                Some(below) if below.itself => None,
                Some(below) => Some(without(nature.item(), item, below)),
            };
            let rest: Vec<_> = items.iter().filter_map(keep).collect();
            if rest.is_empty() { Value::Null } else { Value::Array(rest) }
        }
        _ => value.clone(),
    }
}

/// The set with every struct field on the way to a path: removing `.spec.a.b` may then remove `.spec.a` too.
pub(super) fn with_parents(nature: Nature, set: &FieldSet) -> FieldSet {
    let mut full = FieldSet { itself: set.itself, ..FieldSet::default() };
    for (step, below) in &set.below {
        let child = match step.strip_prefix("f:") {
            Some(name) => {
                let mut child = with_parents(nature.field(name), below);
                child.itself |= matches!(nature, Nature::Struct(ty) if ty.field(name).is_some());
                child
            }
            None => with_parents(nature.item(), below),
        };
        full.put(step.clone(), child);
    }
    full
}

/// The live value with the applied one laid over it.
pub(super) fn merged(nature: Nature, live: &Value, applied: &Value) -> Value {
    match (nature, live, applied) {
        (Nature::Struct(_) | Nature::Map(_), Value::Object(live), Value::Object(applied)) => {
            let mut map = live.clone();
            for (name, value) in applied {
                match map.get_mut(name) {
                    Some(old) => *old = merged(nature.field(name), old, value),
                    None => {
                        map.insert(name.clone(), value.clone());
                    }
                }
            }
            Value::Object(map)
        }
        (Nature::Set | Nature::Keyed(..), Value::Array(live), Value::Array(applied)) => {
            Value::Array(merged_lists(nature, live, applied))
        }
        (Nature::Leaf, _, _) => applied.clone(),
        (_, live, Value::Null) => live.clone(),
        (_, _, applied) => applied.clone(),
    }
}

/// Both lists' items, in an order that respects each list's, the applied one's first: upstream's `visitListItems`.
fn merged_lists(nature: Nature, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let steps = |items: &[Value]| items.iter().map(|i| nature.step(i)).collect::<Vec<_>>();
    let (left, right) = (steps(live), steps(applied));
    let in_right = |step: &Option<Box<str>>| step.is_some() && right.contains(step);
    let together = |i: usize| match left.iter().position(|s| s.is_some() && *s == right[i]) {
        Some(found) => merged(nature.item(), &live[found], &applied[i]),
        None => applied[i].clone(),
    };
    let mut shared = right.iter().filter(|s| s.is_some() && left.contains(s)).peekable();
    let mut done = vec![false; right.len()];
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if left[l].is_some() && left[l] == right[r] {
                done[r] = true;
                out.push(together(r));
                shared.next();
                l += 1;
                r += 1;
                continue;
            }
            if in_right(&left[l]) && shared.peek().is_some_and(|next| **next != left[l]) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            match right.iter().position(|s| s.is_some() && *s == left[l]) {
                None => {
                    out.push(live[l].clone());
                    l += 1;
                    continue;
                }
                Some(found) if done[found] => l += 1,
                Some(_) => {}
            }
        }
        if r < right.len() {
            done[r] = true;
            out.push(together(r));
            if shared.peek().is_some_and(|next| **next == right[r]) {
                shared.next();
            }
            r += 1;
        }
    }
    out
}

/// Drops fields that are null, as decoding into a type does.
pub(super) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
