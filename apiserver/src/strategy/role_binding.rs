//! RoleBinding: who may do what a role says, inside one namespace.

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use super::rbac::binding::{Binding, Bindings};

/// The strategy of RoleBindings.
pub type RoleBindings = Bindings<RoleBinding>;

impl Binding for RoleBinding {
    const ROLES: &'static [&'static str] = &["Role", "ClusterRole"];

    fn parts(&self) -> (&RoleRef, Option<&Vec<Subject>>) {
        (&self.role_ref, self.subjects.as_ref())
    }

    fn parts_mut(&mut self) -> (&mut RoleRef, Option<&mut Vec<Subject>>) {
        (&mut self.role_ref, self.subjects.as_mut())
    }
}
