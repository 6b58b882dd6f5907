//! ClusterRole: what may be done in the whole cluster.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use super::rbac::role;

/// The strategy of ClusterRoles.
pub type ClusterRoles = role::Roles<ClusterRole>;

impl role::Role for ClusterRole {
    const NAMESPACED: bool = false;

    fn rules(&self) -> Option<&Vec<PolicyRule>> {
        self.rules.as_ref()
    }
}
