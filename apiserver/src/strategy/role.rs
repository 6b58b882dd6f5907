//! Role: what may be done inside one namespace.

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;

use super::{Cell, Column, NameRule, Strategy, column, rbac};

/// The strategy of Roles.
pub struct Roles;

static COLUMNS: &[Column] =
    &[column::NAME, Column { kind: "date", ..column::text("Created At", "When the role was created.") }];

impl Strategy for Roles {
    type Object = Role;

    fn validate(&self, object: &Role) -> Errors {
        rbac::validate_rules(object.rules.as_ref(), true)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Role, _now: Timestamp) -> Vec<Cell> {
        vec![column::name(&object.metadata), rbac::created(&object.metadata)]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
