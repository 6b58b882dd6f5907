//! The server's parts, together: what every request may use.

use std::sync::{Arc, atomic::AtomicBool};

use api::Kind;
use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use store::{Backend, Membership};

use crate::{
    admission::Look,
    authz::Authz,
    backup,
    cache::Cache,
    connect::Nodes,
    discovery::Discovery,
    expiry::Expiry,
    item::Item,
    pki::Pki,
    registry::{Registry, Stored},
    reply::{self, Answer},
    services::Allocation,
    storage,
    token::Tokens,
};

/// All parts. Shared by all requests.
pub struct Parts {
    /// The kinds.
    pub registry: Registry,
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// Its members, when it is the embedded one.
    pub members: Option<Arc<dyn Membership>>,
    /// What the store holds.
    pub cache: Cache,
    /// Who may what.
    pub authz: Authz,
    /// Service accounts' tokens.
    pub tokens: Arc<Tokens>,
    /// Keys and certificates.
    pub pki: Arc<Pki>,
    /// What is served.
    pub discovery: Arc<Discovery>,
    /// The way to the node agents.
    pub nodes: Arc<Nodes>,
    /// The leases of what dies by itself.
    pub expiry: Arc<Expiry>,
    /// What is there from the first start is stored.
    pub bootstrapped: AtomicBool,
    /// How the server's own backups are going.
    pub backups: Arc<backup::Record>,
    /// Whose turn it is to be given addresses.
    pub allocation: Allocation,
}

impl Parts {
    /// The same server on other objects and another store, for a transaction that is not committed yet.
    #[must_use]
    pub fn fork(&self, cache: Cache, backend: Arc<dyn Backend>) -> Self {
        Self {
            registry: self.registry.clone(),
            backend,
            members: None,
            cache,
            authz: Authz::default(),
            tokens: Arc::clone(&self.tokens),
            pki: Arc::clone(&self.pki),
            discovery: Arc::clone(&self.discovery),
            nodes: Arc::clone(&self.nodes),
            expiry: Arc::clone(&self.expiry),
            bootstrapped: AtomicBool::default(),
            backups: Arc::clone(&self.backups),
            // the transaction as a whole has its turn
            allocation: Allocation::default(),
        }
    }

    /// The stored object, as of all writes acknowledged before the call.
    pub async fn find_item(&self, kind: &Kind, namespace: &str, name: &str) -> Answer<Option<Arc<Item>>> {
        self.cache.fresh().await.map_err(|late| reply::late(&late))?;
        Ok(self.cache.kind(kind).and_then(|cache| cache.get(&storage::id(kind, namespace, name))))
    }
}

#[async_trait]
impl Look for Parts {
    async fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Box<dyn Stored>>, Box<Status>> {
        let item = self.find_item(kind, namespace, name).await?;
        let entry = self.registry.of(kind);
        match item.zip(entry) {
            Some((item, entry)) => match item.decode(&**entry) {
                Ok(object) => Ok(Some(object)),
                Err(error) => Err(Box::new(api::status::internal(error))),
            },
            None => Ok(None),
        }
    }
}

/// The time as objects carry it: whole seconds.
pub fn now() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now)
}
