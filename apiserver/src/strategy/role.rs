//! Role: what may be done inside one namespace.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use super::rbac::role;

/// The strategy of Roles.
pub type Roles = role::Roles<Role>;

impl role::Role for Role {
    const NAMESPACED: bool = true;

    fn rules(&self) -> Option<&Vec<PolicyRule>> {
        self.rules.as_ref()
    }
}
