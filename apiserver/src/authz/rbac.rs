//! RBAC: what roles grant, compiled from the watch cache whenever one of its objects changed.

use std::sync::Arc;

use ahash::AHashMap;
use arc_swap::ArcSwapOption;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use store::Revision;

use super::Attributes;
use crate::{cache::Cache, registry::downcast, strategy::Object, user::User};

/// Grants by subject.
#[derive(Default)]
pub struct Rbac {
    compiled: ArcSwapOption<Compiled>,
}

#[derive(Hash, PartialEq, Eq)]
enum Who {
    User(String),
    Group(String),
}

struct Grant {
    /// None: everywhere.
    namespace: Option<String>,
    rules: Arc<[PolicyRule]>,
    /// What to say when it is the reason.
    reason: String,
}

struct Compiled {
    versions: [Revision; 4],
    grants: AHashMap<Who, Vec<Arc<Grant>>>,
}

impl Rbac {
    /// The reason why the user may, if there is one.
    pub fn allowed_by(&self, cache: &Cache, user: &User, what: &Attributes<'_>) -> Option<String> {
        let compiled = self.current(cache);
        compiled
            .grants_of(user)
            .filter(|grant| {
                grant.namespace.as_deref().is_none_or(|ns| !what.namespace.is_empty() && ns == what.namespace)
            })
            .find(|grant| grant.rules.iter().any(|rule| allows(rule, what)))
            .map(|grant| grant.reason.clone())
    }

    /// The rules that hold for a user in a namespace.
    pub fn rules(&self, cache: &Cache, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let compiled = self.current(cache);
        let here = compiled.grants_of(user).filter(|g| g.namespace.as_deref().is_none_or(|ns| ns == namespace));
        here.flat_map(|g| g.rules.iter().cloned()).collect()
    }

    fn current(&self, cache: &Cache) -> Arc<Compiled> {
        let versions = [
            version::<ClusterRole>(cache),
            version::<ClusterRoleBinding>(cache),
            version::<Role>(cache),
            version::<RoleBinding>(cache),
        ];
        if let Some(compiled) = self.compiled.load_full().filter(|c| c.versions == versions) {
            return compiled;
        }
        let compiled = Arc::new(compile(cache, versions));
        self.compiled.store(Some(Arc::clone(&compiled)));
        compiled
    }
}

impl Compiled {
    fn grants_of<'a>(&'a self, user: &User) -> impl Iterator<Item = &'a Arc<Grant>> {
        let groups: Vec<_> = user.groups.iter().map(|g| Who::Group(g.clone())).collect();
        let whos = std::iter::once(Who::User(user.name.clone())).chain(groups);
        let lists: Vec<_> = whos.filter_map(|who| self.grants.get(&who)).collect();
        lists.into_iter().flatten()
    }
}

fn version<K: Object>(cache: &Cache) -> Revision {
    api::Kind::of::<K>().and_then(|kind| cache.kind(kind)).map_or(0, |kind| kind.version())
}

/// All objects of a kind, by namespace and name.
fn all<K: Object>(cache: &Cache) -> Vec<K> {
    let Some(kind) = api::Kind::of::<K>().and_then(|kind| cache.kind(kind)) else { return Vec::new() };
    let snapshot = kind.snapshot(0);
    let decoded = snapshot.objects.values().filter_map(|item| item.decode(&*kind.entry).ok());
    decoded.filter_map(|object| downcast::<K>(&*object).cloned()).collect()
}

fn compile(cache: &Cache, versions: [Revision; 4]) -> Compiled {
    let cluster: AHashMap<String, Arc<[PolicyRule]>> = all::<ClusterRole>(cache)
        .into_iter()
        .map(|r| (r.metadata.name.unwrap_or_default(), r.rules.unwrap_or_default().into()))
        .collect();
    let local: AHashMap<(String, String), Arc<[PolicyRule]>> = all::<Role>(cache)
        .into_iter()
        .map(|r| {
            let id = (r.metadata.namespace.unwrap_or_default(), r.metadata.name.unwrap_or_default());
            (id, r.rules.unwrap_or_default().into())
        })
        .collect();
    let find = |role: &RoleRef, namespace: &str| match role.kind.as_str() {
        "ClusterRole" => cluster.get(&role.name).cloned(),
        _ => local.get(&(namespace.to_owned(), role.name.clone())).cloned(),
    };
    let mut grants: AHashMap<Who, Vec<Arc<Grant>>> = AHashMap::new();
    let mut add = |subjects: Option<Vec<Subject>>, grant: Grant, home: &str| {
        let grant = Arc::new(grant);
        for subject in subjects.unwrap_or_default() {
            grants.entry(who(subject, home)).or_default().push(Arc::clone(&grant));
        }
    };
    for binding in all::<ClusterRoleBinding>(cache) {
        let Some(rules) = find(&binding.role_ref, "") else { continue };
        let name = binding.metadata.name.unwrap_or_default();
        let reason = format!("RBAC: allowed by ClusterRoleBinding {name:?} of ClusterRole {:?}", binding.role_ref.name);
        add(binding.subjects, Grant { namespace: None, rules, reason }, "");
    }
    for binding in all::<RoleBinding>(cache) {
        let namespace = binding.metadata.namespace.unwrap_or_default();
        let Some(rules) = find(&binding.role_ref, &namespace) else { continue };
        let name = binding.metadata.name.unwrap_or_default();
        let (kind, role) = (&binding.role_ref.kind, &binding.role_ref.name);
        let reason = format!("RBAC: allowed by RoleBinding \"{name}/{namespace}\" of {kind} {role:?}");
        add(binding.subjects, Grant { namespace: Some(namespace.clone()), rules, reason }, &namespace);
    }
    Compiled { versions, grants }
}

fn who(subject: Subject, home: &str) -> Who {
    match subject.kind.as_str() {
        "Group" => Who::Group(subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.unwrap_or_else(|| home.to_owned());
            Who::User(format!("system:serviceaccount:{namespace}:{}", subject.name))
        }
        _ => Who::User(subject.name),
    }
}

/// Upstream's `RuleAllows`.
pub fn allows(rule: &PolicyRule, what: &Attributes<'_>) -> bool {
    let verb = rule.verbs.iter().any(|v| v == "*" || v == what.verb);
    if !verb {
        return false;
    }
    if what.resource.is_empty() {
        return rule.non_resource_urls.iter().flatten().any(|url| path_matches(url, what.path));
    }
    let group = rule.api_groups.iter().flatten().any(|g| g == "*" || g == what.group);
    let name =
        rule.resource_names.as_ref().is_none_or(|names| names.is_empty() || names.iter().any(|n| n == what.name));
    group && name && rule.resources.iter().flatten().any(|r| resource_matches(r, what.resource, what.subresource))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

/// Every verb on every resource.
pub fn everything() -> PolicyRule {
    let any = || Some(vec!["*".to_owned()]);
    PolicyRule { api_groups: any(), resources: any(), verbs: vec!["*".into()], ..PolicyRule::default() }
}

/// Every verb on every path.
pub fn every_path() -> PolicyRule {
    PolicyRule { non_resource_urls: Some(vec!["*".into()]), verbs: vec!["*".into()], ..PolicyRule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &str, resources: &str, verbs: &str, names: &str) -> PolicyRule {
        let list = |text: &str| text.split(' ').filter(|t| *t != "-").map(Into::into).collect::<Vec<String>>();
        PolicyRule {
            api_groups: Some(
                groups.split(' ').map(|g| if g == "core" { String::new() } else { g.to_owned() }).collect(),
            ),
            resources: Some(list(resources)),
            verbs: list(verbs),
            resource_names: Some(list(names)),
            non_resource_urls: None,
        }
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let ask = |verb, group, resource, subresource, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            ..Attributes::default()
        };
        for (rule, what, expected) in [
            (rule("core", "pods", "get list", "-"), ask("get", "", "pods", "", "a"), true),
            (rule("core", "pods", "get list", "-"), ask("watch", "", "pods", "", ""), false),
            (rule("core", "pods", "get", "-"), ask("get", "", "pods", "log", "a"), false),
            (rule("core", "pods/log", "get", "-"), ask("get", "", "pods", "log", "a"), true),
            (rule("apps", "*/scale", "*", "-"), ask("update", "apps", "deployments", "scale", "a"), true),
            (rule("apps", "*/scale", "*", "-"), ask("update", "apps", "deployments", "", "a"), false),
            (rule("*", "*", "*", "-"), ask("delete", "x.io", "things", "status", "a"), true),
            (rule("core", "secrets", "get", "one"), ask("get", "", "secrets", "", "one"), true),
            (rule("core", "secrets", "get", "one"), ask("get", "", "secrets", "", "two"), false),
        ] {
            assert_eq!(allows(&rule, &what), expected, "{rule:?} {what:?}");
        }
    }
}
