//! PATCH on one object: JSON patch, merge patch, strategic merge patch and server-side apply.

use api::{
    managed,
    patch::{self, json, merge, strategic},
    schema::{Schema, Type, normalize},
};
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::Value;

use crate::{
    ask::Ask,
    body, parts,
    query::WriteOptions,
    registry::Stored,
    reply::{self, Answer, Response},
    write::{self, Door, Track},
};

/// The media types that patches come in.
const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// How to change an object.
enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(&'static Type, Value),
}

impl Patch {
    fn apply(&self, object: &mut Value) -> Result<(), patch::Error> {
        match self {
            Self::Json(patch) => json::apply(object, patch),
            Self::Merge(patch) => merge::apply(object, patch),
            Self::Strategic(ty, patch) => strategic::apply(ty, object, patch),
        }
    }
}

fn internal(error: impl std::fmt::Display) -> Box<Status> {
    Box::new(api::status::internal(error))
}

/// Changes the object (or its status): 200 with the object; 201 when an apply created it.
pub async fn patch(ask: &Ask, bytes: &Bytes, door: Door) -> Answer<Response> {
    let options = ask.write_options()?;
    let media_type = body::media_type(&ask.headers);
    if media_type.starts_with("application/apply-patch") {
        return apply(ask, bytes, door, &options).await;
    }
    let (value, duplicates) = match media_type {
        "application/json-patch+json" | "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            body::document("application/json", bytes)?
        }
        _ => return Err(body::unsupported(&TYPES)),
    };
    let patch = match (media_type, Schema::of(ask.kind())) {
        ("application/json-patch+json", _) => Patch::Json(value),
        ("application/strategic-merge-patch+json", Some(ty)) => Patch::Strategic(ty, value),
        _ => Patch::Merge(value),
    };
    let mut warnings = Vec::new();
    let stored = write::update(ask, door, &options, Track::Compare, |old| {
        let mut value = old.to_value().map_err(internal)?;
        patch.apply(&mut value).map_err(|error| unfit(&error))?;
        warnings.clear();
        body::object(&*ask.entry, value, duplicates.clone(), options.validation, &mut warnings)
    })
    .await?;
    let mut response = super::get::shown(ask, StatusCode::OK, &stored)?;
    reply::warn(&mut response, &warnings);
    Ok(response)
}

fn unfit(error: &patch::Error) -> Box<Status> {
    match error {
        patch::Error::Malformed(why) => Box::new(api::status::bad_request(why)),
        // without details: kubectl shows the message only of those that have none
        patch::Error::Unfit(why) => Box::new(api::status::failure(422, "Invalid", why)),
    }
}

/// Server-side apply (KEP-555).
async fn apply(ask: &Ask, bytes: &Bytes, door: Door, options: &WriteOptions) -> Answer<Response> {
    if ask.query.get("fieldManager").is_empty() {
        let text =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(Box::new(api::status::failure(422, "Invalid", text)));
    }
    let ty = Schema::of(ask.kind()).ok_or_else(|| internal("the kind has no schema to apply with"))?;
    let (mut applied, duplicates) = body::yaml(bytes)?;
    let mut warnings = Vec::new();
    // strict decoding of what was sent; the merged object is decoded again below
    body::object(&*ask.entry, applied.clone(), duplicates, options.validation, &mut warnings)?;
    named(ask, &applied)?;
    normalize(ty, &mut applied);
    let merge = |live: Option<&Value>| -> Answer<Box<dyn Stored>> {
        let (api_version, now) = (ask.kind().api_version(), parts::now().to_string());
        let subresource = if door == Door::Status { "status" } else { "" };
        let writer = managed::Writer { manager: &options.manager, api_version: &api_version, subresource, now: &now };
        let merged = managed::apply(ty, live, &applied, &writer, options.force)
            .map_err(|error| Box::new(error.status(ask.kind(), ask.target.name())))?;
        ask.entry.read(merged).map_err(|error| Box::new(api::status::bad_request(error.to_string())))
    };
    ask.fresh().await?;
    let (code, stored) = if ask.cache.get(&ask.id()).is_none() && door == Door::Main {
        (StatusCode::CREATED, write::create(ask, merge(None)?, options, Track::Done).await?)
    } else {
        let make = |old: &dyn Stored| merge(Some(&old.to_value().map_err(internal)?));
        (StatusCode::OK, write::update(ask, door, options, Track::Done, make).await?)
    };
    let mut response = super::get::shown(ask, code, &stored)?;
    reply::warn(&mut response, &warnings);
    Ok(response)
}

/// An applied object names itself as the path does.
fn named(ask: &Ask, applied: &Value) -> Answer<()> {
    let name = applied.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(Box::new(api::status::bad_request("name must be provided")));
    }
    if name != ask.target.name() {
        return Err(Box::new(api::status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            ask.target.name()
        ))));
    }
    Ok(())
}
