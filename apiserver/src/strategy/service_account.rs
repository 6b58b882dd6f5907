//! ServiceAccount: who a pod is when it speaks to the API.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;

use super::{Cell, Column, Strategy, column};

/// The strategy of ServiceAccounts.
pub struct ServiceAccounts;

static COLUMNS: &[Column] =
    &[column::NAME, column::number("Secrets", "The number of secrets that pods of this account may use."), column::AGE];

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ServiceAccount, now: Timestamp) -> Vec<Cell> {
        let secrets = object.secrets.as_ref().map_or(0, Vec::len);
        vec![
            column::name(&object.metadata),
            Cell::Number(i64::try_from(secrets).unwrap_or(i64::MAX)),
            column::aged(&object.metadata, now),
        ]
    }
}
