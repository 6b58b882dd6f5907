//! What in a JSON document the schema does not know, or knows as another type: upstream's decoder's words
//! (`sigs.k8s.io/json`, `encoding/json`).

use std::fmt::Display;

use base64::Engine as _;
use serde_json::Value;

use super::{Shape, Type};
use crate::quantity::Quantity;

/// How many findings of each sort are reported; upstream stops at as many.
pub const FINDINGS_MAX: usize = 100;

/// What is wrong with a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// `unknown field "spec.template.spec.foo"`, in the order of the document.
    pub unknown: Vec<String>,
    /// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`. Whatever is here
    /// makes the document unusable.
    pub wrong: Vec<String>,
}

/// Compares a document with a type.
pub fn check(ty: &'static Type, value: &Value) -> Findings {
    let mut findings = Findings::default();
    object(ty, value, &At::Root(ty.short_name()), &mut findings);
    findings
}

/// Where a value is; written out only when there is something to say about it.
enum At<'a> {
    Root(&'static str),
    Field { parent: &'a At<'a>, owner: &'static str, name: &'a str },
    Index { parent: &'a At<'a>, index: usize },
}

impl At<'_> {
    /// With indexes, as unknown fields are named.
    fn path(&self) -> String {
        match self {
            Self::Root(_) => String::new(),
            Self::Field { parent, name, .. } => match parent.path() {
                path if path.is_empty() => (*name).to_owned(),
                path => format!("{path}.{name}"),
            },
            Self::Index { parent, index } => format!("{}[{index}]", parent.path()),
        }
    }

    /// Without indexes, as Go's decoder names a struct field.
    fn go_path(&self) -> String {
        match self {
            Self::Root(_) => String::new(),
            Self::Field { parent, name, .. } => match parent.go_path() {
                path if path.is_empty() => (*name).to_owned(),
                path => format!("{path}.{name}"),
            },
            Self::Index { parent, .. } => parent.go_path(),
        }
    }

    /// The Go struct that has the field.
    fn owner(&self) -> &'static str {
        match self {
            Self::Root(name) => name,
            Self::Field { owner, .. } => owner,
            Self::Index { parent, .. } => parent.owner(),
        }
    }
}

fn object(ty: &'static Type, value: &Value, at: &At<'_>, findings: &mut Findings) {
    let Some(map) = value.as_object() else {
        if !value.is_null() {
            mistyped(at, value, &go_struct(ty), findings);
        }
        return;
    };
    for (name, value) in map {
        let at = At::Field { parent: at, owner: ty.short_name(), name };
        match ty.field(name) {
            Some(field) => visit(&field.shape, value, &at, findings),
            None if findings.unknown.len() < FINDINGS_MAX => {
                findings.unknown.push(format!("unknown field {:?}", at.path()));
            }
            None => {}
        }
    }
}

fn visit(shape: &Shape, value: &Value, at: &At<'_>, findings: &mut Findings) {
    if value.is_null() {
        return;
    }
    match (shape.resolved(), value) {
        (Shape::Ref(_), _) => {
            if let Some(ty) = shape.object() {
                object(ty, value, at, findings);
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                visit(item, value, &At::Index { parent: at, index }, findings);
            }
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (name, value) in map {
                visit(item, value, &At::Field { parent: at, owner: at.owner(), name }, findings);
            }
        }
        (Shape::String, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Number, Value::Number(_))
        | (Shape::Object, Value::Object(_))
        | (Shape::IntOrString, Value::String(_))
        | (Shape::Any, _) => {}
        (Shape::Int32 | Shape::IntOrString, Value::Number(n))
            if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        (Shape::Int64, Value::Number(n)) if n.is_i64() => {}
        (Shape::Bytes, Value::String(text)) => base64(text, at, findings),
        (Shape::Quantity, Value::String(text)) => {
            if let Err(error) = text.parse::<Quantity>() {
                misread(at, &error, findings);
            }
        }
        (Shape::Quantity, Value::Number(n)) => {
            if let Err(error) = n.to_string().parse::<Quantity>() {
                misread(at, &error, findings);
            }
        }
        (Shape::Date, Value::String(text)) => {
            if text.parse::<jiff::Timestamp>().is_err() {
                let why = format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}");
                misread(at, &why, findings);
            }
        }
        (shape, _) => mistyped(at, value, &go_type(shape), findings),
    }
}

fn base64(text: &str, at: &At<'_>, findings: &mut Findings) {
    if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text) {
        let offset = match error {
            base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
        };
        misread(at, &format!("illegal base64 data at input byte {offset}"), findings);
    }
}

/// A text of the right type that says nothing. Upstream's decoder leaves out which field it is.
fn misread(at: &At<'_>, why: &dyn Display, findings: &mut Findings) {
    report(format!("{}: {why}", at.path()), findings);
}

fn mistyped(at: &At<'_>, value: &Value, wanted: &str, findings: &mut Findings) {
    let found = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if wanted.starts_with("int") => format!("number {n}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let path = at.go_path();
    let target = if path.is_empty() { "Go value".to_owned() } else { format!("Go struct field {}.{path}", at.owner()) };
    report(format!("json: cannot unmarshal {found} into {target} of type {wanted}"), findings);
}

fn report(text: String, findings: &mut Findings) {
    if findings.wrong.len() < FINDINGS_MAX {
        findings.wrong.push(text);
    }
}

/// `v1.PodSpec`, as Go names the type.
fn go_struct(ty: &Type) -> String {
    let mut parts = ty.name.rsplitn(3, '.');
    let name = parts.next().unwrap_or_default();
    let package = parts.next().unwrap_or_default();
    format!("{package}.{name}")
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::String => "string".to_owned(),
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Number => "float64".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Date => "v1.Time".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Object | Shape::Any => "map[string]interface {}".to_owned(),
        Shape::Ref(_) => shape.definition().map_or_else(String::new, go_struct),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(item) => format!("map[string]{}", go_type(item)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn deployment(value: &Value) -> Findings {
        check(Schema::named("io.k8s.api.apps.v1.Deployment").unwrap(), value)
    }

    #[test]
    fn a_sound_document_is_silent() {
        let found = deployment(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"any/label": "x"}, "creationTimestamp": null},
            "spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                "template": {"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}}},
        }));
        assert_eq!(found, Findings::default());
    }

    #[test]
    fn unknown_fields_are_named_with_their_indexes() {
        let found = deployment(&json!({"spec": {"template": {"spec": {
            "foo": 1, "containers": [{"name": "a"}, {"nmae": "b", "ports": [{"containerport": 1}]}]}}}, "kynd": ""}));
        assert_eq!(
            found.unknown,
            [
                r#"unknown field "kynd""#,
                r#"unknown field "spec.template.spec.containers[1].nmae""#,
                r#"unknown field "spec.template.spec.containers[1].ports[0].containerport""#,
                r#"unknown field "spec.template.spec.foo""#,
            ]
        );
    }

    #[test]
    fn wrong_types_read_as_gos_decoder_writes_them() {
        let cases = [
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 3_000_000_000_i64}}),
                "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}}}),
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.template.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string",
            ),
            (
                json!({"spec": []}),
                "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Deployment"),
        ];
        for (value, wanted) in cases {
            assert_eq!(deployment(&value).wrong, [wanted], "{value}");
        }
    }

    #[test]
    fn scalars_with_a_form_of_their_own_are_read() {
        let secret = Schema::named("io.k8s.api.core.v1.Secret").unwrap();
        let found = check(secret, &json!({"data": {"a": "YQ==", "b": "!"}}));
        assert_eq!(found.wrong, ["data.b: illegal base64 data at input byte 0"]);
        let found = deployment(&json!({"metadata": {"creationTimestamp": "yesterday"}}));
        assert!(found.wrong[0].contains(": parsing time \"yesterday\""), "{:?}", found.wrong);
        let limits =
            json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "one"}}}]}}}});
        assert!(deployment(&limits).wrong[0].contains(": quantities must match"), "{:?}", deployment(&limits).wrong);
    }
}
