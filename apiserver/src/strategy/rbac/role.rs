//! What Role and ClusterRole share: all but what their rules may be about.

use std::marker::PhantomData;

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::strategy::{Cell, Column, NameRule, Object, Strategy, column, rbac};

/// A kind that is a list of rules.
pub trait Role: Object {
    /// It holds inside one namespace, and so for resources alone.
    const NAMESPACED: bool;

    /// The rules.
    fn rules(&self) -> Option<&Vec<PolicyRule>>;
}

/// The strategy of either kind.
pub struct Roles<R>(PhantomData<fn() -> R>);

impl<R> Default for Roles<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

static COLUMNS: &[Column] =
    &[column::NAME, Column { kind: "date", ..column::text("Created At", "When the role was created.") }];

impl<R: Role> Strategy for Roles<R> {
    type Object = R;

    fn validate(&self, object: &R) -> Errors {
        rbac::validate_rules(object.rules(), R::NAMESPACED)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &R, _now: Timestamp) -> Vec<Cell> {
        vec![column::name(object.metadata()), rbac::created(object.metadata())]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
