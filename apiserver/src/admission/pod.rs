//! What every pod gets from the cluster's policy: its priority, and how long it stays on a node that has gone away.

use k8s_openapi::api::core::v1::{Pod, Toleration};

/// How long a pod stays bound to a node that is not ready or not reachable, unless it says otherwise; seconds. Upstream's
/// default is 300; a service should be whole again sooner. The controllers' `TOLERATION_SECONDS` is the same.
const STAY_SECONDS: i64 = 30;

/// Pods without a priority class have priority 0 and may preempt those below them (upstream's Priority).
pub(super) fn priority(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    if spec.priority.is_none() {
        spec.priority = Some(match spec.priority_class_name.as_deref() {
            Some("system-node-critical") => 2_000_001_000,
            Some("system-cluster-critical") => 2_000_000_000,
            _ => 0,
        });
    }
    spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".into());
}

/// Tolerates the two taints of a lost node for a while (upstream's DefaultTolerationSeconds).
pub(super) fn tolerations(pod: &mut Pod) {
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|t| {
            t.key.as_deref().is_none_or(|k| k.is_empty() || k == key)
                && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
        });
        if !covered {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(STAY_SECONDS),
                value: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_tolerates_everything_gets_no_more() {
        let mut pod = Pod::default();
        let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        pod.spec.get_or_insert_default().tolerations = Some(vec![all]);
        tolerations(&mut pod);
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 1);
        let mut plain = Pod::default();
        tolerations(&mut plain);
        tolerations(&mut plain);
        assert_eq!(plain.spec.unwrap().tolerations.unwrap().len(), 2);
    }
}
