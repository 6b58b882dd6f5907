//! ReplicaSet: a number of equal pods.

use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Cell, Column, FieldOf, Scale, Strategy, column, pod, rules, selector};

/// The strategy of ReplicaSets.
pub struct ReplicaSets;

static COLUMNS: &[Column] = &[
    column::NAME,
    column::number("Desired", "The number of desired pods."),
    column::number("Current", "The most recently observed number of pods."),
    column::number("Ready", "The number of pods with a Ready condition."),
    column::AGE,
    column::CONTAINERS,
    column::IMAGES,
    column::wide("Selector", "Label selector for pods."),
];

fn observed(object: &ReplicaSet) -> i32 {
    object.status.as_ref().map(|s| s.replicas).unwrap_or_default()
}

impl Strategy for ReplicaSets {
    type Object = ReplicaSet;

    fn default(&self, object: &mut ReplicaSet) {
        let spec = &mut object.spec;
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            pod::default_spec(template.spec.get_or_insert_default());
        }
    }

    fn prepare_create(&self, object: &mut ReplicaSet) {
        object.status = None;
        object.metadata.generation = Some(1);
    }

    fn prepare_update(&self, new: &mut ReplicaSet, old: &ReplicaSet) {
        new.status.clone_from(&old.status);
        let changed = new.spec != old.spec;
        rules::generation(&mut new.metadata, &old.metadata, changed);
    }

    fn prepare_status(&self, new: &mut ReplicaSet, old: &ReplicaSet) {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(&self, object: &ReplicaSet) -> Errors {
        let mut errors = Errors::new();
        let spec = &object.spec;
        let path = Path::new("spec");
        rules::non_negative(&mut errors, &path.child("replicas"), spec.replicas.map(i64::from));
        rules::non_negative(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds.map(i64::from));
        selector::validate(&spec.selector, &mut errors);
        pod::validate_template(spec.template.as_ref(), &spec.selector, &path.child("template"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &ReplicaSet, old: &ReplicaSet) -> Errors {
        selector::stays(&new.spec.selector, &old.spec.selector)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &ReplicaSet, now: Timestamp) -> Vec<Cell> {
        let spec = &object.spec;
        let ready = object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or_default();
        let [containers, images] = column::containers(spec.template.as_ref());
        vec![
            column::name(&object.metadata),
            Cell::Number(i64::from(spec.replicas.unwrap_or_default())),
            Cell::Number(i64::from(observed(object))),
            Cell::Number(i64::from(ready)),
            column::aged(&object.metadata, now),
            containers,
            images,
            column::or_none(Some(&selector::text(&spec.selector))),
        ]
    }

    fn fields(&self) -> &'static [FieldOf<ReplicaSet>] {
        &[("status.replicas", |r| observed(r).to_string())]
    }

    fn scale(&self) -> Option<Scale<ReplicaSet>> {
        Some(Scale {
            replicas: |r| r.spec.replicas.unwrap_or(1),
            set_replicas: |r, count| r.spec.replicas = Some(count),
            observed,
            selector: |r| selector::text(&r.spec.selector),
        })
    }
}
