//! Secret: settings that only their readers may see.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{Cell, Column, FieldOf, Strategy, column, rules};

/// The strategy of Secrets.
pub struct Secrets;

/// All keys' data together; bytes.
const MAX_BYTES: usize = 1024 * 1024;

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Type", "Used to facilitate programmatic handling of secret data."),
    column::number("Data", "The number of keys."),
    column::AGE,
];

fn kind(object: &Secret) -> String {
    object.type_.clone().unwrap_or_default()
}

/// The keys that a type of Secret cannot do without.
fn required_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    }
}

fn validate_type(object: &Secret, errors: &mut Errors) {
    let kind = object.type_.as_deref().unwrap_or_default();
    let data = Path::new("data");
    let has = |key: &str| object.data.as_ref().is_some_and(|d| d.contains_key(key));
    for key in required_keys(kind).iter().filter(|k| !has(k)) {
        errors.push(Error::required(&data.key(key), ""));
    }
    if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        errors.push(Error::required(&data.key("username"), ""));
        errors.push(Error::required(&data.key("password"), ""));
    }
    if kind.ends_with("/dockerconfigjson") || kind.ends_with("/dockercfg") {
        for key in required_keys(kind) {
            let bytes = object.data.as_ref().and_then(|d| d.get(*key));
            if bytes.is_some_and(|b| serde_json::from_slice::<serde_json::Value>(&b.0).is_err()) {
                errors.push(Error::invalid(&data.key(key), "<secret contents redacted>", "must be valid json"));
            }
        }
    }
    if kind == "kubernetes.io/service-account-token" {
        let annotations = object.metadata.annotations.as_ref();
        let name = "kubernetes.io/service-account.name";
        if annotations.and_then(|a| a.get(name)).is_none_or(String::is_empty) {
            errors.push(Error::required(&Path::new("metadata").child("annotations").key(name), ""));
        }
    }
}

impl Strategy for Secrets {
    type Object = Secret;

    fn default(&self, object: &mut Secret) {
        if object.type_.as_deref().is_none_or(str::is_empty) {
            object.type_ = Some("Opaque".into());
        }
        for (key, text) in object.string_data.take().into_iter().flatten() {
            object.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
        }
    }

    fn prepare_update(&self, new: &mut Secret, old: &Secret) {
        // a writer that leaves the type out means the one it has
        if new.type_.is_none() {
            new.type_.clone_from(&old.type_);
        }
    }

    fn validate(&self, object: &Secret) -> Errors {
        let mut errors = Errors::new();
        let data = Path::new("data");
        for key in object.data.iter().flat_map(|d| d.keys()) {
            rules::config_key(&mut errors, &data.key(key), key);
        }
        let total: usize = object.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
        if total > MAX_BYTES {
            errors.push(Error::too_long(&data, MAX_BYTES));
        }
        validate_type(object, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Secret, old: &Secret) -> Errors {
        let mut errors = Errors::new();
        rules::immutable(&mut errors, &Path::new("type"), &new.type_, &old.type_);
        if old.immutable == Some(true) {
            let mut sealed = |field: &str, changed: bool| {
                if changed {
                    errors.push(Error::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
                }
            };
            sealed("immutable", new.immutable != Some(true));
            sealed("data", new.data != old.data);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Secret, now: Timestamp) -> Vec<Cell> {
        let keys = object.data.as_ref().map_or(0, |d| d.len());
        vec![
            column::name(&object.metadata),
            column::cell(kind(object)),
            Cell::Number(i64::try_from(keys).unwrap_or(i64::MAX)),
            column::aged(&object.metadata, now),
        ]
    }

    fn fields(&self) -> &'static [FieldOf<Secret>] {
        &[("type", kind)]
    }
}
