//! The `Status` object that every failed request is answered with, and how each kind of failure words it.
//!
//! Codes, reasons and messages follow upstream's `apimachinery/pkg/api/errors`: clients match on `reason`, people on the
//! message.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::{field, kinds::Kind};

/// A `Status` of status `Failure`.
pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
    Status {
        status: Some("Failure".into()),
        code: Some(i32::from(code)),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Status::default()
    }
}

/// A `Status` of status `Success`, as a delete answers.
pub fn success(kind: &Kind, name: &str, uid: &str) -> Status {
    Status {
        status: Some("Success".into()),
        details: Some(StatusDetails { uid: Some(uid.into()), ..details(kind, name) }),
        ..Status::default()
    }
}

/// 404: no such object.
pub fn not_found(kind: &Kind, name: &str) -> Status {
    about(kind, name, failure(404, "NotFound", format!("{} {name:?} not found", kind.qualified())))
}

/// 409: the name is taken.
pub fn already_exists(kind: &Kind, name: &str) -> Status {
    about(kind, name, failure(409, "AlreadyExists", format!("{} {name:?} already exists", kind.qualified())))
}

/// 409: the object is not as the writer thought.
pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
    let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
    about(kind, name, failure(409, "Conflict", message))
}

/// What a conflict over `resourceVersion` says.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// 422: the object breaks rules, each named with its field.
pub fn invalid(kind: &Kind, name: &str, errors: &[field::Error]) -> Status {
    let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let text = if text.len() == 1 { text[0].clone() } else { format!("[{}]", text.join(", ")) };
    let qualified = if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) };
    let causes = errors
        .iter()
        .map(|e| StatusCause {
            field: Some(e.path.to_string()),
            message: Some(e.message()),
            reason: Some(e.reason.word().into()),
        })
        .collect();
    let mut status = failure(422, "Invalid", format!("{qualified} {name:?} is invalid: {text}"));
    let kind_name = StatusDetails { kind: Some(kind.kind.into()), ..details(kind, name) };
    status.details = Some(StatusDetails { causes: Some(causes), ..kind_name });
    status
}

/// 400: the request itself makes no sense.
pub fn bad_request(message: impl Into<String>) -> Status {
    failure(400, "BadRequest", message)
}

/// 400: the body cannot become an object of the kind; `why` is what the decoder says, such as one of
/// [`crate::schema::Findings::wrong`].
pub fn undecodable(kind: &Kind, why: &str) -> Status {
    let Kind { kind, version, .. } = kind;
    bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// 400 under `fieldValidation=Strict`: fields that are unknown or written twice, in the decoder's words.
pub fn not_strict(kind: &Kind, fields: &[String]) -> Status {
    undecodable(kind, &format!("strict decoding error: {}", fields.join(", ")))
}

/// 403: who asks may not do this.
pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Status {
    let subject = if name.is_empty() { kind.qualified() } else { format!("{} {name:?}", kind.qualified()) };
    about(kind, name, failure(403, "Forbidden", format!("{subject} is forbidden: {why}")))
}

/// 401: nobody knows who asks.
pub fn unauthorized() -> Status {
    failure(401, "Unauthorized", "Unauthorized")
}

/// 405: this resource does not have that verb.
pub fn method_not_allowed(verb: &str) -> Status {
    failure(405, "MethodNotAllowed", format!("the server does not allow this method on the requested resource: {verb}"))
}

/// 410: a list or watch asks for a past that is forgotten.
pub fn expired(message: impl Into<String>) -> Status {
    failure(410, "Expired", message)
}

/// 500: our fault.
pub fn internal(message: impl std::fmt::Display) -> Status {
    failure(500, "InternalError", format!("Internal error occurred: {message}"))
}

/// The same status with `details` that name the object.
pub fn about(kind: &Kind, name: &str, mut status: Status) -> Status {
    status.details = Some(details(kind, name));
    status
}

fn details(kind: &Kind, name: &str) -> StatusDetails {
    StatusDetails {
        name: (!name.is_empty()).then(|| name.to_owned()),
        group: (!kind.group.is_empty()).then(|| kind.group.to_owned()),
        kind: Some(kind.plural.into()),
        ..StatusDetails::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_refusal_reads_as_upstreams() {
        let kind = Kind::by_manifest("apps/v1", "Deployment").unwrap();
        let fields = ["unknown field \"spec.foo\"".to_owned(), "duplicate field \"spec.replicas\"".to_owned()];
        assert_eq!(
            not_strict(kind, &fields).message.unwrap(),
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             unknown field \"spec.foo\", duplicate field \"spec.replicas\""
        );
    }
}
