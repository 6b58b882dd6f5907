//! Authentication: who asks, from a client certificate or a service account's token.

use std::sync::Arc;

use http::{HeaderMap, header};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};

use crate::{
    cache::Cache,
    reply::Answer,
    token::{Claims, ISSUER, Tokens},
    user::User,
};

/// Seconds that a deleted pod's token outlives the pod's grace period, as upstream's.
const LEEWAY: i64 = 60;

/// The user of a verified client certificate: common name, and organizations as groups. None when it names nobody.
pub fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?;
    let groups: Vec<_> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(User::new(name, &groups))
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// Who asks: the connection's user, or the token's; anonymous without either; 401 for a token that does not hold.
pub fn user(
    connection: Option<&Arc<User>>,
    headers: &HeaderMap,
    tokens: &Tokens,
    cache: &Cache,
    now: i64,
) -> Answer<Arc<User>> {
    if let Some(user) = connection {
        return Ok(Arc::clone(user));
    }
    let Some(token) = bearer(headers) else {
        return match headers.contains_key(header::AUTHORIZATION) {
            true => Err(Box::new(api::status::unauthorized())),
            false => Ok(Arc::new(User::anonymous())),
        };
    };
    token_user(token, &[ISSUER], tokens, cache, now).map(Arc::new).map_err(|why| {
        tracing::debug!(%why, "token refused");
        Box::new(api::status::unauthorized())
    })
}

/// The user of a token that is meant for one of these audiences, or why it is refused.
pub fn token_user(token: &str, audiences: &[&str], tokens: &Tokens, cache: &Cache, now: i64) -> Result<User, String> {
    let claims = tokens.verify(token, now).map_err(|error| error.to_string())?;
    if !claims.aud.iter().any(|a| audiences.contains(&a.as_str())) {
        return Err(format!("token audiences {:?} is invalid for the target audiences {audiences:?}", claims.aud));
    }
    bound(token, &claims, tokens, cache, now)?;
    let binding = &claims.binding;
    let mut user = User::service_account(&binding.namespace, &binding.serviceaccount.name, &binding.serviceaccount.uid);
    let mut note = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    note("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &binding.pod {
        note("pod-name", &pod.name);
        note("pod-uid", &pod.uid);
    }
    if let Some(node) = &binding.node {
        note("node-name", &node.name);
        note("node-uid", &node.uid);
    }
    Ok(user)
}

/// What the token is bound to must still be there: the same service account, and the same pod.
fn bound(token: &str, claims: &Claims, tokens: &Tokens, cache: &Cache, now: i64) -> Result<(), String> {
    let binding = &claims.binding;
    let find = |kind: Option<&api::Kind>, name: &str| {
        let kind = cache.kind(kind?)?;
        let item = kind.get(&format!("{}/{name}", binding.namespace))?;
        Some((Arc::clone(kind), item))
    };
    let (accounts, account) =
        find(api::Kind::of::<ServiceAccount>(), &binding.serviceaccount.name).ok_or("service account is gone")?;
    let pod = match &binding.pod {
        Some(named) => Some((named, find(api::Kind::of::<Pod>(), &named.name).ok_or("pod is gone")?)),
        None => None,
    };
    let at = (account.revision, pod.as_ref().map_or(0, |(_, (_, item))| item.revision));
    if tokens.seen(token, at) {
        return Ok(());
    }
    let object = account.decode(&*accounts.entry).map_err(|e| e.to_string())?;
    if object.meta().uid.as_deref() != Some(&binding.serviceaccount.uid) {
        return Err("service account was replaced".into());
    }
    if let Some((named, (pods, item))) = pod {
        let object = item.decode(&*pods.entry).map_err(|e| e.to_string())?;
        let meta = object.meta();
        if meta.uid.as_deref() != Some(&named.uid) {
            return Err("pod was replaced".into());
        }
        if meta.deletion_timestamp.as_ref().is_some_and(|t| t.0.as_second() + LEEWAY < now) {
            return Err("pod is deleted".into());
        }
        if meta.deletion_timestamp.is_some() {
            return Ok(());
        }
    }
    tokens.see(token, at);
    Ok(())
}
