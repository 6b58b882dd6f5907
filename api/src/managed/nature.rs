//! How a value divides into parts that can have owners of their own: upstream's `schema.Atom`.

use serde_json::Value;

use crate::schema::{Field, List, Shape, Type};

/// What a value is to those who own it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Nature {
    /// One value with one owner: a scalar, or a list or map that is atomic.
    Leaf,
    /// An object whose fields have owners.
    Struct(&'static Type),
    /// A map whose entries have owners.
    Map(&'static Shape),
    /// A list of scalars that have owners.
    Set,
    /// A list of objects that have owners, told apart by these keys.
    Keyed(&'static [&'static str], &'static Type),
}

impl Nature {
    /// Of a whole object.
    pub(super) fn of(ty: &'static Type) -> Self {
        Self::Struct(ty)
    }

    fn of_field(field: &'static Field) -> Self {
        if field.atomic {
            return Self::Leaf;
        }
        match (&field.shape, &field.list) {
            (Shape::List(_), List::Atomic) => Self::Leaf,
            (Shape::List(_), List::Set) => Self::Set,
            (Shape::List(item), List::Map(keys)) => item.object().map_or(Self::Leaf, |ty| Self::Keyed(keys, ty)),
            (shape, _) => Self::of_shape(shape),
        }
    }

    fn of_shape(shape: &'static Shape) -> Self {
        match shape.resolved() {
            Shape::Map(value) => Self::Map(value),
            shape => match shape.object() {
                Some(ty) if !ty.atomic => Self::Struct(ty),
                _ => Self::Leaf,
            },
        }
    }

    /// Of a field or map entry inside this.
    pub(super) fn field(self, name: &str) -> Self {
        match self {
            Self::Struct(ty) => ty.field(name).map_or(Self::Leaf, Self::of_field),
            Self::Map(value) => Self::of_shape(value),
            Self::Leaf | Self::Set | Self::Keyed(..) => Self::Leaf,
        }
    }

    /// Of an item inside this list.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed(_, ty) => Self::Struct(ty),
            Self::Leaf | Self::Struct(_) | Self::Map(_) | Self::Set => Self::Leaf,
        }
    }

    /// The step that leads to an item of this list; none where the item does not say its keys.
    pub(super) fn step(self, item: &Value) -> Option<Box<str>> {
        match self {
            Self::Set => (!item.is_array() && !item.is_object()).then(|| format!("v:{item}").into()),
            Self::Keyed(keys, ty) => key_step(keys, ty, item),
            Self::Leaf | Self::Struct(_) | Self::Map(_) => None,
        }
    }

    /// The steps to all items of this list, as long as each is there once.
    pub(super) fn steps(self, items: &[Value]) -> Result<Vec<Box<str>>, Unclear> {
        let mut steps: Vec<Box<str>> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            steps.push(self.step(item).ok_or(Unclear::NoKey(index))?);
        }
        let mut sorted: Vec<_> = steps.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Unclear::Twice(pair[0].clone())),
            None => Ok(steps),
        }
    }
}

/// Why the items of a list cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// The item with this index has none of the keys.
    NoKey(usize),
    /// Two items have the same step.
    Twice(Box<str>),
}

/// `k:{"containerPort":80,"protocol":"TCP"}`: keys in order, defaults filled in.
fn key_step(keys: &[&'static str], ty: &'static Type, item: &Value) -> Option<Box<str>> {
    let mut parts: Vec<(&str, String)> = Vec::with_capacity(keys.len());
    for key in keys {
        match item.get(key).filter(|v| !v.is_null()) {
            Some(value) => parts.push((key, value.to_string())),
            None => {
                if let Some(default) = ty.field(key).and_then(|f| f.default) {
                    parts.push((key, format!("{default:?}")));
                }
            }
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.sort_unstable();
    let parts: Vec<_> = parts.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
    Some(format!("k:{{{}}}", parts.join(",")).into())
}
