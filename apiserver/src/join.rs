//! The join: a machine that knows the secret gets a node's certificates for keys that it made itself. A node that shows its
//! certificate gets new ones of its own name: that is how they are renewed.

use std::{net::IpAddr, sync::Arc};

use axum::body::Body;
use http::{Request, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::{Deserialize, Serialize};

use crate::{
    authn, body,
    parts::Parts,
    reply::{self, Answer, Response},
    user::User,
};

/// Most addresses that a node may have.
const MAX_ADDRESSES: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish {
    node: String,
    csr: String,
    serving_csr: String,
    addresses: Vec<IpAddr>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Welcome<'a> {
    ca: &'a str,
    certificate: String,
    serving_certificate: String,
}

/// `POST /join`: 200 with the certificates; 401 for a wrong secret, 403 for another node's name, 400 for a wish that makes no
/// sense. `user` is who the connection's certificate says.
pub async fn join(parts: &Arc<Parts>, user: Option<&User>, request: Request<Body>) -> Answer<Response> {
    if request.method() != http::Method::POST {
        return Err(Box::new(api::status::method_not_allowed(request.method().as_str())));
    }
    let bearer = authn::bearer(request.headers()).unwrap_or_default();
    let invited = authn::same(bearer, &parts.pki.join_secret);
    let known = user.and_then(User::node);
    if !invited && known.is_none() {
        return Err(Box::new(api::status::unauthorized()));
    }
    let bytes = body::read(request.into_body()).await?;
    let bad = |text: String| -> Box<Status> { Box::new(api::status::bad_request(text)) };
    let wish: Wish =
        serde_json::from_slice(&bytes).map_err(|error| bad(format!("the join request cannot be decoded: {error}")))?;
    if !invited && known != Some(&wish.node) {
        let why = format!("{} may renew its own certificates, not those of {:?}", known.unwrap_or_default(), wish.node);
        return Err(Box::new(api::status::failure(403, "Forbidden", why)));
    }
    if let Some(why) = api::names::dns_label(&wish.node).first() {
        return Err(bad(format!("node name {:?} is invalid: {why}", wish.node)));
    }
    if wish.addresses.is_empty() || wish.addresses.len() > MAX_ADDRESSES {
        return Err(bad(format!("a node has 1 to {MAX_ADDRESSES} addresses, not {}", wish.addresses.len())));
    }
    let refused = |error: crate::pki::Error| bad(error.to_string());
    let certificate = parts.pki.sign_node_client(&wish.node, &wish.csr).map_err(refused)?;
    let serving_certificate =
        parts.pki.sign_node_serving(&wish.node, &wish.serving_csr, &wish.addresses).map_err(refused)?;
    let what = if invited { "node joined" } else { "node renewed its certificates" };
    tracing::info!(node = %wish.node, addresses = ?wish.addresses, "{what}");
    Ok(reply::json(StatusCode::OK, &Welcome { ca: &parts.pki.ca, certificate, serving_certificate }))
}
