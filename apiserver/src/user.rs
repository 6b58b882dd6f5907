//! The user: who asks, as authentication found out.

use std::collections::BTreeMap;

/// In this group one may do everything.
pub const MASTERS: &str = "system:masters";

/// Everybody who is somebody is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";

/// Nobody in particular.
pub const ANONYMOUS: &str = "system:anonymous";

/// Nodes are in this group; their names begin with [`NODE_PREFIX`].
pub const NODES: &str = "system:nodes";

/// What a node's user name begins with.
pub const NODE_PREFIX: &str = "system:node:";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The uid, for service accounts.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Whatever else is known, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups, who is authenticated.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut user =
            Self { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() };
        if !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        }
        user
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        Self { uid: uid.into(), ..Self::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups) }
    }

    /// Nobody.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// May do everything.
    pub fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }

    /// Whether the user is in this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The name of the node that this user is, if it is one.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty() && self.is_in(NODES))
    }
}
