//! A pod's node selector and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::Reason;
use crate::{shape::Shape, snapshot::Node};

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|w| w == v);
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |larger: bool| {
        let (Some(own), Some(bound)) = (value.and_then(number), values.first().and_then(|v| number(v))) else {
            return false;
        };
        if larger { own > bound } else { own < bound }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(true),
        "Lt" => compared(false),
        _ => false,
    }
}

/// Whether a term matches a node; one that requires nothing matches none.
pub fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, (r.key == "metadata.name").then_some(name)))
}

/// Whether the node is one of those that the pod wants.
pub fn wants(shape: &Shape, node: &Node) -> bool {
    shape.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && shape.node_terms.as_ref().is_none_or(|terms| terms.iter().any(|t| matches(t, &node.labels, &node.name)))
}

/// Whether the pod wants other nodes.
pub fn check(shape: &Shape, node: &Node) -> Option<Reason> {
    (!wants(shape, node)).then_some(Reason::Affinity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_compares_as_upstreams() {
        let requirement = |operator: &str, values: &[&str]| NodeSelectorRequirement {
            key: "cores".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        for (operator, values, present, absent) in [
            ("In", &["8", "16"][..], true, false),
            ("NotIn", &["8"], false, true),
            ("Exists", &[], true, false),
            ("DoesNotExist", &[], false, true),
            ("Gt", &["7"], true, false),
            ("Gt", &["8"], false, false),
            ("Lt", &["10"], true, false),
            ("Lt", &["x"], false, false),
        ] {
            let requirement = requirement(operator, values);
            assert_eq!(holds(&requirement, Some("8")), present, "{operator} {values:?}");
            assert_eq!(holds(&requirement, None), absent, "{operator} {values:?} without the label");
        }
        assert!(!matches(&NodeSelectorTerm::default(), &BTreeMap::new(), "a"));
    }
}
