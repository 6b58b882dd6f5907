//! A namespace that objects are created in must exist and not be on its way out (upstream's NamespaceLifecycle).

use api::{Kind, status};
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, StatusCause},
};

use super::Look;
use crate::registry::downcast;

/// Namespaces that the cluster itself lives in.
const PERMANENT: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Refuses objects in a namespace that does not exist, or that is being deleted.
pub(super) async fn exists(
    look: &dyn Look,
    kind: &Kind,
    namespace: &str,
    meta: &ObjectMeta,
) -> Result<(), Box<Status>> {
    if !kind.namespaced() {
        return Ok(());
    }
    let row = Kind::of::<Namespace>().expect("invariant: Namespace is a row of api::kinds");
    let Some(found) = look.find(row, "", namespace).await? else {
        return Err(Box::new(status::not_found(row, namespace)));
    };
    let found = downcast::<Namespace>(&*found).expect("invariant: looked up as a Namespace");
    if found.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut refusal = status::forbidden(kind, meta.name.as_deref().unwrap_or_default(), &why);
    refusal.details.get_or_insert_default().causes = Some(vec![StatusCause {
        reason: Some("NamespaceTerminating".into()),
        message: Some(format!("namespace {namespace} is being terminated")),
        field: Some("metadata.namespace".into()),
    }]);
    Err(Box::new(refusal))
}

/// Refuses to delete a namespace that the cluster itself lives in.
pub(super) fn may_delete(kind: &Kind, name: &str) -> Result<(), Box<Status>> {
    if kind.group.is_empty() && kind.kind == "Namespace" && PERMANENT.contains(&name) {
        return Err(Box::new(status::forbidden(kind, name, "this namespace may not be deleted")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clusters_own_namespaces_stay() {
        let row = Kind::of::<Namespace>().unwrap();
        let refusal = may_delete(row, "kube-system").unwrap_err();
        assert_eq!(
            refusal.message.as_deref(),
            Some("namespaces \"kube-system\" is forbidden: this namespace may not be deleted")
        );
        assert!(may_delete(row, "web").is_ok());
    }
}
