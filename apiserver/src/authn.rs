//! Authentication: who asks, from a client certificate or a service account's token.

use std::sync::Arc;

use http::{HeaderMap, header};
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use sha2::{Digest as _, Sha256};
use store::Revision;

use crate::{
    cache::{Cache, KindCache},
    item::Item,
    reply::Answer,
    storage,
    strategy::Object,
    token::{Claims, ISSUER, Named, Tokens},
    user::User,
};

/// Seconds that a token outlives the grace period of the deleted object that it is bound to, as upstream's.
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

/// Equal secrets, found out in a time that says nothing about where they differ.
pub fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
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

/// Everything that the token is bound to must still be there, and be the same object.
fn bound(token: &str, claims: &Claims, tokens: &Tokens, cache: &Cache, now: i64) -> Result<(), String> {
    let binding = &claims.binding;
    let within = binding.namespace.as_str();
    let mut held = vec![Held::find::<ServiceAccount>(cache, within, &binding.serviceaccount)?];
    if let Some(pod) = &binding.pod {
        held.push(Held::find::<Pod>(cache, within, pod)?);
    }
    if let Some(secret) = &binding.secret {
        held.push(Held::find::<Secret>(cache, within, secret)?);
    }
    // a pod's token only tells which node the pod is on
    if let Some(node) = binding.node.as_ref().filter(|_| binding.pod.is_none()) {
        held.push(Held::find::<Node>(cache, "", node)?);
    }
    let at: Vec<Revision> = held.iter().map(|held| held.item.revision).collect();
    if tokens.seen(token, &at) {
        return Ok(());
    }
    let mut stays = true;
    for held in &held {
        stays &= held.stays(now)?;
    }
    if stays {
        tokens.see(token, at);
    }
    Ok(())
}

/// An object that a token is bound to.
struct Held<'a> {
    named: &'a Named,
    cache: &'a KindCache,
    item: Arc<Item>,
}

impl<'a> Held<'a> {
    fn find<K: Object>(cache: &'a Cache, namespace: &str, named: &'a Named) -> Result<Self, String> {
        let row =
            api::Kind::of::<K>().expect("invariant: tokens are bound to objects whose kinds are rows of api::kinds");
        let found =
            cache.kind(row).and_then(|kind| Some((&**kind, kind.get(&storage::id(row, namespace, &named.name))?)));
        let (cache, item) = found.ok_or_else(|| format!("{} {:?} is gone", row.singular, named.name))?;
        Ok(Self { named, cache, item })
    }

    /// Whether it is here to stay; an error when it is another object than is meant, or deleted for long enough.
    fn stays(&self, now: i64) -> Result<bool, String> {
        let what = format!("{} {:?}", self.cache.entry.kind().singular, self.named.name);
        let object = self.item.decode(&*self.cache.entry).map_err(|error| format!("{what} cannot be read: {error}"))?;
        let meta = object.meta();
        if meta.uid.as_deref() != Some(&self.named.uid) {
            return Err(format!("{what} was replaced by another of that name"));
        }
        match &meta.deletion_timestamp {
            Some(at) if at.0.as_second() + LEEWAY < now => Err(format!("{what} is deleted")),
            deleted => Ok(deleted.is_none()),
        }
    }
}
