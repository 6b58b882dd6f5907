//! Users and roles, and what changes them: a pure function of what there was and what is asked.
//!
//! The rules, and what is said to whoever breaks them, are those of etcd's `server/auth/store.go`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::permissions::{Permissions, Spans};
use crate::grpc::fault;
use crate::grpc::proto::authpb::{Permission, permission::Type};
use crate::grpc::proto::userspb;

/// The user that authentication cannot be enabled without, and the role that makes a user one like it.
pub(super) const ROOT: &str = "root";

/// One user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    /// Hashed; empty when there is none.
    pub(super) password: String,
    /// Tokens of before this revision are worth nothing.
    pub(super) since: u64,
    pub(super) roles: BTreeSet<String>,
}

/// All users and roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Users {
    pub(super) enabled: bool,
    /// Counts changes, from 1 on. As in etcd, enabling is none.
    pub(super) revision: u64,
    /// What tokens are signed with.
    pub(super) secret: Bytes,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Permissions>,
}

impl Default for Users {
    fn default() -> Self {
        let (users, roles) = (BTreeMap::new(), BTreeMap::new());
        Self { enabled: false, revision: 1, secret: Bytes::new(), users, roles }
    }
}

/// What is to be changed.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Enable { secret: Bytes },
    Disable,
    AddUser { name: String, password: String },
    DeleteUser { name: String },
    SetPassword { name: String, password: String },
    GrantRole { user: String, role: String },
    RevokeRole { user: String, role: String },
    AddRole { name: String },
    DeleteRole { name: String },
    GrantPermission { role: String, permission: Permission },
    RevokePermission { role: String, key: Bytes, end: Bytes },
}

impl Users {
    /// Does a change; on a refusal nothing has changed. Tells whether anything did.
    pub(super) fn apply(&mut self, change: Change) -> Result<bool, Status> {
        let before = self.revision;
        match change {
            Change::Enable { secret } => return self.enable(secret),
            Change::Disable if !self.enabled => return Ok(false),
            Change::Disable => self.enabled = false,
            Change::AddUser { name, password } => self.add_user(name, password)?,
            Change::DeleteUser { name } if self.enabled && name == ROOT => return Err(fault::invalid_auth_management()),
            Change::DeleteUser { name } => {
                self.users.remove(&name).ok_or_else(fault::user_not_found)?;
            }
            Change::SetPassword { name, password } => {
                let user = self.users.get_mut(&name).ok_or_else(fault::user_not_found)?;
                user.since = before + 1;
                // One without a password remains so.
                if !user.password.is_empty() {
                    user.password = password;
                }
            }
            Change::GrantRole { user, role } => {
                let roles = &mut self.users.get_mut(&user).ok_or_else(fault::user_not_found)?.roles;
                if role != ROOT && !self.roles.contains_key(&role) {
                    return Err(fault::role_not_found());
                }
                if !roles.insert(role) {
                    return Ok(false);
                }
            }
            Change::RevokeRole { user, role } => self.revoke_role(&user, &role)?,
            Change::AddRole { name } => self.add_role(name)?,
            Change::DeleteRole { name } => self.delete_role(&name)?,
            Change::GrantPermission { role, permission } => self.role_mut(&role)?.grant(permission)?,
            Change::RevokePermission { role, key, end } => self.role_mut(&role)?.revoke(&key, &end)?,
        }
        self.revision += 1;
        Ok(true)
    }

    fn enable(&mut self, secret: Bytes) -> Result<bool, Status> {
        if self.enabled {
            return Ok(false);
        }
        let root = self.users.get(ROOT).ok_or_else(fault::root_user_not_found)?;
        if !root.roles.contains(ROOT) {
            return Err(fault::root_role_not_found());
        }
        (self.enabled, self.secret) = (true, secret);
        Ok(true)
    }

    fn add_user(&mut self, name: String, password: String) -> Result<(), Status> {
        if name.is_empty() {
            return Err(fault::user_empty());
        }
        if self.users.contains_key(&name) {
            return Err(fault::user_exists());
        }
        let user = User { password, since: self.revision + 1, roles: BTreeSet::new() };
        self.users.insert(name, user);
        Ok(())
    }

    fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), Status> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(fault::invalid_auth_management());
        }
        let roles = &mut self.users.get_mut(user).ok_or_else(fault::user_not_found)?.roles;
        if roles.remove(role) { Ok(()) } else { Err(fault::role_not_granted()) }
    }

    fn add_role(&mut self, name: String) -> Result<(), Status> {
        if name.is_empty() {
            return Err(fault::role_empty());
        }
        if self.roles.contains_key(&name) {
            return Err(fault::role_exists());
        }
        self.roles.insert(name, Permissions::default());
        Ok(())
    }

    fn delete_role(&mut self, name: &str) -> Result<(), Status> {
        if self.enabled && name == ROOT {
            return Err(fault::invalid_auth_management());
        }
        self.roles.remove(name).ok_or_else(fault::role_not_found)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        Ok(())
    }

    fn role_mut(&mut self, name: &str) -> Result<&mut Permissions, Status> {
        self.roles.get_mut(name).ok_or_else(fault::role_not_found)
    }

    /// The user of this name.
    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The names of all, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// The names of all roles, in order.
    pub(super) fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// What a role may do; that of root is everything.
    pub(super) fn role(&self, name: &str) -> Option<Vec<Permission>> {
        let permissions = self.roles.get(name)?;
        Some(if name == ROOT { vec![everything()] } else { permissions.to_vec() })
    }

    /// What a user may read, or write, by all of its roles together.
    pub(super) fn spans(&self, user: &User, of: Type) -> Spans {
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        Spans::new(roles.flat_map(Permissions::iter).filter(|permission| {
            let has = permission.perm_type();
            has == of || has == Type::Readwrite
        }))
    }

    /// As it is kept.
    pub(super) fn encode(&self) -> Bytes {
        let users = self.users.iter().map(|(name, user)| userspb::User {
            name: name.clone(),
            password: user.password.clone(),
            since: user.since,
            roles: user.roles.iter().cloned().collect(),
        });
        let roles = self.roles.iter();
        let roles = roles.map(|(name, role)| userspb::Role { name: name.clone(), permissions: role.to_vec() });
        let kept = userspb::Users {
            enabled: self.enabled,
            revision: self.revision,
            secret: self.secret.clone(),
            users: users.collect(),
            roles: roles.collect(),
        };
        kept.encode_to_vec().into()
    }

    /// As it was kept.
    pub(super) fn decode(kept: Bytes) -> Result<Self, prost::DecodeError> {
        let userspb::Users { enabled, revision, secret, users, roles } = userspb::Users::decode(kept)?;
        let users = users.into_iter().map(|userspb::User { name, password, since, roles }| {
            (name, User { password, since, roles: roles.into_iter().collect() })
        });
        let roles = roles.into_iter().map(|role| (role.name, role.permissions.into_iter().collect()));
        Ok(Self { enabled, revision, secret, users: users.collect(), roles: roles.collect() })
    }
}

/// What root may do.
fn everything() -> Permission {
    Permission { perm_type: Type::Readwrite.into(), key: Bytes::new(), range_end: Bytes::from_static(&[0]) }
}
