//! The reader of `facts.txt`, whose form `scripts/schema_facts.py` explains.
//!
//! Read once, on first use. The names stay slices of the text inside the binary, so that the table costs little memory.

use std::sync::LazyLock;

use super::{Field, Gvk, List, Patch, Schema, Shape, Type};

static FACTS: &str = include_str!("facts.txt");

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| read(FACTS));

/// The table, read on first use.
pub(super) fn schema() -> &'static Schema {
    &SCHEMA
}

fn read(text: &'static str) -> Schema {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<&str> = lines().filter(|l| !l.starts_with('\t')).filter_map(|l| l.split(' ').next()).collect();
    let mut types: Vec<Type> = Vec::with_capacity(names.len());
    for line in lines() {
        match (line.strip_prefix('\t'), types.last_mut()) {
            (Some(rest), Some(owner)) => owner.fields.push(field(rest, &names)),
            _ => types.push(definition(line, &names)),
        }
    }
    for ty in &mut types {
        ty.fields.shrink_to_fit();
    }
    Schema { types }
}

fn definition(line: &'static str, names: &[&str]) -> Type {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut ty = Type { name, gvk: None, atomic: false, alias: None, fields: Vec::new() };
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("", "")) => ty.alias = words.next().map(|w| shape(w, names)),
            Some(("gvk", gvk)) => {
                let mut parts = gvk.split('/');
                let mut next = || parts.next().unwrap_or_default();
                ty.gvk = Some(Gvk { group: next(), version: next(), kind: next() });
            }
            _ => ty.atomic |= word == "atomic",
        }
    }
    ty
}

fn field(line: &'static str, names: &[&str]) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut field = Field {
        name: name.trim_end_matches('!'),
        required: name.ends_with('!'),
        shape: shape(words.next().unwrap_or_default(), names),
        list: List::Atomic,
        atomic: false,
        patch: Patch::default(),
        default: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("list", "set") => field.list = List::Set,
            ("list", kind) => {
                if let Some(keys) = kind.strip_prefix("map:") {
                    field.list = List::Map(keys.split(',').collect());
                }
            }
            ("merge", key) => {
                field.patch.merge = true;
                field.patch.key = (!key.is_empty()).then_some(key);
            }
            ("retainKeys", _) => field.patch.retain_keys = true,
            ("replace", _) => field.patch.replace = true,
            ("default", value) => field.default = Some(value),
            _ => field.atomic |= word == "atomic",
        }
    }
    field
}

fn shape(word: &str, names: &[&str]) -> Shape {
    let inside = |open, close| word.strip_prefix(open).and_then(|w: &str| w.strip_suffix(close));
    if let Some(name) = word.strip_prefix('@') {
        let index = names.binary_search(&name).expect("invariant: the generator writes every type that it refers to");
        return Shape::Ref(u16::try_from(index).expect("invariant: there are fewer than 65,536 types"));
    }
    if let Some(item) = inside('[', ']') {
        return Shape::List(Box::new(shape(item, names)));
    }
    if let Some(value) = inside('{', '}') {
        return Shape::Map(Box::new(shape(value, names)));
    }
    match word {
        "str" => Shape::String,
        "date" => Shape::Date,
        "bytes" => Shape::Bytes,
        "bool" => Shape::Bool,
        "i32" => Shape::Int32,
        "i64" => Shape::Int64,
        "number" => Shape::Number,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        "object" => Shape::Object,
        _ => Shape::Any,
    }
}
