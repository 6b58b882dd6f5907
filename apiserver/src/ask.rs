//! The question: one authenticated and authorized request for a kind, as handlers are given it.

use std::sync::Arc;

use api::Kind;
use http::{HeaderMap, header};
use store::{LeaseId, Range, Revision};

use crate::{
    cache::KindCache,
    item::Item,
    parts::Parts,
    query::{Query, WriteOptions},
    registry::Entry,
    reply::{self, Answer},
    storage,
    target::{Target, Verb},
    user::User,
};

/// One request.
pub struct Ask {
    /// The server.
    pub parts: Arc<Parts>,
    /// Who asks.
    pub user: Arc<User>,
    /// To do what.
    pub verb: Verb,
    /// With what.
    pub target: Target,
    /// Its kind's strategy.
    pub entry: Arc<dyn Entry>,
    /// Its kind's objects.
    pub cache: Arc<KindCache>,
    /// The parameters.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// The revision to read at; none for now.
    pub at: Option<Revision>,
    /// The lease of the store that what is written hangs on; none leaves it on the one that it is on.
    pub lease: Option<LeaseId>,
}

impl Ask {
    /// The row.
    pub fn kind(&self) -> &'static Kind {
        self.entry.kind()
    }

    /// The id of the object that the path names.
    pub fn id(&self) -> String {
        storage::id(self.kind(), self.target.namespace(), self.target.name())
    }

    /// What the client calls itself; components that do not are called as their user is.
    pub fn user_agent(&self) -> &str {
        let said = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
        said.unwrap_or_else(|| self.user.name.strip_prefix("system:").unwrap_or(&self.user.name))
    }

    /// The options of a write.
    pub fn write_options(&self) -> Answer<WriteOptions> {
        WriteOptions::new(&self.query, self.user_agent())
    }

    /// Waits until the cache holds all that was acknowledged before.
    pub async fn fresh(&self) -> Answer<()> {
        self.parts.cache.fresh().await.map_err(|late| reply::late(&late))
    }

    /// The object that the path names; 404 when it does not exist.
    pub async fn item(&self) -> Answer<Arc<Item>> {
        if let Some(revision) = self.at {
            return self.past_item(revision).await;
        }
        self.fresh().await?;
        self.cache.get(&self.id()).ok_or_else(|| self.not_found())
    }

    async fn past_item(&self, revision: Revision) -> Answer<Arc<Item>> {
        let id = self.id();
        let range = Range { revision, ..Range::key(storage::key(self.kind(), &id)) };
        let found = self.parts.backend.range(range).await.map_err(|error| reply::store_failure(&error))?;
        let item = found.entries.first().and_then(|entry| Item::new(&self.cache.opening, id.into(), entry));
        item.map(Arc::new).ok_or_else(|| self.not_found())
    }

    /// 404 for the object that the path names.
    pub fn not_found(&self) -> Box<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status> {
        Box::new(api::status::not_found(self.kind(), self.target.name()))
    }
}
