//! The RBAC objects that the cluster starts with, as upstream's bootstrap policy has them.
//!
//! They are put back at every start: rules that are missing are added, what a user added stays. One who wants to change
//! them for good sets the annotation [`AUTOUPDATE`] to `false`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

mod components;
mod users;

/// Set to `false` on one of these objects, it is left as it is.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";
const GROUP: &str = "rbac.authorization.k8s.io";
/// Labels of roles that make up another: `.../aggregate-to-edit`.
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// All roles for the whole cluster. Those that aggregate others have their rules filled in already.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let mut roles = users::roles();
    roles.extend(components::roles());
    let parts = roles.clone();
    for role in roles.iter_mut().filter(|r| r.aggregation_rule.is_some()) {
        role.rules = Some(aggregate(role, &parts));
    }
    roles
}

/// Who has which of them.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let group = |name: &str| Subject {
        kind: "Group".into(),
        name: name.into(),
        api_group: Some(GROUP.into()),
        namespace: None,
    };
    let user = |name: &str| Subject { kind: "User".into(), ..group(name) };
    let (all, known, anonymous) =
        (group("system:masters"), group("system:authenticated"), group("system:unauthenticated"));
    let mut bindings = vec![
        binding("cluster-admin", "cluster-admin", vec![all]),
        binding("system:basic-user", "system:basic-user", vec![known.clone()]),
        binding("system:discovery", "system:discovery", vec![known.clone()]),
        binding("system:public-info-viewer", "system:public-info-viewer", vec![known, anonymous]),
        binding("system:monitoring", "system:monitoring", vec![group("system:monitoring")]),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            vec![group("system:serviceaccounts")],
        ),
    ];
    for name in ["system:kube-controller-manager", "system:kube-scheduler"] {
        bindings.push(binding(name, name, vec![user(name)]));
    }
    bindings.push(binding("system:node-proxier", "system:node-proxier", vec![group("system:nodes")]));
    bindings
}

/// Roles inside one namespace.
pub fn roles() -> Vec<Role> {
    components::namespaced()
}

/// Who has which of them.
pub fn role_bindings() -> Vec<RoleBinding> {
    components::namespaced()
        .into_iter()
        .filter_map(|role| {
            let user = role.metadata.name.as_deref()?.strip_prefix("system::leader-locking-")?.to_owned();
            let subject = Subject {
                kind: "User".into(),
                name: format!("system:{user}"),
                api_group: Some(GROUP.into()),
                namespace: None,
            };
            Some(RoleBinding {
                role_ref: role_ref("Role", role.metadata.name.as_deref()?),
                subjects: Some(vec![subject]),
                metadata: role.metadata,
            })
        })
        .collect()
}

/// The rules of all roles that carry a label that `role` asks for, each once, in the order of the roles.
pub fn aggregate(role: &ClusterRole, all: &[ClusterRole]) -> Vec<PolicyRule> {
    let selectors: Vec<_> = role
        .aggregation_rule
        .iter()
        .flat_map(|a| a.cluster_role_selectors.iter().flatten())
        .filter_map(|s| api::selector::Selector::from_label_selector(Some(s)).ok())
        .collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in all.iter().filter(|p| p.metadata.name != role.metadata.name) {
        if !selectors.iter().any(|s| s.matches_option(part.metadata.labels.as_ref())) {
            continue;
        }
        // a part may itself be made of parts, whose rules are not there yet
        let own =
            if part.aggregation_rule.is_some() { aggregate(part, all) } else { part.rules.clone().unwrap_or_default() };
        for rule in own {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

fn strings(words: &[&str]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.iter().map(|w| (*w).to_owned()).collect())
}

/// These verbs on these resources of these groups.
fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> PolicyRule {
    PolicyRule {
        verbs: strings(verbs).unwrap_or_default(),
        api_groups: strings(groups),
        resources: strings(resources),
        ..PolicyRule::default()
    }
}

/// GET on these paths, which are no resources.
fn urls(verbs: &[&str], paths: &[&str]) -> PolicyRule {
    PolicyRule { verbs: strings(verbs).unwrap_or_default(), non_resource_urls: strings(paths), ..PolicyRule::default() }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        labels: Some(BTreeMap::from([(BOOTSTRAPPING.into(), "rbac-defaults".into())])),
        annotations: Some(BTreeMap::from([(AUTOUPDATE.into(), "true".into())])),
        ..ObjectMeta::default()
    }
}

fn role(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: meta(name), rules: Some(rules), aggregation_rule: None }
}

/// A role whose rules flow into another.
fn part(name: &str, of: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    let mut role = role(name, rules);
    role.metadata.labels.get_or_insert_default().insert(format!("{AGGREGATE}{of}"), "true".into());
    role
}

/// A role that is made of others.
fn whole(name: &str, into: Option<&str>) -> ClusterRole {
    let mut role = role(name, Vec::new());
    if let Some(of) = into {
        role.metadata.labels.get_or_insert_default().insert(format!("{AGGREGATE}{of}"), "true".into());
    }
    let labels = BTreeMap::from([(format!("{AGGREGATE}{name}"), "true".to_owned())]);
    let selector = LabelSelector { match_labels: Some(labels), match_expressions: None };
    role.aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
    role
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: name.into() }
}

fn binding(name: &str, role: &str, subjects: Vec<Subject>) -> ClusterRoleBinding {
    ClusterRoleBinding { metadata: meta(name), role_ref: role_ref("ClusterRole", role), subjects: Some(subjects) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{registry::Registry, strategies};

    fn named(name: &str) -> ClusterRole {
        cluster_roles().into_iter().find(|r| r.metadata.name.as_deref() == Some(name)).unwrap()
    }

    fn may(role: &ClusterRole, verb: &str, group: &str, resource: &str) -> bool {
        let has = |list: &Option<Vec<String>>, word: &str| list.iter().flatten().any(|w| w == word || w == "*");
        role.rules.iter().flatten().any(|r| {
            (r.verbs.iter().any(|v| v == verb || v == "*")) && has(&r.api_groups, group) && has(&r.resources, resource)
        })
    }

    #[test]
    fn the_users_roles_contain_each_other() {
        let (view, edit, admin) = (named("view"), named("edit"), named("admin"));
        for role in [&view, &edit, &admin] {
            assert!(may(role, "list", "", "pods"));
            assert!(may(role, "get", "apps", "deployments"));
        }
        assert!(!may(&view, "create", "apps", "deployments"));
        assert!(!may(&view, "get", "", "secrets"), "who may only look sees no secrets");
        assert!(may(&edit, "create", "apps", "deployments") && may(&admin, "create", "apps", "deployments"));
        assert!(!may(&edit, "create", GROUP, "rolebindings") && may(&admin, "create", GROUP, "rolebindings"));
    }

    #[test]
    fn every_binding_names_a_role_that_exists() {
        let roles: Vec<_> = cluster_roles().into_iter().map(|r| r.metadata.name.unwrap()).collect();
        for binding in cluster_role_bindings() {
            assert!(roles.contains(&binding.role_ref.name), "{}", binding.role_ref.name);
        }
        let inside: Vec<_> = super::roles().into_iter().map(|r| (r.metadata.namespace, r.metadata.name)).collect();
        for binding in role_bindings() {
            let role = (binding.metadata.namespace.clone(), Some(binding.role_ref.name.clone()));
            assert!(inside.contains(&role), "{role:?}");
        }
    }

    #[test]
    fn all_of_them_are_valid() {
        let mut registry = Registry::default();
        strategies::register(&mut registry);
        let check = |kind: &str, objects: Vec<Box<dyn crate::registry::Stored>>| {
            let entry = registry.entries().iter().find(|e| e.kind().kind == kind).unwrap();
            for mut object in objects {
                entry.default(&mut *object);
                let errors = entry.validate(&*object);
                assert!(errors.is_empty(), "{kind} {:?}: {errors:?}", object.meta().name);
            }
        };
        check("ClusterRole", cluster_roles().into_iter().map(|o| Box::new(o) as _).collect());
        check("ClusterRoleBinding", cluster_role_bindings().into_iter().map(|o| Box::new(o) as _).collect());
        check("Role", super::roles().into_iter().map(|o| Box::new(o) as _).collect());
        check("RoleBinding", role_bindings().into_iter().map(|o| Box::new(o) as _).collect());
    }
}
