//! What may change in a pod that exists: images, a shorter life, further tolerations, and while it is gated, where it may run.

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::gated;

const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                   tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// What is wrong with the change.
pub(super) fn validate(new: &Pod, old: &Pod) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    let (after, before) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    for (field, new, old) in [
        ("containers", after.containers.as_slice(), before.containers.as_slice()),
        (
            "initContainers",
            after.init_containers.as_deref().unwrap_or_default(),
            before.init_containers.as_deref().unwrap_or_default(),
        ),
    ] {
        if new.len() != old.len() {
            errors.push(Error::forbidden(&path.child(field), "pod updates may not add or remove containers"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline(&after, &before, &path, &mut errors);
    gates(&after, &before, &path, &mut errors);
    let kept = before.tolerations.iter().flatten().all(|t| after.tolerations.iter().flatten().any(|n| n == t));
    if !kept {
        let path = path.child("tolerations");
        let why = "existing toleration can not be modified except its tolerationSeconds";
        let added = after.tolerations.iter().flatten();
        let only_seconds = before.tolerations.iter().flatten().all(|t| {
            added.clone().any(|n| {
                let mut same = n.clone();
                same.toleration_seconds = t.toleration_seconds;
                same == *t
            })
        });
        if !only_seconds {
            errors.push(Error::forbidden(&path, why));
        }
    }
    let mut allowed = after.clone();
    restore(&mut allowed, &before);
    if allowed != before {
        errors.push(Error::forbidden(&path, WHY));
    }
    errors
}

fn images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// Undoes what may change: what is then still different may not.
fn restore(new: &mut PodSpec, old: &PodSpec) {
    images(&mut new.containers, &old.containers);
    if let (Some(new), Some(old)) = (&mut new.init_containers, &old.init_containers) {
        images(new, old);
    }
    new.active_deadline_seconds = old.active_deadline_seconds;
    new.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0) && new.termination_grace_period_seconds == Some(1) {
        new.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    // KEP-3521 and KEP-3838: gates go, and until they have gone the choice of nodes may be narrowed
    new.scheduling_gates.clone_from(&old.scheduling_gates);
    if gated(old) {
        new.node_selector.clone_from(&old.node_selector);
        match (&mut new.affinity, &old.affinity) {
            (Some(new), Some(old)) => new.node_affinity.clone_from(&old.node_affinity),
            (Some(new), None) if new.pod_affinity.is_none() && new.pod_anti_affinity.is_none() => {
                new.node_affinity = None;
            }
            _ => {}
        }
        if old.affinity.is_none() && new.affinity == Some(Default::default()) {
            new.affinity = None;
        }
    }
}

fn deadline(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) {
    let path = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.push(Error::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(old)) => {
            errors.push(Error::invalid(
                &path,
                None::<i64>,
                format!("must not update from a positive integer to nil value: {old}"),
            ));
        }
        _ => {}
    }
}

fn gates(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut Errors) {
    let before = old.scheduling_gates.as_deref().unwrap_or_default();
    for gate in new.scheduling_gates.iter().flatten().filter(|g| !before.contains(g)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.push(Error::forbidden(&path.child("schedulingGates"), why));
    }
}
