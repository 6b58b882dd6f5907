//! The typed view of the store: where an object lies, and the three ways to change it.

use api::Kind;
use bytes::Bytes;
use store::{Backend, Compare, CompareTarget, LeaseId, Op, OpResult, Range, Revision, Txn};

/// Above all keys of the API.
pub const ROOT: &str = "/registry/";

/// Where all objects of a kind lie: `/registry/<group>/<resource>/`, the core group being `core`.
pub fn prefix(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("{ROOT}{group}/{}/", kind.plural)
}

/// What an object is called among those of its kind: `namespace/name`, or `name`.
pub fn id(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// The key of an object.
pub fn key(kind: &Kind, id: &str) -> Bytes {
    (prefix(kind) + id).into()
}

/// A key cut into its kind's prefix and the object's id.
pub fn split(key: &str) -> Option<(&str, &str)> {
    let rest = key.strip_prefix(ROOT)?;
    let group = rest.find('/')? + 1;
    let resource = rest[group..].find('/')? + 1;
    Some(key.split_at(ROOT.len() + group + resource))
}

/// What a conditional write came to.
#[derive(Debug)]
pub enum Outcome {
    /// Done, at this revision.
    Done(Revision),
    /// The object is not as expected; this is how it is, if it is.
    Moved(Option<store::Entry>),
}

/// What else must hold for a write.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<Compare>);

impl Conditions {
    /// The object's key was last written at `revision` (0: does not exist).
    #[must_use]
    pub fn and(mut self, key: Bytes, revision: Revision) -> Self {
        self.0.push(Compare::equal(key, CompareTarget::ModRevision(revision)));
        self
    }
}

/// Writes `value` if the key was last written at `expected` (0: does not exist).
pub async fn put(
    backend: &dyn Backend,
    key: Bytes,
    expected: Revision,
    conditions: Conditions,
    value: Bytes,
    lease: LeaseId,
) -> Result<Outcome, store::Error> {
    let op = Op::Put { key: key.clone(), value, lease };
    commit(backend, key, expected, conditions, op).await
}

/// Removes the key if it was last written at `expected`.
pub async fn delete(backend: &dyn Backend, key: Bytes, expected: Revision) -> Result<Outcome, store::Error> {
    let op = Op::Delete { start: key.clone(), end: Bytes::new() };
    commit(backend, key, expected, Conditions::default(), op).await
}

async fn commit(
    backend: &dyn Backend,
    key: Bytes,
    expected: Revision,
    conditions: Conditions,
    op: Op,
) -> Result<Outcome, store::Error> {
    let Conditions(compare) = conditions.and(key.clone(), expected);
    let txn = Txn { compare, success: vec![op], failure: vec![Op::Range(Range::key(key))] };
    let reply = backend.txn(txn).await?;
    if reply.succeeded {
        return Ok(Outcome::Done(reply.revision));
    }
    let now = match reply.results.into_iter().next() {
        Some(OpResult::Range(range)) => range.entries.into_iter().next(),
        Some(OpResult::Put(_) | OpResult::Delete(_) | OpResult::Txn(_)) | None => None,
    };
    Ok(Outcome::Moved(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_group_resource_namespace_and_name() {
        let pods = Kind::by_manifest("v1", "Pod").unwrap();
        let roles = Kind::by_manifest("rbac.authorization.k8s.io/v1", "ClusterRole").unwrap();
        assert_eq!(key(pods, &id(pods, "web", "a")), "/registry/core/pods/web/a");
        let role = key(roles, &id(roles, "", "system:node"));
        assert_eq!(role, "/registry/rbac.authorization.k8s.io/clusterroles/system:node");
        let role = std::str::from_utf8(&role).unwrap();
        assert_eq!(split(role), Some(("/registry/rbac.authorization.k8s.io/clusterroles/", "system:node")));
        assert_eq!(split("/registry/core"), None);
    }
}
