//! ClusterRoleBinding: who may do what a role says, in the whole cluster.

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;

use super::{Cell, Column, NameRule, Strategy, column, rbac};

/// The strategy of ClusterRoleBindings.
pub struct ClusterRoleBindings;

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Role", "The role that is granted."),
    column::AGE,
    column::wide("Users", "The users that it is granted to."),
    column::wide("Groups", "The groups that it is granted to."),
    column::wide("ServiceAccounts", "The service accounts that it is granted to."),
];

impl Strategy for ClusterRoleBindings {
    type Object = ClusterRoleBinding;

    fn default(&self, object: &mut ClusterRoleBinding) {
        rbac::default_binding(&mut object.role_ref, object.subjects.as_mut());
    }

    fn validate(&self, object: &ClusterRoleBinding) -> Errors {
        rbac::validate_binding(&object.role_ref, object.subjects.as_ref(), &["ClusterRole"])
    }

    fn validate_update(&self, new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        rbac::same_role(&new.role_ref, &old.role_ref)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ClusterRoleBinding, now: Timestamp) -> Vec<Cell> {
        let role = &object.role_ref;
        let [users, groups, accounts] = rbac::subjects(object.subjects.as_ref());
        vec![
            column::name(&object.metadata),
            column::cell(format!("{}/{}", role.kind, role.name)),
            column::aged(&object.metadata, now),
            users,
            groups,
            accounts,
        ]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
