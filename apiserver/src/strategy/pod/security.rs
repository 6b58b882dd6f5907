//! As whom containers run, and what they may do beyond.

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{PodSpec, SecurityContext};

/// Ids of users and groups: what fits a signed 32-bit number.
const MAX_ID: i64 = i32::MAX as i64;

fn id(path: &Path, value: Option<i64>, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| !(0..=MAX_ID).contains(v)) {
        errors.push(Error::invalid(path, value, format!("must be between 0 and {MAX_ID}, inclusive")));
    }
}

/// What is wrong with the pod's part.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(context) = &spec.security_context else { return };
    id(&path.child("runAsUser"), context.run_as_user, errors);
    id(&path.child("runAsGroup"), context.run_as_group, errors);
    id(&path.child("fsGroup"), context.fs_group, errors);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(&path.child("supplementalGroups").index(index), Some(*group), errors);
    }
    if spec.host_pid == Some(true) && spec.share_process_namespace == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, why));
    }
}

/// What is wrong with a container's part.
pub(super) fn validate_container(context: &SecurityContext, path: &Path, errors: &mut Errors) {
    id(&path.child("runAsUser"), context.run_as_user, errors);
    id(&path.child("runAsGroup"), context.run_as_group, errors);
    if context.allow_privilege_escalation == Some(false) {
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_ref());
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, context, why));
        }
        if added.is_some_and(|a| a.iter().any(|c| c == "CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, context, why));
        }
    }
}
