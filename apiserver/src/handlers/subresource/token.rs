//! `/token`: a TokenRequest for a ServiceAccount (KEP-1205).

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus},
        core::v1::{Node, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    admission::{self, Look as _},
    ask::Ask,
    body, parts,
    registry::downcast,
    reply::{self, Answer, Response},
    token::{Binding, Claims, ISSUER, LIFE, Named},
    write,
};

/// Seconds that a token lives when nobody says how long.
const USUAL: i64 = 3_600;

/// Signs a token: 201 with the request, its status filled in.
pub async fn create(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let bad = |text: &str| Box::new(api::status::bad_request(text));
    let mut request: TokenRequest =
        body::small(&ask.headers, bytes)?.ok_or_else(|| bad("the body must be a TokenRequest"))?;
    let item = ask.item().await?;
    let account = write::decoded(ask, &item)?;
    let mut spec = request.spec.take().unwrap_or_default();
    let life = spec.expiration_seconds.unwrap_or(USUAL);
    if !LIFE.contains(&life) {
        let text = format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {life}: must be between {} and {} seconds",
            LIFE.start(),
            LIFE.end()
        );
        return Err(Box::new(api::status::failure(422, "Invalid", text)));
    }
    let audiences = spec.audiences.take().filter(|all| !all.is_empty()).unwrap_or_else(|| vec![ISSUER.to_owned()]);
    let namespace = ask.target.namespace().to_owned();
    let uid = account.meta().uid.clone().unwrap_or_default();
    let mut binding = Binding {
        namespace: namespace.clone(),
        serviceaccount: Named { name: ask.target.name().to_owned(), uid },
        pod: None,
        secret: None,
        node: None,
    };
    bind(ask, &spec, &mut binding).await?;
    let now = parts::now();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now.as_second() + life,
        iat: now.as_second(),
        nbf: now.as_second(),
        iss: ISSUER.into(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: format!("system:serviceaccount:{namespace}:{}", ask.target.name()),
        binding,
    };
    let token = ask.parts.tokens.sign(&claims).map_err(|error| Box::new(api::status::internal(error)))?;
    let expires = jiff::Timestamp::from_second(claims.exp).unwrap_or(now);
    request.metadata.name = Some(ask.target.name().to_owned());
    request.metadata.namespace = Some(namespace);
    request.metadata.creation_timestamp = Some(Time(now));
    spec.audiences = Some(audiences);
    spec.expiration_seconds = Some(life);
    request.spec = Some(spec);
    request.status = Some(TokenRequestStatus { expiration_timestamp: Some(Time(expires)), token: Some(token) });
    Ok(reply::json(StatusCode::CREATED, &request))
}

/// Binds the token to the object that the request names, which must exist and be the one that is meant.
async fn bind(ask: &Ask, spec: &TokenRequestSpec, binding: &mut Binding) -> Answer<()> {
    let reference = spec.bound_object_ref.as_ref();
    if let Some(reference) = reference {
        bind_to(ask, reference, binding).await?;
    }
    let place = binding.node.as_ref().map(|node| node.name.as_str());
    admission::token(&ask.user, ask.kind(), ask.target.name(), reference, place)
}

async fn bind_to(ask: &Ask, reference: &BoundObjectReference, binding: &mut Binding) -> Answer<()> {
    let name = reference.name.clone().unwrap_or_default();
    let word = reference.kind.as_deref().unwrap_or_default();
    let kind = match word {
        "Pod" => api::Kind::of::<Pod>(),
        "Secret" => api::Kind::of::<Secret>(),
        "Node" => api::Kind::of::<Node>(),
        _ => None,
    };
    let kind = kind.ok_or_else(|| {
        Box::new(api::status::bad_request(format!("cannot bind token for serviceaccount to object of kind {word:?}")))
    })?;
    let namespace = if kind.namespaced() { ask.target.namespace() } else { "" };
    let found = ask.parts.find(kind, namespace, &name).await?;
    let found = found.ok_or_else(|| Box::new(api::status::not_found(kind, &name)))?;
    let uid = found.meta().uid.clone().unwrap_or_default();
    if let Some(wanted) = reference.uid.as_ref().filter(|wanted| !wanted.is_empty() && **wanted != uid) {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Box::new(api::status::conflict(kind, &name, &why)));
    }
    let named = Named { name, uid };
    if let Some(pod) = downcast::<Pod>(&*found) {
        binding.node = node_of(ask, pod).await?;
        binding.pod = Some(named);
    } else if downcast::<Secret>(&*found).is_some() {
        binding.secret = Some(named);
    } else {
        binding.node = Some(named);
    }
    Ok(())
}

/// The node of a pod, which must run as the account.
async fn node_of(ask: &Ask, pod: &Pod) -> Answer<Option<Named>> {
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    if account != ask.target.name() {
        let text = format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            ask.target.name()
        );
        return Err(Box::new(api::status::bad_request(text)));
    }
    let Some(name) = spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()) else { return Ok(None) };
    let row = api::Kind::of::<Node>().expect("invariant: Node is a row of api::kinds");
    let found = ask.parts.find(row, "", &name).await?;
    let uid = found.and_then(|node| node.meta().uid.clone()).unwrap_or_default();
    Ok(Some(Named { name, uid }))
}
