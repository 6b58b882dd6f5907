//! The status of a Deployment: what `kubectl rollout status` and `wait` look at.
//!
//! Follows upstream's `pkg/controller/deployment/{progress,sync}.go`; reasons and messages are upstream's words.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::rollout::{self, Bounds};

/// The rollout moves, or has ended well.
pub const PROGRESSING: &str = "Progressing";
/// Enough replicas are available.
pub const AVAILABLE: &str = "Available";
/// Pods could not be created or deleted.
pub const FAILURE: &str = "ReplicaFailure";
/// The new ReplicaSet is complete.
pub const COMPLETE: &str = "NewReplicaSetAvailable";
/// The rollout has not moved for too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// A deadline of this many seconds is none.
const NO_DEADLINE: i32 = i32::MAX;

/// A condition of that type with that content, as of now.
pub fn new(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// The condition of that type.
pub fn get<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|c| c.type_.as_deref() == Some(kind))
}

/// Sets a condition. One of the same status and reason stays as it is; one of the same status keeps its transition time.
pub fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let kind = condition.type_.clone().unwrap_or_default();
    if let Some(before) = get(status, &kind) {
        if before.status == condition.status && before.reason == condition.reason {
            return;
        }
        if before.status == condition.status {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
    remove(status, &kind);
    status.conditions.get_or_insert_default().push(condition);
}

/// Removes a condition.
pub fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// The deadline of a rollout step, if there is one.
pub fn deadline(deployment: &Deployment) -> Option<i32> {
    let seconds = deployment.spec.progress_deadline_seconds;
    Some(seconds.unwrap_or(600)).filter(|s| *s != NO_DEADLINE)
}

/// The counts and whether enough is available. `conditions` are taken over.
pub fn counted(
    deployment: &Deployment,
    bounds: Bounds,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    conditions: Option<Vec<DeploymentCondition>>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |field: fn(&ReplicaSet) -> i32| sets.iter().map(|s| field(s)).sum::<i32>();
    let some = |number: i32| (number != 0).then_some(number);
    let available = sum(rollout::available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(rollout::existing)),
        updated_replicas: some(new.map_or(0, rollout::existing)),
        ready_replicas: some(sum(|s| s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or_default())),
        available_replicas: some(available),
        unavailable_replicas: some((sum(rollout::replicas) - available).max(0)),
        terminating_replicas: some(sum(|s| s.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or_default())),
        collision_count: deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions,
    };
    let enough = if available >= bounds.fewest() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, new_of(AVAILABLE, enough, now));
    status
}

fn new_of(kind: &str, (status, reason, message): (&str, &str, &str), now: Timestamp) -> DeploymentCondition {
    new(kind, status, reason, message.to_owned(), now)
}

/// The rollout has ended: only new replicas, as many as wanted, all available.
pub fn is_complete(deployment: &Deployment, wanted: i32, status: &DeploymentStatus) -> bool {
    status.updated_replicas.unwrap_or_default() == wanted
        && status.replicas.unwrap_or_default() == wanted
        && status.available_replicas.unwrap_or_default() == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let [updated, total, ready, available] = [
        |s: &DeploymentStatus| s.updated_replicas.unwrap_or_default(),
        |s: &DeploymentStatus| s.replicas.unwrap_or_default(),
        |s: &DeploymentStatus| s.ready_replicas.unwrap_or_default(),
        |s: &DeploymentStatus| s.available_replicas.unwrap_or_default(),
    ];
    let old = |s| total(s) - updated(s);
    updated(after) > updated(before)
        || old(after) < old(before)
        || ready(after) > ready(before)
        || available(after) > available(before)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(condition)) = (deadline(deployment), get(status, PROGRESSING)) else { return false };
    match condition.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            condition.last_update_time.as_ref().is_some_and(|t| now.duration_since(t.0).as_secs() > i64::from(seconds))
        }
    }
}

/// Says in `status` how the rollout goes, compared with the Deployment's present status.
pub fn progress(
    deployment: &Deployment,
    wanted: i32,
    new_set: Option<&ReplicaSet>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        remove(status, PROGRESSING);
        return;
    }
    let current = get(status, PROGRESSING).cloned();
    let settled = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(COMPLETE));
    if settled {
        return;
    }
    let subject = match new_set {
        Some(set) => format!("ReplicaSet {:?}", set.name_any()),
        None => format!("Deployment {:?}", deployment.name_any()),
    };
    let before = deployment.status.clone().unwrap_or_default();
    if is_complete(deployment, wanted, status) {
        set(status, new(PROGRESSING, "True", COMPLETE, format!("{subject} has successfully progressed."), now));
    } else if has_progressed(&before, status) {
        let mut condition = new(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
        if let Some(current) = current.filter(|c| c.status.as_deref() == Some("True")) {
            condition.last_transition_time = current.last_transition_time;
        }
        // Removed first: each step starts the deadline anew.
        remove(status, PROGRESSING);
        set(status, condition);
    } else if has_timed_out(deployment, status, now) {
        set(status, new(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."), now));
    }
}

/// Takes over why Pods could not be created or deleted, the new ReplicaSet's reason first.
pub fn failure(status: &mut DeploymentStatus, sets: &[&ReplicaSet]) {
    let failures = sets.iter().flat_map(|s| s.status.iter()).flat_map(|s| s.conditions.iter().flatten());
    match failures.into_iter().find(|c| c.type_.as_deref() == Some(FAILURE)) {
        Some(condition) => set(
            status,
            DeploymentCondition {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                last_transition_time: condition.last_transition_time.clone(),
                last_update_time: condition.last_transition_time.clone(),
            },
        ),
        None => remove(status, FAILURE),
    }
}

/// Says that a rollout stands still because it was paused, or goes on: time spent paused counts toward no deadline.
pub fn pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let paused = deployment.spec.paused.unwrap_or_default();
    let reason = get(status, PROGRESSING).and_then(|c| c.reason.clone());
    let said = reason.as_deref() == Some("DeploymentPaused");
    if reason.as_deref() == Some(TIMED_OUT) || paused == said {
        return;
    }
    let content = if paused {
        ("Unknown", "DeploymentPaused", "Deployment is paused")
    } else {
        ("Unknown", "DeploymentResumed", "Deployment is resumed")
    };
    set(status, new_of(PROGRESSING, content, now));
}

/// When the deadline of a rollout that goes on runs out.
pub fn times_out_in(
    deployment: &Deployment,
    wanted: i32,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let seconds = deadline(deployment)?;
    let condition = get(status, PROGRESSING)?;
    if is_complete(deployment, wanted, status) || matches!(condition.reason.as_deref(), Some(TIMED_OUT | COMPLETE)) {
        return None;
    }
    let since = now.duration_since(condition.last_update_time.as_ref()?.0);
    // A second more, because times are stored in whole seconds.
    let left = SignedDuration::from_secs(i64::from(seconds) + 1) - since;
    Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
}
