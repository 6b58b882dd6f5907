//! POST on a collection.

use bytes::Bytes;
use http::StatusCode;

use crate::{
    ask::Ask,
    body,
    reply::{self, Answer, Response},
    write::{self, Track},
};

/// Stores a new object: 201 with the object.
pub async fn create(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    if ask.target.name.is_some() {
        return Err(Box::new(api::status::method_not_allowed("POST")));
    }
    if ask.kind().namespaced() && ask.target.namespace.is_none() {
        return Err(Box::new(api::status::bad_request(
            "the server does not allow creation without a namespace in the path",
        )));
    }
    let options = ask.write_options()?;
    let mut warnings = Vec::new();
    let (value, duplicates) = body::document(body::media_type(&ask.headers), bytes)?;
    let object = body::object(&*ask.entry, value, duplicates, options.validation, &mut warnings)?;
    let stored = write::create(ask, object, &options, Track::Compare).await?;
    let mut response = super::get::shown(ask, StatusCode::CREATED, &stored)?;
    reply::warn(&mut response, &warnings);
    Ok(response)
}
