//! Reads from the API what pods of this node refer to, on demand: ConfigMaps, Secrets, tokens.
//!
//! # Guarantees
//! * Who asks sees at least what was committed when it asked, unless it allows an age; all who ask while one request is
//!   under way share the next one.

use std::{hash::Hash, sync::Arc, time::Duration};

use ahash::AHashMap;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Pod, Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::lookup::{Lookup, References};

/// The ConfigMap with the cluster's CA never changes while the cluster lives: it may be this old.
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_AGE: Duration = Duration::from_secs(60);

/// Objects that nobody asked for in this long are forgotten.
const IDLE: Duration = Duration::from_secs(600);

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or did not answer.
    #[error("cannot read {what} {namespace}/{name}")]
    Read {
        /// `configmap`, `secret`.
        what: &'static str,
        /// Where.
        namespace: String,
        /// Which.
        name: String,
        /// What the API said.
        #[source]
        source: Box<kube::Error>,
    },
    /// No token was given.
    #[error("cannot get a token for service account {namespace}/{name}")]
    Token {
        /// Where.
        namespace: String,
        /// Which.
        name: String,
        /// What the API said; none when it gave an empty token.
        #[source]
        source: Option<Box<kube::Error>>,
    },
}

type Slot<T> = Arc<tokio::sync::Mutex<Option<(Instant, T)>>>;

struct Shelf<K, T> {
    slots: Mutex<AHashMap<K, Slot<T>>>,
}

impl<K: Hash + Eq, T: Clone> Shelf<K, T> {
    fn new() -> Self {
        Self { slots: Mutex::new(AHashMap::new()) }
    }

    async fn get<E>(&self, key: K, age: Duration, fetch: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let asked = Instant::now();
        let slot = {
            let mut slots = self.slots.lock();
            slots.retain(|_, s| {
                s.try_lock().is_ok_and(|s| s.as_ref().is_none_or(|(at, _)| at.elapsed() < IDLE))
                    || Arc::strong_count(s) > 1
            });
            Arc::clone(slots.entry(key).or_default())
        };
        let mut held = slot.lock().await;
        if let Some((at, value)) = held.as_ref().filter(|(at, _)| *at + age >= asked) {
            let value = value.clone();
            tracing::trace!(age = ?at.elapsed(), "shared an object that was just read");
            return Ok(value);
        }
        let started = Instant::now();
        let value = fetch.await?;
        *held = Some((started, value.clone()));
        Ok(value)
    }
}

type NameKey = (String, String);

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    pod: String,
    account: String,
    audience: String,
    seconds: i64,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    renew_at: Timestamp,
}

/// The reader.
pub struct Sources {
    client: Client,
    config_maps: Shelf<NameKey, Option<Arc<ConfigMap>>>,
    secrets: Shelf<NameKey, Option<Arc<Secret>>>,
    tokens: Mutex<AHashMap<TokenKey, Token>>,
}

impl Sources {
    /// Reads over this connection.
    pub fn new(client: Client) -> Self {
        Self { client, config_maps: Shelf::new(), secrets: Shelf::new(), tokens: Mutex::new(AHashMap::new()) }
    }

    /// Everything that is referred to and exists, read at once.
    pub async fn lookup(&self, namespace: &str, wanted: &References, age: Duration) -> Result<Lookup, Error> {
        let maps = try_join_all(wanted.config_maps.iter().map(async |name| {
            let found = self.config_map(namespace, name, age).await?;
            Ok::<_, Error>(found.map(|object| (name.clone(), object)))
        }));
        let secrets = try_join_all(wanted.secrets.iter().map(async |name| {
            let found = self.secret(namespace, name, age).await?;
            Ok::<_, Error>(found.map(|object| (name.clone(), object)))
        }));
        let (maps, secrets) = tokio::try_join!(maps, secrets)?;
        let (config_maps, secrets) = (maps.into_iter().flatten().collect(), secrets.into_iter().flatten().collect());
        Ok(Lookup { config_maps, secrets })
    }

    async fn config_map(&self, namespace: &str, name: &str, age: Duration) -> Result<Option<Arc<ConfigMap>>, Error> {
        let age = if name == ROOT_CA { ROOT_CA_AGE.max(age) } else { age };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let fetch = async { api.get_opt(name).await.map(|o| o.map(Arc::new)) };
        let found = self.config_maps.get((namespace.into(), name.into()), age, fetch).await;
        found.map_err(|source| read("configmap", namespace, name, source))
    }

    /// The secret of that name, if it exists.
    pub async fn secret(&self, namespace: &str, name: &str, age: Duration) -> Result<Option<Arc<Secret>>, Error> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let fetch = async { api.get_opt(name).await.map(|o| o.map(Arc::new)) };
        let found = self.secrets.get((namespace.into(), name.into()), age, fetch).await;
        found.map_err(|source| read("secret", namespace, name, source))
    }

    /// A token for the pod's service account, bound to the pod; the same until four fifths of its life are over.
    pub async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Arc<str>, Error> {
        let meta = &pod.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let uid = meta.uid.clone().unwrap_or_default();
        let key = TokenKey { pod: uid.clone(), account: name.clone(), audience: audience.into(), seconds };
        let now = Timestamp::now();
        if let Some(token) = self.tokens.lock().get(&key).filter(|t| t.renew_at > now) {
            return Ok(Arc::clone(&token.text));
        }
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: meta.name.clone(),
            uid: Some(uid),
        };
        let audiences = if audience.is_empty() { Vec::new() } else { vec![audience.to_owned()] };
        let spec = TokenRequestSpec {
            audiences: Some(audiences),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(seconds),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer = api.create_token_request(&name, &PostParams::default(), &request).await;
        let failed = |source| Error::Token { namespace: namespace.clone(), name: name.clone(), source };
        let answer = answer.map_err(|e| failed(Some(Box::new(e))))?;
        let status = answer.status.ok_or_else(|| failed(None))?;
        let text: Arc<str> = status.token.ok_or_else(|| failed(None))?.into();
        let Time(expires) = status.expiration_timestamp.ok_or_else(|| failed(None))?;
        let life = expires.duration_since(now).unsigned_abs();
        self.tokens.lock().insert(key, Token { text: Arc::clone(&text), renew_at: now + life * 4 / 5 });
        Ok(text)
    }

    /// Forgets the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.tokens.lock().retain(|key, _| key.pod != uid);
    }
}

fn read(what: &'static str, namespace: &str, name: &str, source: kube::Error) -> Error {
    Error::Read { what, namespace: namespace.into(), name: name.into(), source: Box::new(source) }
}
