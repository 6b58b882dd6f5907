//! Deployment: a number of equal pods, and how to get from one version of them to the next.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Cell, Column, Scale, Strategy, column, pod, rules, selector};

/// The strategy of Deployments.
pub struct Deployments;

/// How long a rollout may stand still before it is reported; seconds.
const PROGRESS_SECONDS: i32 = 600;
/// Old ReplicaSets kept for undo.
const HISTORY: i32 = 10;
/// maxSurge and maxUnavailable.
const SHARE: &str = "25%";

static COLUMNS: &[Column] = &[
    column::NAME,
    column::text("Ready", "Number of the pod with ready state"),
    column::number("Up-to-date", "Number of pods that have the desired template."),
    column::number("Available", "Number of pods that have been ready for minReadySeconds."),
    column::AGE,
    column::CONTAINERS,
    column::IMAGES,
    column::wide("Selector", "Label selector for pods."),
];

fn default_strategy(strategy: &mut DeploymentStrategy) {
    let kind = strategy.type_.get_or_insert_default();
    if kind.is_empty() {
        *kind = "RollingUpdate".into();
    }
    if kind == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_surge.get_or_insert_with(|| IntOrString::String(SHARE.into()));
        rolling.max_unavailable.get_or_insert_with(|| IntOrString::String(SHARE.into()));
    }
}

fn share(path: &Path, value: Option<&IntOrString>, errors: &mut Errors) -> Option<i64> {
    match value {
        None => Some(0),
        Some(IntOrString::Int(number)) => {
            rules::non_negative(errors, path, Some(i64::from(*number)));
            Some(i64::from(*number))
        }
        Some(IntOrString::String(text)) => {
            let complaints = api::names::percent(text);
            if !complaints.is_empty() {
                let why = "must be an integer or percentage (e.g '5%')";
                errors.push(Error::invalid(path, text, why));
                return None;
            }
            text.trim_end_matches('%').parse().ok()
        }
    }
}

fn validate_rolling(rolling: &RollingUpdateDeployment, path: &Path, errors: &mut Errors) {
    let unavailable = path.child("maxUnavailable");
    let surge = share(&path.child("maxSurge"), rolling.max_surge.as_ref(), errors);
    let gone = share(&unavailable, rolling.max_unavailable.as_ref(), errors);
    if surge == Some(0) && gone == Some(0) {
        errors.push(Error::invalid(&unavailable, &rolling.max_unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    if let (Some(IntOrString::String(text)), Some(101..)) = (&rolling.max_unavailable, gone) {
        errors.push(Error::invalid(&unavailable, text, "must not be greater than 100%"));
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut Errors) {
    let rolling = path.child("rollingUpdate");
    match strategy.type_.as_deref() {
        Some("Recreate") => {
            if strategy.rolling_update.is_some() {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(Error::forbidden(&rolling, why));
            }
        }
        Some("RollingUpdate") => match &strategy.rolling_update {
            Some(update) => validate_rolling(update, &rolling, errors),
            None => errors.push(Error::required(&rolling, "this should be defaulted and never be nil")),
        },
        other => errors.push(Error::not_supported(
            &path.child("type"),
            other.unwrap_or_default(),
            &["Recreate", "RollingUpdate"],
        )),
    }
}

fn validate_spec(spec: &DeploymentSpec) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    rules::non_negative(&mut errors, &path.child("replicas"), spec.replicas.map(i64::from));
    selector::validate(&spec.selector, &mut errors);
    pod::validate_template(Some(&spec.template), &spec.selector, &path.child("template"), &mut errors);
    if let Some(strategy) = &spec.strategy {
        validate_strategy(strategy, &path.child("strategy"), &mut errors);
    }
    let ready = spec.min_ready_seconds.unwrap_or_default();
    rules::non_negative(&mut errors, &path.child("minReadySeconds"), Some(i64::from(ready)));
    rules::non_negative(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.map(i64::from));
    let deadline = path.child("progressDeadlineSeconds");
    rules::non_negative(&mut errors, &deadline, spec.progress_deadline_seconds.map(i64::from));
    if let Some(seconds) = spec.progress_deadline_seconds.filter(|s| *s <= ready) {
        errors.push(Error::invalid(&deadline, seconds, "must be greater than minReadySeconds"));
    }
    errors
}

impl Strategy for Deployments {
    type Object = Deployment;

    fn default(&self, object: &mut Deployment) {
        let spec = &mut object.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(HISTORY);
        spec.progress_deadline_seconds.get_or_insert(PROGRESS_SECONDS);
        default_strategy(spec.strategy.get_or_insert_default());
        pod::default_spec(spec.template.spec.get_or_insert_default());
    }

    fn prepare_create(&self, object: &mut Deployment) {
        object.status = None;
        object.metadata.generation = Some(1);
    }

    fn prepare_update(&self, new: &mut Deployment, old: &Deployment) {
        new.status.clone_from(&old.status);
        // annotations count too: they may steer a rollout
        let changed = new.spec != old.spec || new.metadata.annotations != old.metadata.annotations;
        rules::generation(&mut new.metadata, &old.metadata, changed);
    }

    fn prepare_status(&self, new: &mut Deployment, old: &Deployment) {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(&self, object: &Deployment) -> Errors {
        validate_spec(&object.spec)
    }

    fn validate_update(&self, new: &Deployment, old: &Deployment) -> Errors {
        selector::stays(&new.spec.selector, &old.spec.selector)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Deployment, now: Timestamp) -> Vec<Cell> {
        let spec = &object.spec;
        let status = object.status.clone().unwrap_or_default();
        let count = |number: Option<i32>| Cell::Number(i64::from(number.unwrap_or_default()));
        let [containers, images] = column::containers(Some(&spec.template));
        let ready = status.ready_replicas.unwrap_or_default();
        vec![
            column::name(&object.metadata),
            column::cell(format!("{ready}/{}", spec.replicas.unwrap_or_default())),
            count(status.updated_replicas),
            count(status.available_replicas),
            column::aged(&object.metadata, now),
            containers,
            images,
            column::cell(selector::text(&spec.selector)),
        ]
    }

    fn scale(&self) -> Option<Scale<Deployment>> {
        Some(Scale {
            replicas: |d| d.spec.replicas.unwrap_or(1),
            set_replicas: |d, count| d.spec.replicas = Some(count),
            observed: |d| d.status.as_ref().and_then(|s| s.replicas).unwrap_or_default(),
            selector: |d| selector::text(&d.spec.selector),
        })
    }
}
