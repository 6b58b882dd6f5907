//! Escalation: nobody grants what they do not hold (upstream `pkg/registry/rbac/validation`).

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef},
    apimachinery::pkg::apis::meta::v1::Status,
};

use super::{Attributes, Authz};
use crate::{
    cache::Cache,
    registry::{Stored, downcast},
    user::User,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// 403 when the object is a role or binding that grants more than its writer has, unless the writer may `escalate` or
/// `bind`.
pub fn check(authz: &Authz, cache: &Cache, user: &User, object: &dyn Stored) -> Result<(), Box<Status>> {
    if user.is_master() {
        return Ok(());
    }
    let (plural, verb, namespace, name, rules) = if let Some(role) = downcast::<Role>(object) {
        let rules = role.rules.clone().unwrap_or_default();
        ("roles", "escalate", meta(&role.metadata.namespace), meta(&role.metadata.name), rules)
    } else if let Some(role) = downcast::<ClusterRole>(object) {
        ("clusterroles", "escalate", String::new(), meta(&role.metadata.name), role.rules.clone().unwrap_or_default())
    } else if let Some(binding) = downcast::<RoleBinding>(object) {
        let namespace = meta(&binding.metadata.namespace);
        let rules = granted(cache, &binding.role_ref, &namespace);
        (plural_of(&binding.role_ref), "bind", namespace, binding.role_ref.name.clone(), rules)
    } else if let Some(binding) = downcast::<ClusterRoleBinding>(object) {
        let rules = granted(cache, &binding.role_ref, "");
        (plural_of(&binding.role_ref), "bind", String::new(), binding.role_ref.name.clone(), rules)
    } else {
        return Ok(());
    };
    let leave = Attributes {
        verb,
        group: GROUP,
        resource: plural,
        namespace: &namespace,
        name: &name,
        ..Attributes::default()
    };
    if authz.decide(cache, user, &leave).allowed() {
        return Ok(());
    }
    let missing: Vec<_> =
        rules.iter().flat_map(atoms).filter(|atom| !atom.held(authz, cache, user, &namespace)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let written = object.meta().name.clone().unwrap_or_default();
    let list: Vec<_> = missing.iter().map(Atom::show).collect();
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        user.groups,
        list.join("\n")
    );
    let resource = match (verb, namespace.is_empty()) {
        ("escalate", _) => plural,
        (_, true) => "clusterrolebindings",
        (_, false) => "rolebindings",
    };
    let text = format!("{resource}.{GROUP} {written:?} is forbidden: {why}");
    Err(Box::new(api::status::failure(403, "Forbidden", text)))
}

fn meta(part: &Option<String>) -> String {
    part.clone().unwrap_or_default()
}

fn plural_of(role: &RoleRef) -> &'static str {
    if role.kind == "ClusterRole" { "clusterroles" } else { "roles" }
}

fn granted(cache: &Cache, role: &RoleRef, namespace: &str) -> Vec<PolicyRule> {
    let (kind, id) = match role.kind.as_str() {
        "ClusterRole" => (api::Kind::of::<ClusterRole>(), role.name.clone()),
        _ => (api::Kind::of::<Role>(), format!("{namespace}/{}", role.name)),
    };
    let Some(kind) = kind.and_then(|kind| cache.kind(kind)) else { return Vec::new() };
    let Some(object) = kind.get(&id).and_then(|item| item.decode(&*kind.entry).ok()) else { return Vec::new() };
    let cluster = downcast::<ClusterRole>(&*object).and_then(|r| r.rules.clone());
    cluster.or_else(|| downcast::<Role>(&*object).and_then(|r| r.rules.clone())).unwrap_or_default()
}

/// One verb on one resource or path: the unit in which grants are compared.
struct Atom {
    verb: String,
    group: String,
    resource: String,
    name: String,
    path: String,
}

impl Atom {
    fn held(&self, authz: &Authz, cache: &Cache, user: &User, namespace: &str) -> bool {
        authz.rules(cache, user, namespace).iter().any(|rule| self.covered_by(rule))
    }

    /// The rule grants all that this atom does; a star is covered by a star alone.
    fn covered_by(&self, rule: &PolicyRule) -> bool {
        let among = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        if !among(&rule.verbs, &self.verb) {
            return false;
        }
        if !self.path.is_empty() {
            let covers = |url: &String| {
                url == "*" || *url == self.path || url.strip_suffix('*').is_some_and(|p| self.path.starts_with(p))
            };
            return rule.non_resource_urls.iter().flatten().any(covers);
        }
        let resources = rule.resources.as_deref().unwrap_or_default();
        let wild =
            self.resource.split_once('/').is_some_and(|(_, sub)| resources.iter().any(|r| *r == format!("*/{sub}")));
        let names = rule.resource_names.as_deref().unwrap_or_default();
        among(rule.api_groups.as_deref().unwrap_or_default(), &self.group)
            && (among(resources, &self.resource) || wild)
            && (names.is_empty() || names.contains(&self.name))
    }

    fn show(&self) -> String {
        if !self.path.is_empty() {
            return format!("{{NonResourceURLs:[{:?}], Verbs:[{:?}]}}", self.path, self.verb);
        }
        let names = if self.name.is_empty() { String::new() } else { format!(", ResourceNames:[{:?}]", self.name) };
        format!("{{APIGroups:[{:?}], Resources:[{:?}]{names}, Verbs:[{:?}]}}", self.group, self.resource, self.verb)
    }
}

/// The rule taken apart.
fn atoms(rule: &PolicyRule) -> Vec<Atom> {
    let mut found = Vec::new();
    let none = [String::new()];
    let names = rule.resource_names.as_deref().filter(|n| !n.is_empty()).unwrap_or(&none);
    for verb in &rule.verbs {
        for path in rule.non_resource_urls.iter().flatten() {
            let (group, resource, name) = (String::new(), String::new(), String::new());
            found.push(Atom { verb: verb.clone(), group, resource, name, path: path.clone() });
        }
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for name in names {
                    let (verb, group, resource) = (verb.clone(), group.clone(), resource.clone());
                    found.push(Atom { verb, group, resource, name: name.clone(), path: String::new() });
                }
            }
        }
    }
    found
}
