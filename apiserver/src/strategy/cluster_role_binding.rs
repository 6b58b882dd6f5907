//! ClusterRoleBinding: who may do what a role says, in the whole cluster.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};

use super::rbac::binding::{Binding, Bindings};

/// The strategy of ClusterRoleBindings.
pub type ClusterRoleBindings = Bindings<ClusterRoleBinding>;

impl Binding for ClusterRoleBinding {
    const ROLES: &'static [&'static str] = &["ClusterRole"];

    fn parts(&self) -> (&RoleRef, Option<&Vec<Subject>>) {
        (&self.role_ref, self.subjects.as_ref())
    }

    fn parts_mut(&mut self) -> (&mut RoleRef, Option<&mut Vec<Subject>>) {
        (&mut self.role_ref, self.subjects.as_mut())
    }
}
