//! PUT on one object.

use bytes::Bytes;
use http::StatusCode;

use crate::{
    ask::Ask,
    body,
    reply::{self, Answer, Response},
    write::{self, Door, Track},
};

/// Replaces the object (or its status): 200 with the object; 201 where the kind allows creation by PUT.
pub async fn replace(ask: &Ask, bytes: &Bytes, door: Door) -> Answer<Response> {
    let options = ask.write_options()?;
    let mut warnings = Vec::new();
    let (value, duplicates) = body::document(body::media_type(&ask.headers), bytes)?;
    let object = body::object(&*ask.entry, value, duplicates, options.validation, &mut warnings)?;
    ask.fresh().await?;
    let exists = ask.cache.get(&ask.id()).is_some();
    let mut response = if !exists && door == Door::Main && ask.entry.create_on_update() {
        let mut object = object;
        object.meta_mut().name = Some(ask.target.name().to_owned());
        let stored = write::create(ask, object, &options, Track::Compare).await?;
        super::get::shown(ask, StatusCode::CREATED, &stored)?
    } else {
        let stored = write::update(ask, door, &options, Track::Compare, |_| Ok(object.boxed())).await?;
        super::get::shown(ask, StatusCode::OK, &stored)?
    };
    reply::warn(&mut response, &warnings);
    Ok(response)
}
