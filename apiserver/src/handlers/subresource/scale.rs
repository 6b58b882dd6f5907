//! `/scale`: the replica count alone, as `autoscaling/v1` Scale.

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::{
    api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use crate::{
    ask::Ask,
    body,
    registry::Stored,
    reply::{self, Answer, Response},
    write::{self, Door, Track},
};

/// Shows the scale.
pub async fn get(ask: &Ask) -> Answer<Response> {
    let item = ask.item().await?;
    let object = write::decoded(ask, &item)?;
    Ok(reply::json(StatusCode::OK, &view(ask, &*object)?))
}

/// Replaces the scale.
pub async fn replace(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let (value, _) = body::document(body::media_type(&ask.headers), bytes)?;
    write(ask, |_| Ok(value.clone())).await
}

/// Changes the scale.
pub async fn patch(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let media_type = body::media_type(&ask.headers);
    let json_patch = match media_type {
        "application/json-patch+json" => true,
        "application/merge-patch+json" | "application/strategic-merge-patch+json" => false,
        _ => return Err(body::unsupported(&["application/json-patch+json", "application/merge-patch+json"])),
    };
    let (patch, _) = body::document("application/json", bytes)?;
    write(ask, |mut scale| {
        let done = if json_patch {
            api::patch::json::apply(&mut scale, &patch)
        } else {
            api::patch::merge::apply(&mut scale, &patch)
        };
        done.map_err(|error| Box::new(api::status::bad_request(error.to_string())))?;
        Ok(scale)
    })
    .await
}

async fn write(ask: &Ask, change: impl Fn(Value) -> Answer<Value>) -> Answer<Response> {
    let options = ask.write_options()?;
    let stored = write::update(ask, Door::Scale, &options, Track::Compare, |old| {
        let shown = serde_json::to_value(view(ask, old)?).map_err(|e| Box::new(api::status::internal(e)))?;
        let scale: Scale = serde_json::from_value(change(shown)?)
            .map_err(|error| Box::new(api::status::bad_request(format!("the body is no Scale: {error}"))))?;
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let mut new = old.boxed();
        // the version that the caller means, if any, decides over the write
        new.meta_mut().resource_version = scale.metadata.resource_version;
        ask.entry.set_replicas(&mut *new, replicas);
        Ok(new)
    })
    .await?;
    let object = ask.entry.decode(&stored).map_err(|error| Box::new(api::status::internal(error)))?;
    Ok(reply::json(StatusCode::OK, &view(ask, &*object)?))
}

fn view(ask: &Ask, object: &dyn Stored) -> Answer<Scale> {
    let scale = ask.entry.scale(object).ok_or_else(|| Box::new(api::status::method_not_allowed("scale")))?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(scale.replicas) }),
        status: Some(ScaleStatus { replicas: scale.observed, selector: Some(scale.selector) }),
    })
}
