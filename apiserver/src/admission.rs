//! What a request's object is held against beyond its own fields, before it is validated: one file per noun, run in order.
//!
//! The rules and their wording are upstream's admission plugins of the same nouns.

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};

use crate::registry::{Stored, downcast_mut};

mod namespace;
mod pod;
mod serviceaccount;

pub use namespace::may_delete;

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
    Ok(())
}
