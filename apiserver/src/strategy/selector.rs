//! The selector of a controller: readable, never everything, and never another one.

use api::{
    field::{Error, Errors, Path},
    selector::Selector,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::rules;

/// Its string form; empty where it cannot be read.
pub(super) fn text(selector: &LabelSelector) -> String {
    Selector::from_label_selector(Some(selector)).map(|s| s.to_string()).unwrap_or_default()
}

/// What is wrong with it. Upstream speaks of deployments whichever kind it is.
pub(super) fn validate(selector: &LabelSelector, errors: &mut Errors) {
    let path = path();
    rules::label_selector(errors, &path, selector);
    if rules::selects_everything(selector) {
        errors.push(Error::invalid(&path, selector, "empty selector is invalid for deployment"));
    }
}

/// The pods that a controller has are those that it selects: it keeps the selector that it was created with.
pub(super) fn stays(new: &LabelSelector, old: &LabelSelector) -> Errors {
    let mut errors = Errors::new();
    rules::immutable(&mut errors, &path(), new, old);
    errors
}

fn path() -> Path {
    Path::new("spec").child("selector")
}
