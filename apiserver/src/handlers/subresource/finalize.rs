//! `/finalize`: the finalizers of a Namespace's spec, which keep it until it is empty.

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::api::core::v1::Namespace;

use crate::{
    ask::Ask,
    body,
    registry::downcast_mut,
    reply::{self, Answer, Response},
    write::{self, Door, Track},
};

/// Replaces them; the namespace goes when none is left.
pub async fn replace(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let options = ask.write_options()?;
    let sent: Namespace = body::small(&ask.headers, bytes)?
        .ok_or_else(|| Box::new(api::status::bad_request("the body must be a Namespace")))?;
    let stored = write::update(ask, Door::Own, &options, Track::Compare, |old| {
        let mut new = old.boxed();
        let namespace = downcast_mut::<Namespace>(&mut *new)
            .ok_or_else(|| Box::new(api::status::method_not_allowed("finalize")))?;
        namespace.metadata.resource_version.clone_from(&sent.metadata.resource_version);
        if sent.metadata.uid.is_some() {
            namespace.metadata.uid.clone_from(&sent.metadata.uid);
        }
        let finalizers = sent.spec.as_ref().and_then(|spec| spec.finalizers.clone());
        namespace.spec.get_or_insert_default().finalizers = finalizers;
        Ok(new)
    })
    .await?;
    Ok(reply::json_bytes(StatusCode::OK, stored))
}
