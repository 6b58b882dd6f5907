//! Lease: who holds a role, and since when it was last renewed.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use super::{Cell, Column, Strategy, column};

/// The strategy of Leases.
pub struct Leases;

static COLUMNS: &[Column] =
    &[column::NAME, column::text("Holder", "The identity of the holder of the lease."), column::AGE];

impl Strategy for Leases {
    type Object = Lease;

    fn validate(&self, object: &Lease) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let Some(spec) = &object.spec else { return errors };
        if let Some(seconds) = spec.lease_duration_seconds.filter(|s| *s <= 0) {
            errors.push(Error::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(times) = spec.lease_transitions.filter(|t| *t < 0) {
            let why = "must be greater than or equal to 0";
            errors.push(Error::invalid(&path.child("leaseTransitions"), times, why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Lease, now: Timestamp) -> Vec<Cell> {
        let holder = object.spec.as_ref().and_then(|s| s.holder_identity.clone()).unwrap_or_default();
        vec![column::name(&object.metadata), column::cell(holder), column::aged(&object.metadata, now)]
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
