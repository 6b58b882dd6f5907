//! GET on one object.

use bytes::Bytes;
use http::StatusCode;

use crate::{
    ask::Ask,
    negotiate::{self, Form},
    parts,
    reply::{self, Answer, Response},
    table::{self, Include},
};

/// The object in the form that the client accepts.
pub async fn get(ask: &Ask) -> Answer<Response> {
    let revision = ask.query.get("resourceVersion");
    match revision.parse::<store::Revision>() {
        Ok(0) => {}
        Ok(revision) => ask.parts.cache.reach(revision).await.map_err(|late| reply::late(&late))?,
        Err(_) if revision.is_empty() => ask.fresh().await?,
        Err(_) => {
            let text = format!("resourceVersion: Invalid value: \"{revision}\": must be a number");
            return Err(Box::new(api::status::bad_request(text)));
        }
    }
    let item = ask.cache.get(&ask.id()).ok_or_else(|| ask.not_found())?;
    shown(ask, StatusCode::OK, &item.body)
}

/// An object's bytes in the form that the client accepts.
pub fn shown(ask: &Ask, code: StatusCode, body: &Bytes) -> Answer<Response> {
    match negotiate::form(&ask.headers, true)? {
        Form::Plain => Ok(reply::json_bytes(code, body.clone())),
        Form::Metadata(version) => Ok(reply::json_bytes(code, table::metadata_only(body, version))),
        Form::Table(version) => {
            let include = Include::parse(ask.query.get("includeObject"))?;
            let mut bytes = table::Writer::new(&*ask.entry, version, include, parts::now());
            bytes.row(body);
            Ok(reply::json_bytes(code, bytes.finish(&table::revision_of(body), "", None)))
        }
    }
}
