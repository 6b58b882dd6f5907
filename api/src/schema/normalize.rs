//! A document as Go's decoder understands it, so that decoding into `k8s-openapi`'s types neither fails nor differs.
//!
//! Go takes null for the zero value everywhere, takes a number for a quantity, and writes quantities in canonical form.

use serde_json::{Map, Value};

use super::{Shape, Type};
use crate::quantity::Quantity;

/// Brings a document that [`super::check`] found nothing wrong with into the form in which it is stored: fields that are
/// null are gone, nulls inside lists and maps are zero values, quantities are canonical (`0.5` becomes `"500m"`).
pub fn normalize(ty: &'static Type, value: &mut Value) {
    if let Value::Object(map) = value {
        object(ty, map);
    }
}

fn object(ty: &'static Type, map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
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
            "metadata": {"name": "p", "creationTimestamp": null, "labels": {"a": null}, "annotations": null},
            "spec": {"nodeName": null, "tolerations": null, "containers": [{
                "name": "a", "args": ["x", null], "env": null,
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi", "pods": 2, "x": null}}}]},
        });
        normalize(Schema::named("io.k8s.api.core.v1.Pod").unwrap(), &mut pod);
        assert_eq!(
            pod,
            json!({
                "metadata": {"name": "p", "labels": {"a": ""}},
                "spec": {"containers": [{"name": "a", "args": ["x", ""],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi", "pods": "2", "x": "0"}}}]},
            })
        );
        serde_json::from_value::<Pod>(pod).unwrap();
    }
}
