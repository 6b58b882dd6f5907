//! The body: read within limits, decoded strictly.

use std::time::Duration;

use api::{
    Kind, protobuf,
    schema::{Schema, check, normalize},
};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    query::FieldValidation,
    registry::{Entry, Stored},
    reply::Answer,
};

/// Most bytes of a request's body (upstream's `MaxRequestBodyBytes`).
pub const MAX_BODY: usize = 3 << 20;

/// Longest wait for a whole body.
const READ_WITHIN: Duration = Duration::from_secs(30);

fn bad(text: impl Into<String>) -> Box<Status> {
    Box::new(api::status::bad_request(text))
}

/// The whole body; 413 when it is larger than [`MAX_BODY`].
pub async fn read(body: Body) -> Answer<Bytes> {
    let whole = tokio::time::timeout(READ_WITHIN, Limited::new(body, MAX_BODY).collect()).await;
    match whole {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            let text = format!("Request entity too large: limit is {MAX_BODY}");
            Err(Box::new(api::status::failure(413, "RequestEntityTooLarge", text)))
        }
        Ok(Err(error)) => Err(bad(format!("the body cannot be read: {error}"))),
        Err(_) => Err(Box::new(api::status::failure(408, "Timeout", "the body did not arrive in time"))),
    }
}

/// The media type of the body, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    value.split(';').next().unwrap_or_default().trim()
}

/// 415, as upstream words it.
pub fn unsupported(supported: &[&str]) -> Box<Status> {
    let text = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        supported.join(", ")
    );
    Box::new(api::status::failure(415, "UnsupportedMediaType", text))
}

/// The document of a body in JSON, YAML or protobuf, and the fields that it names twice.
pub fn document(media_type: &str, bytes: &[u8]) -> Answer<(Value, Vec<String>)> {
    match media_type {
        "application/json" | "" | "*/*" => json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => yaml(bytes),
        protobuf::MEDIA_TYPE => match protobuf::decode(bytes) {
            Ok(value) => Ok((value, Vec::new())),
            Err(error) => Err(bad(format!("the body cannot be decoded: {}", chain(&error)))),
        },
        _ => Err(unsupported(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])),
    }
}

/// An error with what lies behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let parts = std::iter::successors(Some(error), |error| error.source());
    parts.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn json(bytes: &[u8]) -> Answer<(Value, Vec<String>)> {
    api::strict::decode_json(bytes).map_err(|error| bad(format!("the body is no JSON document: {error}")))
}

/// YAML, of which JSON is a part.
pub fn yaml(bytes: &[u8]) -> Answer<(Value, Vec<String>)> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(read) = api::strict::decode_json(bytes)
    {
        return Ok(read);
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let value = serde_saphyr::from_slice_with_options(bytes, options)
        .map_err(|error| bad(format!("error converting YAML to JSON: {error}")))?;
    Ok((value, Vec::new()))
}

/// A small typed body, such as options; none when there is no body.
pub fn small<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Answer<Option<T>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (value, _) = document(media_type(headers), bytes)?;
    serde_json::from_value(value).map(Some).map_err(|error| bad(format!("the body cannot be decoded: {error}")))
}

/// The object that a document describes, held against its kind's schema. Warnings are added to; errors are 400.
pub fn object(
    entry: &dyn Entry,
    mut value: Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Answer<Box<dyn Stored>> {
    let kind = entry.kind();
    identify(kind, &mut value)?;
    let unusable = |why: &str| {
        let (version, kind) = (kind.api_version(), kind.kind);
        bad(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    };
    if let Some(ty) = Schema::of(kind) {
        let findings = check::check(ty, &value);
        if let Some(wrong) = findings.wrong.first() {
            return Err(unusable(wrong));
        }
        let strict: Vec<_> = duplicates.into_iter().chain(findings.unknown).collect();
        match validation {
            FieldValidation::Strict if !strict.is_empty() => {
                let (version, kind) = (kind.api_version(), kind.kind);
                let why = format!("strict decoding error: {}", strict.join(", "));
                return Err(bad(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}")));
            }
            FieldValidation::Warn => warnings.extend(strict),
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        normalize(ty, &mut value);
    }
    entry.read(value).map_err(|error| unusable(&error.to_string()))
}

/// The document must say that it is of this kind, or say nothing.
fn identify(kind: &Kind, value: &mut Value) -> Answer<()> {
    let Some(object) = value.as_object_mut() else {
        return Err(bad(format!("the body must be an object, a {}", kind.kind)));
    };
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, name) = (text("apiVersion"), text("kind"));
    if !name.is_empty() && name != kind.kind {
        return Err(bad(format!(
            "{name} in version {api_version:?} cannot be handled as a {}: the kind in the data does not match the expected kind",
            kind.kind
        )));
    }
    if !api_version.is_empty() && api_version != kind.api_version() {
        return Err(bad(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    object.insert("apiVersion".into(), kind.api_version().into());
    object.insert("kind".into(), kind.kind.into());
    Ok(())
}
