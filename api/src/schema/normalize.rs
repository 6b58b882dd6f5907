//! A document as Go's decoder understands it, so that decoding into `k8s-openapi`'s types neither fails nor differs.
//!
//! Go takes null for the zero value everywhere, takes a number for a quantity, writes quantities in canonical form, and leaves
//! out what is empty.

use serde_json::{Map, Value};

use super::{Field, Shape, Type};
use crate::quantity::Quantity;

/// Brings a document that [`super::check`] found nothing wrong with into the form in which it is stored: fields that are
/// null are gone, and lists and maps that are empty and optional; nulls inside lists and maps are zero values, quantities are
/// canonical (`0.5` becomes `"500m"`).
pub fn normalize(ty: &'static Type, value: &mut Value) {
    if let Value::Object(map) = value {
        object(ty, map);
    }
}

fn object(ty: &'static Type, map: &mut Map<String, Value>) {
    map.retain(|name, value| !value.is_null() && !ty.field(name).is_some_and(|field| is_omitted(field, value)));
    for (name, value) in map {
        if let Some(field) = ty.field(name) {
            visit(&field.shape, value);
        }
    }
}

fn visit(shape: &'static Shape, value: &mut Value) {
    match (shape.resolved(), value) {
        (Shape::Ref(_), value) => {
            if let Some(ty) = shape.object() {
                normalize(ty, value);
            }
        }
        (Shape::List(item), Value::Array(items)) if !is_plain(item) => {
            for value in items {
                fill(item, value);
                visit(item, value);
            }
        }
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| fill(item, value)),
        (Shape::Map(item), Value::Object(map)) => {
            for value in map.values_mut() {
                fill(item, value);
                visit(item, value);
            }
        }
        (Shape::Quantity, value) => {
            let parsed = match &*value {
                Value::String(text) => text.parse::<Quantity>(),
                Value::Number(number) => number.to_string().parse(),
                _ => return,
            };
            if let Ok(quantity) = parsed {
                *value = quantity.to_string().into();
            }
        }
        _ => {}
    }
}

/// Go's `omitempty`, which all optional lists and maps have.
fn is_omitted(field: &Field, value: &Value) -> bool {
    !field.required
        && match (&field.shape, value) {
            (Shape::List(_), Value::Array(items)) => items.is_empty(),
            (Shape::Map(_), Value::Object(map)) => map.is_empty(),
            _ => false,
        }
}

/// Whether there is nothing inside to bring into form.
fn is_plain(shape: &'static Shape) -> bool {
    matches!(shape.resolved(), Shape::String | Shape::Bytes | Shape::Bool | Shape::Int32 | Shape::Int64)
}

/// The zero value for null.
fn fill(shape: &'static Shape, value: &mut Value) {
    if !value.is_null() {
        return;
    }
    *value = match shape.resolved() {
        Shape::String | Shape::Bytes | Shape::Date => "".into(),
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Ref(_) | Shape::Map(_) | Shape::Object => Value::Object(Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Any => return,
    };
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    #[test]
    fn what_go_accepts_decodes() {
        let mut pod = json!({
            "metadata": {"name": "p", "creationTimestamp": null, "labels": {"a": null}, "annotations": {}},
            "spec": {"nodeName": null, "tolerations": null, "volumes": [{"name": "v", "emptyDir": {}}], "containers": [{
                "name": "a", "args": ["x", null], "env": null, "ports": [],
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi", "pods": 2, "x": null}}}]},
        });
        normalize(Schema::named("io.k8s.api.core.v1.Pod").unwrap(), &mut pod);
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "p", "labels": {"a": ""}},
                "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "a", "args": ["x", ""],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi", "pods": "2", "x": "0"}}}]},
            })
        );
        serde_json::from_value::<Pod>(pod).unwrap();
    }
}
