//! What a kind does differently from all others, and nothing else. Handlers are generic over this trait.

use api::{duration, field::Errors};
use jiff::Timestamp;
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Serialize, de::DeserializeOwned};

pub mod cluster_role;
pub mod cluster_role_binding;
mod column;
pub mod config_map;
pub mod deployment;
pub mod endpoint_slice;
pub mod event;
pub mod lease;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod rbac;
pub mod replica_set;
pub mod role;
pub mod role_binding;
mod rules;
pub mod secret;
mod selector;
pub mod service;
pub mod service_account;

/// What every served type can do.
pub trait Object:
    k8s_openapi::Resource
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + PartialEq
    + Send
    + Sync
    + 'static
{
}
impl<K> Object for K where
    K: k8s_openapi::Resource
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + PartialEq
        + Send
        + Sync
        + 'static
{
}

/// A column of `kubectl get`. Those of priority 0 are always shown, others with `-o wide`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading, as upstream's printers write it: `Nominated Node`.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 always, 1 with `-o wide`.
    pub priority: i32,
}

/// One cell of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A field that selectors may name, and how to read it.
pub type FieldOf<K> = (&'static str, fn(&K) -> String);

/// Where the replica count, its status and the selector of a scalable kind lie.
pub struct Scale<K> {
    /// `spec.replicas`, defaulted.
    pub replicas: fn(&K) -> i32,
    /// Sets `spec.replicas`.
    pub set_replicas: fn(&mut K, i32),
    /// `status.replicas`.
    pub observed: fn(&K) -> i32,
    /// The selector in its string form.
    pub selector: fn(&K) -> String,
}

/// What a kind does differently. Every method is a pure function.
pub trait Strategy: Send + Sync + 'static {
    /// The type.
    type Object: Object;

    /// Fills what the user left out. Idempotent. (The metadata's defaults are the handlers' concern.)
    fn default(&self, _object: &mut Self::Object) {}

    /// Clears what a creator may not set (status), sets `generation` to 1 where the kind has one.
    fn prepare_create(&self, _object: &mut Self::Object) {}

    /// Keeps what a writer of the main resource may not change (status); raises `generation` when the spec changed.
    fn prepare_update(&self, _new: &mut Self::Object, _old: &Self::Object) {}

    /// Keeps what a writer of `/status` may not change: all but the status.
    fn prepare_status(&self, _new: &mut Self::Object, _old: &Self::Object) {}

    /// What is wrong with the object by itself. (The metadata's own rules are checked by the handlers.)
    fn validate(&self, _object: &Self::Object) -> Errors {
        Errors::new()
    }

    /// What is wrong with the change: immutable fields. `validate` is called too.
    fn validate_update(&self, _new: &Self::Object, _old: &Self::Object) -> Errors {
        Errors::new()
    }

    /// Whether [`Self::allocate`] hands anything out. Handlers make creates and updates of such a kind one after the other.
    fn allocates(&self) -> bool {
        false
    }

    /// Gives the object what no two of its kind may share (cluster addresses, node ports). Called after validation has
    /// found nothing, with all other stored objects of the kind in `others`, the writer being alone until its write is
    /// in the store. `old` is the object as stored, on updates.
    fn allocate(&self, _new: &mut Self::Object, _old: Option<&Self::Object>, _others: &[&Self::Object]) -> Errors {
        Errors::new()
    }

    /// How the object's name must look: checked by the handlers.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// The columns of `kubectl get`, `Name` first, as upstream's printers have them.
    fn columns(&self) -> &'static [Column] {
        NAME_AND_AGE
    }

    /// The cells of one row, as many as there are columns.
    fn row(&self, object: &Self::Object, now: Timestamp) -> Vec<Cell> {
        vec![Cell::Text(object.metadata().name.clone().unwrap_or_default()), Cell::Text(age(object.metadata(), now))]
    }

    /// Fields beside `metadata.name` and `metadata.namespace` that field selectors may name.
    fn fields(&self) -> &'static [FieldOf<Self::Object>] {
        &[]
    }

    /// How a graceful delete of this object waits, given the seconds asked for: none deletes at once.
    fn grace_seconds(&self, _object: &Self::Object, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Marks an object whose deletion begins but waits for something (a Namespace becomes Terminating).
    fn prepare_delete(&self, _object: &mut Self::Object) {}

    /// Something beside `metadata.finalizers` keeps a deleted object (a Namespace's `spec.finalizers`).
    fn holds(&self, _object: &Self::Object) -> bool {
        false
    }

    /// How `/scale` reads and writes the object, when it has it.
    fn scale(&self) -> Option<Scale<Self::Object>> {
        None
    }

    /// Objects of this kind may be created by updating a name that does not exist (Lease, Event, RBAC: yes in upstream).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Seconds after which objects die by themselves (Events: 3600).
    fn time_to_live(&self) -> Option<i64> {
        None
    }
}

/// Which of upstream's name rules holds (RFC 1123 and 1035).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// RFC 1123 label, at most 63 characters.
    Label,
    /// RFC 1035 label, at most 63 characters.
    Label1035,
    /// Anything that is one path segment (RBAC).
    PathSegment,
}

/// Columns of a kind that has none of its own.
pub static NAME_AND_AGE: &[Column] = &[
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    },
    Column { name: "Age", kind: "string", format: "", description: "Time since creation.", priority: 0 },
];

/// Time since creation, as kubectl shortens it: `5d3h`, `<unknown>` when never stored.
pub fn age(meta: &ObjectMeta, now: Timestamp) -> String {
    meta.creation_timestamp
        .as_ref()
        .map_or_else(|| "<unknown>".to_owned(), |t| duration::short(now.duration_since(t.0).as_secs()))
}
