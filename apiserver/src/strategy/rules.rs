//! Rules that fields of many kinds share, each adding what is wrong to a list, in upstream's words.

use std::collections::BTreeMap;

use api::{
    field::{Error, Errors, Path, Reason},
    names, selector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

fn named(errors: &mut Errors, path: &Path, value: &str, complaints: names::Complaints) {
    errors.extend(complaints.into_iter().map(|why| Error::invalid(path, value, why)));
}

/// RFC 1123 subdomain.
pub(super) fn subdomain(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::dns_subdomain(value));
}

/// RFC 1123 label.
pub(super) fn label(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::dns_label(value));
}

/// A key of a label, an annotation or a resource.
pub(super) fn qualified(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::qualified_name(value));
}

/// A key of a ConfigMap or Secret.
pub(super) fn config_key(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::config_key(value));
}

/// The name of an environment variable.
pub(super) fn env_name(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::env_var_name(value));
}

/// The name of a port.
pub(super) fn port_name(errors: &mut Errors, path: &Path, value: &str) {
    named(errors, path, value, names::port_name(value));
}

/// The number of a port.
pub(super) fn port(errors: &mut Errors, path: &Path, value: i32) {
    errors.extend(names::port_number(value).into_iter().map(|why| Error::invalid(path, value, why)));
}

/// One of a fixed set; an absent value is required.
pub(super) fn one_of(errors: &mut Errors, path: &Path, value: Option<&str>, supported: &[&str]) {
    match value {
        None | Some("") => errors.push(Error::required(path, "")),
        Some(value) if !supported.contains(&value) => errors.push(Error::not_supported(path, value, supported)),
        Some(_) => {}
    }
}

/// Zero or more.
pub(super) fn non_negative(errors: &mut Errors, path: &Path, value: Option<i64>) {
    if let Some(value) = value.filter(|v| *v < 0) {
        errors.push(Error::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A list with more items than it may have.
pub(super) fn too_many(path: &Path, items: usize, limit: usize) -> Error {
    let detail = format!("must have at most {limit} items");
    Error { path: path.clone(), reason: Reason::TooMany, value: Some(items.to_string()), detail }
}

/// A field that stays as it was created.
pub(super) fn immutable<T: PartialEq + serde::Serialize>(errors: &mut Errors, path: &Path, new: &T, old: &T) {
    if new != old {
        errors.push(Error::invalid(path, new, "field is immutable"));
    }
}

/// Labels, annotations' keys excepted.
pub(super) fn labels(errors: &mut Errors, path: &Path, labels: Option<&BTreeMap<String, String>>) {
    errors.extend(selector::validate_labels(labels, path));
}

/// A label selector.
pub(super) fn label_selector(errors: &mut Errors, path: &Path, selector: &LabelSelector) {
    errors.extend(selector::validate(selector, path));
}

/// The next generation when the spec changed, the old one otherwise.
pub(super) fn generation(new: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    let before = old.generation.unwrap_or_default();
    new.generation = Some(if changed { before + 1 } else { before });
}

/// Whether a label selector selects everything, which no controller may.
pub(super) fn selects_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}
