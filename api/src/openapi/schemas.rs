//! Types as JSON schemas.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::schema::{Field, List, Prose, Shape, Type};

/// Adds a type and all that it refers to.
pub(super) fn reach(ty: Option<&'static Type>, found: &mut Vec<&'static Type>) {
    let Some(ty) = ty else { return };
    if found.iter().any(|t| t.name == ty.name) {
        return;
    }
    found.push(ty);
    for field in &ty.fields {
        let mut shape = &field.shape;
        while let Shape::List(inner) | Shape::Map(inner) = shape {
            shape = inner;
        }
        reach(shape.definition(), found);
    }
}

/// The schema of a type.
pub(super) fn definition(ty: &'static Type, prose: &Prose, dialect: Dialect) -> Value {
    let mut schema = match &ty.alias {
        Some(alias) => shape(alias, dialect),
        None => Map::from_iter([("type".to_owned(), "object".into())]),
    };
    describe(&mut schema, prose.of(ty));
    if !ty.fields.is_empty() {
        let property = |(index, field): (usize, &'static Field)| {
            (field.name.to_owned(), property(field, prose.of_field(ty, index), dialect))
        };
        let properties: Map<_, _> = ty.fields.iter().enumerate().map(property).collect();
        schema.insert("properties".into(), properties.into());
    }
    let required: Vec<_> = ty.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if let Some(gvk) = ty.gvk {
        let gvk = json!([{"group": gvk.group, "version": gvk.version, "kind": gvk.kind}]);
        schema.insert("x-kubernetes-group-version-kind".into(), gvk);
    }
    if ty.atomic {
        schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    schema.into()
}

fn describe(schema: &mut Map<String, Value>, text: &str) {
    if !text.is_empty() {
        schema.insert("description".into(), text.into());
    }
}

fn property(field: &'static Field, text: &str, dialect: Dialect) -> Value {
    let mut extensions = Map::new();
    describe(&mut extensions, text);
    if matches!(field.shape, Shape::List(_)) {
        let (list, keys) = match &field.list {
            List::Atomic => ("atomic", None),
            List::Set => ("set", None),
            List::Map(keys) => ("map", Some(keys.clone())),
        };
        extensions.insert("x-kubernetes-list-type".into(), list.into());
        extensions.extend(keys.map(|keys| ("x-kubernetes-list-map-keys".into(), keys.into())));
    }
    if field.atomic {
        extensions.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let patch = field.patch;
    let strategies = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
    let strategies: Vec<_> = strategies.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
    if !strategies.is_empty() {
        extensions.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    extensions.extend(patch.key.map(|key| ("x-kubernetes-patch-merge-key".into(), key.into())));

    let mut schema = shape(&field.shape, dialect);
    if dialect == Dialect::V3 {
        // What stands beside a reference is ignored in 3.0.
        if !extensions.is_empty() && schema.contains_key("$ref") {
            schema = Map::from_iter([("allOf".to_owned(), json!([schema]))]);
        }
        schema.extend(field.default.map(|default| ("default".to_owned(), default.into())));
    }
    schema.extend(extensions);
    schema.into()
}

fn shape(shape: &'static Shape, dialect: Dialect) -> Map<String, Value> {
    let value = match shape {
        Shape::String => json!({"type": "string"}),
        Shape::Date => json!({"type": "string", "format": "date-time"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Number => json!({"type": "number", "format": "double"}),
        Shape::Quantity if dialect == Dialect::V2 => json!({"type": "string"}),
        Shape::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Shape::IntOrString if dialect == Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
        Shape::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        Shape::Object => json!({"type": "object"}),
        Shape::Any => json!({}),
        Shape::Ref(_) => json!({"$ref": dialect.reference(shape.definition().map_or("", |t| t.name))}),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item, dialect)}),
        Shape::Map(item) => json!({"type": "object", "additionalProperties": self::shape(item, dialect)}),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
