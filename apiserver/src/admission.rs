//! What a request's object is held against beyond its own fields, before it is validated: one file per noun, run in order.
//!
//! The rules and their wording are upstream's admission plugins of the same nouns.

use async_trait::async_trait;
use k8s_openapi::{
    api::{authentication::v1::BoundObjectReference, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Status,
};

use crate::{
    registry::{Stored, downcast_mut},
    user::User,
};

mod namespace;
mod node;
mod pod;
mod serviceaccount;

/// What admission may read beside the object itself.
#[async_trait]
pub trait Look: Send + Sync {
    /// The object as stored, or none; fresh when the cache does not hold it.
    async fn find(&self, kind: &api::Kind, namespace: &str, name: &str)
    -> Result<Option<Box<dyn Stored>>, Box<Status>>;
}

/// Admits a create: fills in what belongs to the cluster's policy, or refuses. Called after defaulting and `prepare_create`,
/// before validation. The namespace is empty for kinds without.
pub async fn create(
    look: &dyn Look,
    user: &User,
    kind: &api::Kind,
    namespace: &str,
    object: &mut dyn Stored,
) -> Result<(), Box<Status>> {
    namespace::exists(look, kind, namespace, object.meta()).await?;
    if let Some(pod) = downcast_mut::<Pod>(object) {
        pod::priority(pod);
        pod::tolerations(pod);
        serviceaccount::admit(look, namespace, pod).await?;
    }
    user.node().map_or(Ok(()), |node| node::create(node, kind, object))
}

/// Admits a change of the object, or of what a subresource shows of it.
pub fn update(
    user: &User,
    kind: &api::Kind,
    subresource: &str,
    new: &dyn Stored,
    old: &dyn Stored,
) -> Result<(), Box<Status>> {
    user.node().map_or(Ok(()), |node| node::update(node, kind, subresource, new, old))
}

/// Admits a delete.
pub fn delete(user: &User, kind: &api::Kind, old: &dyn Stored) -> Result<(), Box<Status>> {
    namespace::may_delete(kind, old.meta().name.as_deref().unwrap_or_default())?;
    user.node().map_or(Ok(()), |node| node::delete(node, kind, old))
}

/// Admits a request for a token of the account, bound to an object; `place` is the node of the pod that this is.
pub fn token(
    user: &User,
    kind: &api::Kind,
    account: &str,
    to: Option<&BoundObjectReference>,
    place: Option<&str>,
) -> Result<(), Box<Status>> {
    user.node().map_or(Ok(()), |node| node::token(node, kind, account, to, place))
}
