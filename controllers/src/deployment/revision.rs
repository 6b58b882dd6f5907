//! Revisions: which ReplicaSet belongs to which template, and the annotations by which `kubectl rollout` knows them.
//!
//! Follows upstream's `pkg/controller/deployment/util/deployment_util.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::PodTemplateSpec,
};
use kube::ResourceExt;

/// The label that keeps the Pods of two templates apart.
pub const HASH_LABEL: &str = "pod-template-hash";

/// The revision of a ReplicaSet, and that of a Deployment's newest one.
pub const REVISION: &str = "deployment.kubernetes.io/revision";

/// Revisions that a ReplicaSet had before a rollback gave it a new one.
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// How many replicas the Deployment wanted when the ReplicaSet was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// How many replicas the Deployment allowed when the ReplicaSet was last scaled.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What `kubectl apply` remembers: says nothing about a ReplicaSet.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The longest revision history, bytes.
const MAX_HISTORY: usize = 2000;

/// The revision of an object; 0 when it has none.
pub fn of(annotations: &BTreeMap<String, String>) -> i64 {
    number(annotations, REVISION).unwrap_or_default()
}

/// A number in an annotation.
pub fn number<N: std::str::FromStr>(annotations: &BTreeMap<String, String>, name: &str) -> Option<N> {
    annotations.get(name)?.parse().ok()
}

/// Whether two templates describe the same Pods, whatever hash they carry.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    bare(a) == bare(b)
}

fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let mut meta = template.metadata.take().unwrap_or_default();
    let mut labels = meta.labels.take().unwrap_or_default();
    labels.remove(HASH_LABEL);
    meta.labels = (!labels.is_empty()).then_some(labels);
    meta.annotations = meta.annotations.filter(|a| !a.is_empty());
    // Neither is the template's own: the API server may fill or drop them.
    (meta.creation_timestamp, meta.managed_fields) = (None, None);
    PodTemplateSpec { metadata: Some(meta), spec: template.spec }
}

/// The hash of a template: FNV-1a over its JSON and the collision count, in letters that spell no word.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = serde_json::to_vec(&bare(template)).expect("invariant: a template is plain JSON");
    if let Some(collisions) = collisions {
        bytes.extend(collisions.to_le_bytes());
    }
    let fnv = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    fnv.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// Gives `set` the Deployment's annotations and at least the revision `revision`.
pub fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64) {
    let ours = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX];
    let annotations = set.annotations_mut();
    for (name, value) in deployment.annotations() {
        if !ours.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    let before = annotations.get(REVISION).cloned();
    if of(annotations) >= revision {
        return;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    let Some(before) = before else { return };
    let history = annotations.entry(HISTORY.into()).or_default();
    let mut all: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).chain([before.as_str()]).collect();
    while all.iter().map(|r| r.len() + 1).sum::<usize>() > MAX_HISTORY {
        all.remove(0);
    }
    *history = all.join(",");
}

/// Remembers in `set` what the Deployment wanted and allowed when it was scaled.
pub fn annotate_scale(set: &mut ReplicaSet, desired: i32, max: i32) {
    set.annotations_mut().insert(DESIRED.into(), desired.to_string());
    set.annotations_mut().insert(MAX.into(), max.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str, hash: Option<&str>) -> PodTemplateSpec {
        let labels = hash.map(|h| serde_json::json!({ HASH_LABEL: h })).unwrap_or_default();
        serde_json::from_value(serde_json::json!({
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "web", "image": image}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_hash_is_of_the_template_alone() {
        assert!(same_template(&template("a", None), &template("a", Some("xyz"))));
        assert!(!same_template(&template("a", None), &template("b", None)));
        assert_eq!(hash(&template("a", None), None), hash(&template("a", Some("xyz")), None));
        assert_ne!(hash(&template("a", None), None), hash(&template("b", None), None));
        assert_ne!(hash(&template("a", None), None), hash(&template("a", None), Some(1)), "a collision has a way out");
    }

    #[test]
    fn a_rollback_gives_a_new_revision_and_keeps_the_old_in_its_history() {
        let mut deployment = Deployment::default();
        deployment.annotations_mut().insert("kubernetes.io/change-cause".into(), "because".into());
        deployment.annotations_mut().insert(LAST_APPLIED.into(), "{}".into());
        let mut set = ReplicaSet::default();
        annotate(&mut set, &deployment, 1);
        annotate(&mut set, &deployment, 3);
        annotate(&mut set, &deployment, 2);
        annotate(&mut set, &deployment, 7);
        let text: Vec<_> = set.annotations().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [format!("{REVISION}=7"), format!("{HISTORY}=1,3"), "kubernetes.io/change-cause=because".into()]
        );
    }
}
