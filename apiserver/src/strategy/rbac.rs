//! What the four kinds of RBAC share: rules, subjects, the role that a binding grants.

pub mod binding;
pub mod role;

use api::field::{Error, Errors, Path};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};

use super::{Cell, column, rules};

/// The group of all four kinds.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// What is wrong with a role's rules; URLs that are no resources belong to roles without a namespace.
pub(super) fn validate_rules(rules: Option<&Vec<PolicyRule>>, namespaced: bool) -> Errors {
    let mut errors = Errors::new();
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let path = Path::new("rules").index(index);
        if rule.verbs.is_empty() {
            errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !empty(&rule.non_resource_urls) {
            let urls = path.child("nonResourceURLs");
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.push(Error::invalid(&urls, &rule.non_resource_urls, why));
            }
            if !(empty(&rule.api_groups) && empty(&rule.resources) && empty(&rule.resource_names)) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(Error::invalid(&urls, &rule.non_resource_urls, why));
            }
            continue;
        }
        if empty(&rule.api_groups) {
            let why = "resource rules must supply at least one api group";
            errors.push(Error::required(&path.child("apiGroups"), why));
        }
        if empty(&rule.resources) {
            let why = "resource rules must supply at least one resource";
            errors.push(Error::required(&path.child("resources"), why));
        }
    }
    errors
}

/// Names the groups that a user may leave out.
pub(super) fn default_binding(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.as_deref().is_none_or(str::is_empty) {
        role.api_group = Some(GROUP.into());
    }
    for subject in subjects.into_iter().flatten() {
        if subject.api_group.as_deref().is_none_or(str::is_empty) && subject.kind != "ServiceAccount" {
            subject.api_group = Some(GROUP.into());
        }
    }
}

/// What is wrong with whom a binding names and which role it grants.
pub(super) fn validate_binding(role: &RoleRef, subjects: Option<&Vec<Subject>>, kinds: &[&str]) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("roleRef");
    let group = role.api_group.as_deref().unwrap_or_default();
    if group != GROUP {
        errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(Error::not_supported(&path.child("kind"), &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        let complaints = api::names::path_segment(&role.name);
        errors.extend(complaints.into_iter().map(|why| Error::invalid(&path.child("name"), &role.name, why)));
    }
    for (index, subject) in subjects.into_iter().flatten().enumerate() {
        validate_subject(subject, &Path::new("subjects").index(index), kinds.len() > 1, &mut errors);
    }
    errors
}

fn validate_subject(subject: &Subject, path: &Path, namespaced: bool, errors: &mut Errors) {
    let name = path.child("name");
    if subject.name.is_empty() {
        errors.push(Error::required(&name, ""));
    }
    let group = subject.api_group.as_deref().unwrap_or_default();
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                rules::subdomain(errors, &name, &subject.name);
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && subject.namespace.as_deref().is_none_or(str::is_empty) {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let supported = ["ServiceAccount", "User", "Group"];
            errors.push(Error::not_supported(&path.child("kind"), other, &supported));
        }
    }
}

/// The role of a binding never changes: another role is another grant.
pub(super) fn same_role(new: &RoleRef, old: &RoleRef) -> Errors {
    if new == old { Errors::new() } else { vec![Error::invalid(&Path::new("roleRef"), new, "cannot change roleRef")] }
}

/// Users, groups and service accounts, each as one cell.
pub(super) fn subjects(subjects: Option<&Vec<Subject>>) -> [Cell; 3] {
    ["User", "Group", "ServiceAccount"].map(|kind| {
        let named = subjects.into_iter().flatten().filter(|s| s.kind == kind);
        let names = named.map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name),
            _ => s.name.clone(),
        });
        column::cell(names.collect::<Vec<_>>().join(", "))
    })
}

/// When a role was made, in full: roles' tables show no age.
pub(super) fn created(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Cell {
    let text = meta.creation_timestamp.as_ref().map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    column::cell(text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(kind: &str) -> RoleRef {
        RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: "view".into() }
    }

    fn texts(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_binding_says_what_it_grants_to_whom() {
        let robot = Subject { kind: "ServiceAccount".into(), name: "robot".into(), ..Subject::default() };
        let errors = validate_binding(&role("Role"), Some(&vec![robot]), &["ClusterRole"]);
        assert_eq!(
            texts(&errors),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value"
            ]
        );
        let other = RoleRef { name: "edit".into(), ..role("ClusterRole") };
        assert_eq!(
            texts(&same_role(&other, &role("ClusterRole"))),
            [
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef"
            ]
        );
    }

    #[test]
    fn a_rule_is_about_resources_or_about_urls() {
        let rule = PolicyRule { non_resource_urls: Some(vec!["/healthz".into()]), ..PolicyRule::default() };
        assert_eq!(
            texts(&validate_rules(Some(&vec![rule]), true)),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs"
            ]
        );
    }
}
