//! ClusterRole: what may be done in the whole cluster.

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;

use super::{Cell, Column, NameRule, Strategy, column, rbac};

/// The strategy of ClusterRoles.
pub struct ClusterRoles;

static COLUMNS: &[Column] =
    &[column::NAME, Column { kind: "date", ..column::text("Created At", "When the role was created.") }];

impl Strategy for ClusterRoles {
    type Object = ClusterRole;

    fn validate(&self, object: &ClusterRole) -> Errors {
        rbac::validate_rules(object.rules.as_ref(), false)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ClusterRole, _now: Timestamp) -> Vec<Cell> {
        vec![column::name(&object.metadata), rbac::created(&object.metadata)]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
