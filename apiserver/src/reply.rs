//! The reply: objects, lists, statuses and warnings as HTTP responses.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Serialize;

/// What every request is answered with.
pub type Response = http::Response<Body>;

/// A value, or the status that says why not.
pub type Answer<T> = Result<T, Box<Status>>;

/// The media type of everything but discovery and streams of text.
pub const JSON: &str = "application/json";

/// Longest warning text in a header, bytes; longer ones are cut, as upstream's.
const MAX_WARNING: usize = 256;

/// Most warnings in one response.
const MAX_WARNINGS: usize = 64;

/// Bytes that are JSON already.
pub fn json_bytes(code: StatusCode, bytes: impl Into<Bytes>) -> Response {
    typed(code, JSON, bytes)
}

/// Bytes of some media type.
pub fn typed(code: StatusCode, media_type: &str, bytes: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Body::from(bytes.into()));
    *response.status_mut() = code;
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// A value as JSON.
pub fn json(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => json_bytes(code, bytes),
        Err(error) => failure(&api::status::internal(error)),
    }
}

/// A status, with the code that it names.
pub fn failure(status: &Status) -> Response {
    let code = status.code.and_then(|code| u16::try_from(code).ok()).and_then(|code| StatusCode::from_u16(code).ok());
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    let mut response = json_bytes(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), bytes);
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The response to either outcome.
pub fn either(answer: Answer<Response>) -> Response {
    answer.unwrap_or_else(|status| failure(&status))
}

/// Adds `Warning: 299 - "…"` headers, as kubectl prints them.
pub fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let mut text = String::with_capacity(warning.len() + 10);
        for c in warning.chars().filter(|c| !c.is_control()) {
            if text.len() >= MAX_WARNING {
                break;
            }
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// The status for a store that failed.
pub fn store_failure(error: &store::Error) -> Box<Status> {
    match error {
        store::Error::Compacted { .. } => Box::new(api::status::expired(
            "The provided resource version is too old to display a consistent list result: the requested data is not available anymore.",
        )),
        store::Error::TooLarge { .. } => {
            Box::new(api::status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {error}")))
        }
        store::Error::Unavailable { .. } => {
            let mut status = api::status::failure(503, "ServiceUnavailable", error.to_string());
            status.details.get_or_insert_default().retry_after_seconds = Some(1);
            Box::new(status)
        }
        store::Error::Uncertain { .. } => Box::new(api::status::failure(504, "Timeout", error.to_string())),
        store::Error::Future { .. }
        | store::Error::Invalid { .. }
        | store::Error::Slow { .. }
        | store::Error::LeaseNotFound(_)
        | store::Error::LeaseExists(_)
        | store::Error::KeyNotFound
        | store::Error::Disk { .. }
        | store::Error::Corrupt { .. } => {
            tracing::error!(%error, "store failed");
            Box::new(api::status::internal(error))
        }
    }
}

/// The status for a cache that did not get there in time: 504 with upstream's cause, so that clients try again.
pub fn late(late: &crate::cache::Late) -> Box<Status> {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
    match late {
        crate::cache::Late::Store(error) => store_failure(error),
        crate::cache::Late::Behind { asked, current } => {
            let text = format!("Too large resource version: {asked}, current: {current}");
            let mut status = api::status::failure(504, "Timeout", format!("Timeout: {text}"));
            let cause = StatusCause {
                reason: Some("ResourceVersionTooLarge".into()),
                message: Some("Too large resource version".into()),
                field: None,
            };
            status.details = Some(StatusDetails {
                causes: Some(vec![cause]),
                retry_after_seconds: Some(1),
                ..StatusDetails::default()
            });
            Box::new(status)
        }
    }
}
