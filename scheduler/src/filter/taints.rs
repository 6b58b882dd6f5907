//! A node's taints keep pods away that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::Reason;
use crate::{shape::Shape, snapshot::Node};

/// Whether a toleration covers a taint (upstream's `ToleratesTaint`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}

/// The first taint that keeps the pod from being put here.
pub fn check(shape: &Shape, node: &Node) -> Option<Reason> {
    let hard = node.taints.iter().filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"));
    let taint = hard.into_iter().find(|taint| !shape.tolerations.iter().any(|t| tolerates(t, taint)))?;
    Some(Reason::Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default() })
}

/// How many taints would rather keep the pod away.
pub fn soft(shape: &Shape, node: &Node) -> usize {
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !shape.tolerations.iter().any(|t| tolerates(t, taint))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_cover_taints() {
        let taint =
            Taint { key: "gpu".into(), value: Some("yes".into()), effect: "NoSchedule".into(), ..Taint::default() };
        let case = |key: &str, operator: &str, value: &str, effect: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let toleration = Toleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                toleration_seconds: None,
            };
            tolerates(&toleration, &taint)
        };
        assert!(case("", "Exists", "", ""));
        assert!(case("gpu", "Exists", "", "NoSchedule"));
        assert!(case("gpu", "", "yes", ""));
        assert!(!case("gpu", "Equal", "no", ""));
        assert!(!case("gpu", "Exists", "", "NoExecute"));
        assert!(!case("disk", "Exists", "", ""));
    }
}
