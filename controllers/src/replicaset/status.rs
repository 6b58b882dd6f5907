//! The status of a ReplicaSet.

use std::time::Duration;

use client::Error;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use crate::pod;

/// The condition that says that Pods could not be created or deleted.
pub const FAILURE: &str = "ReplicaFailure";

/// What its active Pods make of it, and when that changes by itself.
pub fn of(
    set: &ReplicaSet,
    active: &[&Pod],
    terminating: usize,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone();
    let labels = spec.template.and_then(|t| t.metadata).and_then(|m| m.labels).unwrap_or_default();
    let labelled = active.iter().filter(|p| labels.iter().all(|(k, v)| p.labels().get(k) == Some(v))).count();
    let waits = active.iter().filter_map(|p| pod::available_in(p, spec.min_ready_seconds.unwrap_or_default(), now));
    let waits: Vec<_> = waits.collect();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let some = |n: usize| (n > 0).then(|| number(n));
    let status = ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(active.iter().filter(|p| pod::is_ready(p)).count()),
        available_replicas: some(waits.iter().filter(|w| w.is_zero()).count()),
        terminating_replicas: some(terminating),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    };
    (status, waits.into_iter().filter(|w| !w.is_zero()).min())
}

/// The status with the failure condition as it is now: set by `failure`, gone without.
pub fn with_failure(
    set: &ReplicaSet,
    mut status: ReplicaSetStatus,
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let before =
        set.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_.as_deref() == Some(FAILURE));
    let mut conditions = status.conditions.take().unwrap_or_default();
    conditions.retain(|c| c.type_.as_deref() != Some(FAILURE));
    if let Some(error) = failure {
        let wanted = set.spec.replicas.unwrap_or(1);
        let reason = if status.replicas < wanted { "FailedCreate" } else { "FailedDelete" };
        conditions.push(match before {
            Some(before) if before.reason.as_deref() == Some(reason) => before.clone(),
            _ => ReplicaSetCondition {
                type_: Some(FAILURE.into()),
                status: Some("True".into()),
                reason: Some(reason.into()),
                message: Some(error.status().map_or_else(|| error.chain(), |s| s.message.clone())),
                last_transition_time: Some(Time(now)),
            },
        });
    }
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}
