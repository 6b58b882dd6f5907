//! What differs between two versions of an object, as sets of field paths: upstream's `typed/compare.go`.

use serde_json::Value;

use super::{fields::FieldSet, nature::Nature};

/// The fields that differ.
#[derive(Clone, Debug, Default)]
pub(super) struct Difference {
    /// Added or modified.
    pub(super) changed: FieldSet,
    /// There before, and no longer.
    pub(super) removed: FieldSet,
}

impl Difference {
    fn put(&mut self, step: &str, below: Self) {
        self.changed.put(step, below.changed);
        self.removed.put(step, below.removed);
    }
}

/// From `old` to `new`.
pub(super) fn compare(nature: Nature, old: Option<&Value>, new: Option<&Value>) -> Difference {
    if old.is_none() && new.is_none() {
        return Difference::default();
    }
    let mut difference = match nature {
        Nature::Leaf => return leaf(old, new),
        _ if hollow(old) && hollow(new) => return leaf(old, new),
        Nature::Struct(_) | Nature::Map(_) => maps(nature, old, new),
        Nature::Set | Nature::Keyed(..) => lists(nature, old, new),
    };
    difference.changed.itself |= old.is_none();
    difference.removed.itself |= new.is_none();
    difference
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Difference {
    let changed = new.is_some() && old != new;
    Difference {
        changed: FieldSet { itself: changed, ..FieldSet::default() },
        removed: FieldSet { itself: new.is_none(), ..FieldSet::default() },
    }
}

/// Nothing that could have parts.
fn hollow(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        _ => true,
    }
}

fn maps(nature: Nature, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let mut difference = Difference::default();
    for (name, value) in old.into_iter().flatten() {
        let now = new.and_then(|m| m.get(name));
        if now != Some(value) {
            difference.put(&format!("f:{name}"), compare(nature.field(name), Some(value), now));
        }
    }
    for (name, value) in new.into_iter().flatten() {
        if old.is_none_or(|m| !m.contains_key(name)) {
            difference.put(&format!("f:{name}"), compare(nature.field(name), None, Some(value)));
        }
    }
    difference
}

fn lists(nature: Nature, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let (old_items, new_items) = (items(old), items(new));
    // Where items cannot be told apart, the list counts as one value.
    let (Ok(old_steps), Ok(new_steps)) = (nature.steps(old_items), nature.steps(new_items)) else {
        return leaf(old, new);
    };
    let mut difference = Difference::default();
    for (step, item) in old_steps.iter().zip(old_items) {
        let now = new_steps.iter().position(|s| s == step).map(|i| &new_items[i]);
        difference.put(step, compare(nature.item(), Some(item), now));
    }
    for (step, item) in new_steps.iter().zip(new_items) {
        if !old_steps.contains(step) {
            difference.put(step, compare(nature.item(), None, Some(item)));
        }
    }
    difference
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
