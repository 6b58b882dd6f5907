//! The servers of a cluster: what an administrator is told of them, and what a server is given that joins them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where an administrator asks: `GET` lists them, `DELETE ROOT/ID` removes one, `POST ROOT/ID/lead` has one lead.
pub const ROOT: &str = "/members";

/// Where a server joins.
pub const JOIN: &str = "/join/server";

/// The label of a server's EndpointSlice of Service `default/kubernetes`: the [id](Member::id) of its store's member.
pub const LABEL: &str = "orlop.dev/member";

/// The extension of a kubeconfig's cluster that tells of all servers: an object whose `servers` are URLs.
pub const EXTENSION: &str = "orlop.dev/servers";

/// A server, and its store's member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// As etcd's tools write it: hexadecimal.
    pub id: String,
    /// What its operator calls it; empty until it has started once.
    pub name: String,
    /// Where the store's other members reach it.
    pub peer_urls: Vec<String>,
    /// Where etcd's clients reach it.
    pub client_urls: Vec<String>,
    /// It is sent everything and has no vote yet.
    pub learner: bool,
    /// It leads.
    #[serde(default)]
    pub leader: bool,
    /// Its API server said a few seconds ago that it serves.
    #[serde(default)]
    pub ready: bool,
}

/// How a member is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was added, and has never started.
    NotStarted,
    /// Its API server serves.
    Ready,
    /// It was there before, and is not heard of.
    NotReady,
}

impl Member {
    /// How it is.
    pub fn condition(&self) -> Condition {
        match (self.name.is_empty(), self.ready) {
            (_, true) => Condition::Ready,
            (true, false) => Condition::NotStarted,
            (false, false) => Condition::NotReady,
        }
    }
}

/// What a server asks for that joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// Where the store's other members will reach it.
    pub peer_urls: Vec<String>,
}

/// What a server is given that joins. There is no secret of the cluster that is not in here.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// Files below `pki/`, by name.
    pub keys: BTreeMap<String, String>,
    /// The store's cluster, hexadecimal.
    pub cluster: String,
    /// The store's new member, hexadecimal.
    pub member: String,
    /// All members, the new one among them.
    pub members: Vec<Member>,
}
