//! `/eviction`: a delete that gives way to what protects the pod (upstream's `EvictionREST`). Nothing does yet: disruption
//! budgets are no kind of this server, so that every eviction is granted.

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::{api::policy::v1::Eviction, apimachinery::pkg::apis::meta::v1::Status};

use crate::{
    ask::Ask,
    body,
    handlers::delete,
    reply::{self, Answer, Response},
};

/// Deletes the pod as the eviction asks: 201 with a status, at once; the pod takes its grace period to end.
pub async fn create(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let dry_run = ask.write_options()?.dry_run;
    let eviction: Eviction = body::small(&ask.headers, bytes)?
        .ok_or_else(|| Box::new(api::status::bad_request("the body must be an Eviction")))?;
    let named = eviction.metadata.name.as_deref().unwrap_or_default();
    if !named.is_empty() && named != ask.target.name() {
        return Err(Box::new(api::status::bad_request("name in URL does not match name in Eviction object")));
    }
    let mut options = eviction.delete_options.unwrap_or_default();
    if dry_run {
        options.dry_run = Some(vec!["All".into()]);
    }
    delete::run(ask, &options).await?;
    let status = Status { status: Some("Success".into()), code: Some(201), ..Status::default() };
    Ok(reply::json(StatusCode::CREATED, &status))
}
