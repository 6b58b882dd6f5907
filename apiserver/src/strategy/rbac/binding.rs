//! What RoleBinding and ClusterRoleBinding share: all but which roles they may grant.

use std::marker::PhantomData;

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{RoleRef, Subject};

use crate::strategy::{Cell, Column, NameRule, Object, Strategy, column, rbac};

/// A kind that grants a role to subjects.
pub trait Binding: Object {
    /// The kinds of role that it may grant.
    const ROLES: &'static [&'static str];

    /// What is granted, and to whom.
    fn parts(&self) -> (&RoleRef, Option<&Vec<Subject>>);

    /// The same, to change.
    fn parts_mut(&mut self) -> (&mut RoleRef, Option<&mut Vec<Subject>>);
}

/// The strategy of either kind.
pub struct Bindings<B>(PhantomData<fn() -> B>);

impl<B> Default for Bindings<B> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Role", "The role that is granted."),
    column::AGE,
    column::wide("Users", "The users that it is granted to."),
    column::wide("Groups", "The groups that it is granted to."),
    column::wide("ServiceAccounts", "The service accounts that it is granted to."),
];

impl<B: Binding> Strategy for Bindings<B> {
    type Object = B;

    fn default(&self, object: &mut B) {
        let (role, subjects) = object.parts_mut();
        rbac::default_binding(role, subjects);
    }

    fn validate(&self, object: &B) -> Errors {
        let (role, subjects) = object.parts();
        rbac::validate_binding(role, subjects, B::ROLES)
    }

    fn validate_update(&self, new: &B, old: &B) -> Errors {
        rbac::same_role(new.parts().0, old.parts().0)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &B, now: Timestamp) -> Vec<Cell> {
        let (role, subjects) = object.parts();
        let [users, groups, accounts] = rbac::subjects(subjects);
        vec![
            column::name(object.metadata()),
            column::cell(format!("{}/{}", role.kind, role.name)),
            column::aged(object.metadata(), now),
            users,
            groups,
            accounts,
        ]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
