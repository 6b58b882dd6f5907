//! Where a pod may run: tolerations, affinity, spreading.

use std::collections::BTreeSet;

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
};

use crate::strategy::rules;

/// What a taint does to pods that do not tolerate it.
pub(in crate::strategy) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const NODE_OPERATORS: [&str; 6] = ["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"];
/// Weights of preferences.
const WEIGHTS: std::ops::RangeInclusive<i32> = 1..=100;

/// What is wrong with all of it.
pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    rules::labels(errors, &path.child("nodeSelector"), spec.node_selector.as_ref());
    for (index, toleration) in spec.tolerations.iter().flatten().enumerate() {
        validate_toleration(toleration, &path.child("tolerations").index(index), errors);
    }
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (index, gate) in gates.iter().enumerate() {
        let path = path.child("schedulingGates").index(index);
        rules::qualified(errors, &path, &gate.name);
        if gates[..index].iter().any(|g| g.name == gate.name) {
            errors.push(Error::duplicate(&path, &gate.name));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        if constraint.max_skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), constraint.max_skew, "must be greater than zero"));
        }
        topology_key(&constraint.topology_key, &path.child("topologyKey"), errors);
        let unsatisfiable = ["DoNotSchedule", "ScheduleAnyway"];
        let value = Some(constraint.when_unsatisfiable.as_str());
        rules::one_of(errors, &path.child("whenUnsatisfiable"), value, &unsatisfiable);
        if !seen.insert((&constraint.topology_key, &constraint.when_unsatisfiable)) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(selector) = &constraint.label_selector {
            rules::label_selector(errors, &path.child("labelSelector"), selector);
        }
    }
}

fn topology_key(key: &str, path: &Path, errors: &mut Errors) {
    if key.is_empty() {
        errors.push(Error::required(path, "can not be empty"));
    } else {
        rules::qualified(errors, path, key);
    }
}

fn validate_toleration(toleration: &Toleration, path: &Path, errors: &mut Errors) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !key.is_empty() {
        rules::qualified(errors, &path.child("key"), key);
    }
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&path.child("operator"), operator, why));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&path.child("effect"), effect, why));
    }
    match operator {
        "" | "Equal" => {
            let complaints = api::names::label_value(value);
            errors.extend(complaints.into_iter().map(|why| Error::invalid(&path.child("operator"), value, why)));
        }
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.push(Error::invalid(&path.child("operator"), toleration, why));
        }
        "Exists" => {}
        other => errors.push(Error::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(&path.child("effect"), effect, &EFFECTS));
    }
}

fn validate_affinity(affinity: &Affinity, path: &Path, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let path = path.child(REQUIRED).child("nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                errors.push(Error::required(&path, "must have at least one node selector term"));
            }
            for (index, term) in required.node_selector_terms.iter().enumerate() {
                node_term(term, &path.index(index), errors);
            }
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, term) in preferred.enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(term.weight, &path, errors);
            node_term(&term.preference, &path.child("preference"), errors);
        }
    }
    let empty = Vec::new();
    let toward = affinity.pod_affinity.as_ref().map(|a| {
        let preferred = a.preferred_during_scheduling_ignored_during_execution.as_ref();
        (a.required_during_scheduling_ignored_during_execution.as_ref(), preferred)
    });
    let away = affinity.pod_anti_affinity.as_ref().map(|a| {
        let preferred = a.preferred_during_scheduling_ignored_during_execution.as_ref();
        (a.required_during_scheduling_ignored_during_execution.as_ref(), preferred)
    });
    for (field, terms) in [("podAffinity", toward), ("podAntiAffinity", away)] {
        let Some((required, preferred)) = terms else { continue };
        let path = path.child(field);
        for (index, term) in required.into_iter().flatten().enumerate() {
            pod_term(term, &path.child(REQUIRED).index(index), errors);
        }
        for (index, term) in preferred.unwrap_or(&empty).iter().enumerate() {
            let path = path.child(PREFERRED).index(index);
            weight(term.weight, &path, errors);
            pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(weight: i32, path: &Path, errors: &mut Errors) {
    if !WEIGHTS.contains(&weight) {
        errors.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn node_term(term: &NodeSelectorTerm, path: &Path, errors: &mut Errors) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        rules::qualified(errors, &path.child("key"), &requirement.key);
        node_requirement(requirement, &path, errors);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = path.child("matchFields").index(index);
        if requirement.key != "metadata.name" {
            let why = "not a valid field selector key";
            errors.push(Error::invalid(&path.child("key"), &requirement.key, why));
        }
        if !matches!(requirement.operator.as_str(), "In" | "NotIn") {
            let why = "not a valid selector operator";
            errors.push(Error::invalid(&path.child("operator"), &requirement.operator, why));
        } else if requirement.values.as_ref().map_or(0, Vec::len) != 1 {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&path.child("values"), why));
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut Errors) {
    let values = requirement.values.as_ref().map_or(0, Vec::len);
    let path_values = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values == 0 => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(Error::required(&path_values, why));
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&path_values, why));
        }
        "Gt" | "Lt" if values != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(Error::required(&path_values, why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::not_supported(&path.child("operator"), other, &NODE_OPERATORS)),
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut Errors) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            rules::label_selector(errors, &path.child(field), selector);
        }
    }
    for (index, namespace) in term.namespaces.iter().flatten().enumerate() {
        rules::label(errors, &path.child("namespaces").index(index), namespace);
    }
    topology_key(&term.topology_key, &path.child("topologyKey"), errors);
}
