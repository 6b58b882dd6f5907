//! Authorization: whether who asks may. Masters may everything; nodes what their pods need; all others what RBAC grants.

pub mod escalation;
pub mod node;
pub mod rbac;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};

use crate::{cache::Cache, user::User};

/// Paths that everybody may read.
pub const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// What is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural; empty when `path` is asked for.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace; empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Object name.
    pub name: &'a str,
    /// The field selector of a list or watch.
    pub fields: &'a str,
    /// What is asked for when it is no resource.
    pub path: &'a str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, because.
    Allow(String),
    /// No; the reason is empty when nothing says yes.
    Deny(String),
}

impl Decision {
    /// Yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Who may what.
#[derive(Default)]
pub struct Authz {
    rbac: rbac::Rbac,
    nodes: node::Nodes,
}

impl Authz {
    /// Decides.
    pub fn decide(&self, cache: &Cache, user: &User, what: &Attributes<'_>) -> Decision {
        if user.is_master() {
            return Decision::Allow(String::new());
        }
        if what.verb == "get"
            && PUBLIC.iter().any(|p| what.path.strip_prefix(p).is_some_and(|r| r.is_empty() || r.starts_with('/')))
        {
            return Decision::Allow(String::new());
        }
        let mut why = String::new();
        if let Some(name) = user.node() {
            match self.nodes.decide(cache, name, what) {
                Decision::Allow(reason) => return Decision::Allow(reason),
                Decision::Deny(reason) => why = reason,
            }
        }
        match self.rbac.allowed_by(cache, user, what) {
            Some(reason) => Decision::Allow(reason),
            None => Decision::Deny(why),
        }
    }

    /// The rules that hold for a user in a namespace, and in all.
    pub fn rules(&self, cache: &Cache, user: &User, namespace: &str) -> Vec<k8s_openapi::api::rbac::v1::PolicyRule> {
        let mut rules = self.rbac.rules(cache, user, namespace);
        if user.is_master() {
            rules.insert(0, rbac::everything());
            rules.insert(1, rbac::every_path());
        }
        if user.node().is_some() {
            rules.extend(node::rules());
        }
        // what two bindings grant is shown once
        let mut seen = Vec::new();
        rules.retain(|rule| {
            !seen.contains(rule) && {
                seen.push(rule.clone());
                true
            }
        });
        rules
    }
}

/// 403, worded as upstream's `responsewriters.Forbidden`.
pub fn forbidden(user: &User, what: &Attributes<'_>, why: &str) -> Box<Status> {
    let verb = what.verb;
    let name = &user.name;
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    if what.resource.is_empty() {
        let text = format!("forbidden: User {name:?} cannot {verb} path {:?}{why}", what.path);
        let mut status = api::status::failure(403, "Forbidden", text);
        status.details = Some(StatusDetails::default());
        return Box::new(status);
    }
    let resource = match what.subresource {
        "" => what.resource.to_owned(),
        sub => format!("{}/{sub}", what.resource),
    };
    let qualified = match what.group {
        "" => what.resource.to_owned(),
        group => format!("{}.{group}", what.resource),
    };
    let subject = if what.name.is_empty() { qualified } else { format!("{qualified} {:?}", what.name) };
    let place = match what.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let text = format!(
        "{subject} is forbidden: User {name:?} cannot {verb} resource {resource:?} in API group {:?} {place}{why}",
        what.group
    );
    let mut status = api::status::failure(403, "Forbidden", text);
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    status.details = Some(StatusDetails {
        name: some(what.name),
        group: some(what.group),
        kind: some(what.resource),
        ..StatusDetails::default()
    });
    Box::new(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = User::new("x", &[]);
        let text = |what: Attributes<'_>| forbidden(&user, &what, "").message.unwrap();
        let list = Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() };
        assert_eq!(
            text(list),
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale = Attributes {
            verb: "get",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            name: "web",
            ..Attributes::default()
        };
        assert_eq!(
            text(scale),
            "deployments.apps \"web\" is forbidden: User \"x\" cannot get resource \"deployments/scale\" in API group \"apps\" at the cluster scope"
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(text(path), "forbidden: User \"x\" cannot get path \"/metrics\"");
    }
}
