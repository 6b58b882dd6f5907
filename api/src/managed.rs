//! Who set which field: `metadata.managedFields`, and server-side apply (KEP-555, upstream's `structured-merge-diff`).
//!
//! # Guarantees
//! * After a write every field that it changed belongs to its writer, and to no other manager.
//! * Applying the same object twice changes nothing the second time.
//! * An applier never changes a field that another manager owns, unless it forces.
//!
//! # Caveats
//! * All versions of a kind share one schema here: there is one version of each.
//! * Non-pointer structs of upstream's Go types are not known as such, so `.` may stand in an entry where upstream has none.

mod apply;
mod compare;
mod entries;
pub mod fields;
mod nature;
mod structure;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause};
use serde_json::{Map, Value};

pub use apply::apply;
pub use entries::UPDATE_ENTRIES_MAX;

use crate::{kinds::Kind, schema::Type, status};
use entries::{Entry, Operation};
use fields::FieldSet;
use nature::Nature;

/// Who writes, and through which door.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The name of the manager: `fieldManager`, or what the user agent says before its first slash.
    pub manager: &'a str,
    /// `apps/v1`: the version that the request was written in.
    pub api_version: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
}

/// Fields that an apply would take from another manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other one, as messages name it: `"kubectl-client-side-apply" using apps/v1`.
    pub manager: String,
    /// The fields.
    pub fields: FieldSet,
}

impl Conflict {
    fn some(self) -> Option<Self> {
        (!self.fields.is_empty()).then_some(self)
    }
}

/// Why an object cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change. Answered with [`conflict_status`].
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied object makes no sense. Answered with 400.
    #[error("{0}")]
    Invalid(String),
}

impl ApplyError {
    /// The answer.
    pub fn status(&self, kind: &Kind, name: &str) -> Status {
        match self {
            Self::Conflicts(conflicts) => conflict_status(conflicts),
            Self::Invalid(why) => {
                let version = kind.api_version();
                status::bad_request(format!(
                    "failed to create typed patch object ({name}; {version}, Kind={}): {why}",
                    kind.kind
                ))
            }
        }
    }
}

/// 409 with a cause for each field, as upstream's `NewConflictError`.
pub fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes = conflicts.iter().flat_map(|conflict| {
        conflict.fields.paths().into_iter().map(|path| StatusCause {
            reason: Some("FieldManagerConflict".into()),
            message: Some(format!("conflict with {}", conflict.manager)),
            field: Some(path),
        })
    });
    let causes = causes.collect();
    let mut status = status::failure(409, "Conflict", conflict_message(conflicts));
    status.details = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails {
        causes: Some(causes),
        ..Default::default()
    });
    status
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    let mut sorted: Vec<_> = conflicts.iter().map(|c| (c.manager.as_str(), c.fields.paths())).collect();
    sorted.sort();
    let count: usize = sorted.iter().map(|(_, paths)| paths.len()).sum();
    if let ([(manager, paths)], 1) = (sorted.as_slice(), count) {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0]);
    }
    let mut lines = Vec::new();
    for (manager, paths) in &sorted {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
    }
    format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
}

/// Records a write that is no apply (create, update, patch): what differs from `live` belongs to the writer.
///
/// `new` is the object as it will be stored, defaulted and prepared. Entries that came with it replace the live ones (that
/// is how clients migrate them), except through a subresource; `[{}]` forgets them all. Costs one walk over the object
/// when nothing changed.
pub fn update(ty: &'static Type, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let empty;
    let before = match live {
        Some(live) => live,
        None => {
            empty = skeleton(new);
            &empty
        }
    };
    let difference = compare::compare(Nature::of(ty), Some(before), Some(new));
    let changed = ignored(writer.subresource, ty, difference.changed);
    let removed = strip(difference.removed);
    let Some(live) = live else {
        return entries::set(new, vec![Entry::new(writer, Operation::Update, &changed)]);
    };

    let main = writer.subresource.is_empty();
    if main && entries::is_reset(new) {
        return entries::set(new, Vec::new());
    }
    // Who reads, changes and writes sends back what it read: that says nothing new.
    let pointer = "/metadata/managedFields";
    let news = main && new.pointer(pointer) != live.pointer(pointer);
    let sent = if news { entries::of(new) } else { Vec::new() };
    if sent.is_empty() && changed.is_empty() && removed.is_empty() {
        return entries::keep(live, new);
    }
    let mut managed = if sent.is_empty() { entries::of(live) } else { sent };
    // An object whose entries were forgotten is not tracked again before somebody applies.
    if managed.is_empty() {
        return entries::set(new, managed);
    }
    for entry in &mut managed {
        entry.give_up(&removed);
        if !entry.is_of(writer, Operation::Update) {
            entry.give_up(&changed);
        }
    }
    if !changed.is_empty() {
        match managed.iter_mut().find(|e| e.is_of(writer, Operation::Update)) {
            Some(own) => own.take(&changed, writer.now),
            None => managed.push(Entry::new(writer, Operation::Update, &changed)),
        }
    }
    entries::set(new, managed);
}

/// An object with empty `metadata`, `spec` and `status`, where the given one has them: nobody owns these as such.
fn skeleton(object: &Value) -> Value {
    let hollow = |name: &&str| object.get(name).is_some_and(Value::is_object);
    let names = ["metadata", "spec", "status"].into_iter().filter(hollow);
    Value::Object(names.map(|name| (name.to_owned(), Value::Object(Map::new()))).collect())
}

/// Without what nobody owns, and what the door does not write: status through the main one, all else through `/status`.
fn ignored(subresource: &str, ty: &'static Type, set: FieldSet) -> FieldSet {
    let mut set = strip(set);
    match subresource {
        "status" => {
            set.below.remove("f:spec");
            if let Some(metadata) = set.below.get_mut("f:metadata") {
                metadata.below.remove("f:labels");
            }
        }
        _ if ty.field("status").is_some() => {
            set.below.remove("f:status");
        }
        _ => {}
    }
    set.below.retain(|_, below| !below.is_empty());
    set
}

/// Without what identifies the object or is the server's to set: upstream's `stripMeta`.
fn strip(mut set: FieldSet) -> FieldSet {
    const METADATA: [&str; 9] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    set.itself = false;
    set.below.remove("f:apiVersion");
    set.below.remove("f:kind");
    if let Some(metadata) = set.below.get_mut("f:metadata") {
        metadata.itself = false;
        for name in METADATA {
            metadata.below.remove(name);
        }
        if metadata.is_empty() {
            set.below.remove("f:metadata");
        }
    }
    set
}
