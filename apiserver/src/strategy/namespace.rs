//! Namespace: what all other objects live in.

use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};

use super::{Cell, Column, FieldOf, NameRule, Strategy, column};

/// The strategy of Namespaces.
pub struct Namespaces;

/// Holds a namespace until its contents are gone.
const FINALIZER: &str = "kubernetes";
/// Lets selectors choose a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

static COLUMNS: &[Column] = &[column::NAME, column::text("Status", "The status of the namespace"), column::AGE];

fn phase(object: &Namespace) -> String {
    object.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default()
}

impl Strategy for Namespaces {
    type Object = Namespace;

    fn default(&self, object: &mut Namespace) {
        if let Some(name) = object.metadata.name.clone().filter(|n| !n.is_empty()) {
            object.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
        }
    }

    fn prepare_create(&self, object: &mut Namespace) {
        object.status = Some(NamespaceStatus { phase: Some("Active".into()), conditions: None });
        let finalizers = object.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
    }

    fn prepare_update(&self, new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
        new.status.clone_from(&old.status);
    }

    fn prepare_status(&self, new: &mut Namespace, old: &Namespace) {
        new.spec.clone_from(&old.spec);
    }

    fn prepare_delete(&self, object: &mut Namespace) {
        object.status.get_or_insert_default().phase = Some("Terminating".into());
    }

    fn holds(&self, object: &Namespace) -> bool {
        object.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| !f.is_empty())
    }

    fn validate(&self, _object: &Namespace) -> Errors {
        Errors::new()
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Namespace, now: Timestamp) -> Vec<Cell> {
        vec![column::name(&object.metadata), column::cell(phase(object)), column::aged(&object.metadata, now)]
    }

    fn fields(&self) -> &'static [FieldOf<Namespace>] {
        &[("status.phase", phase)]
    }
}
