//! The entries of `metadata.managedFields`: one for each manager, operation, version and subresource.

use serde_json::{Map, Value, json};

use super::{Writer, fields::FieldSet};

/// Entries of operation `Update`, beyond which the oldest are merged, as upstream.
pub const UPDATE_ENTRIES_MAX: usize = 10;
/// The manager of merged entries, as upstream.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who owns some fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    time: Option<String>,
    /// `fieldsV1` as written; read where needed.
    written: Value,
}

impl Entry {
    pub(super) fn new(writer: &Writer<'_>, operation: Operation, fields: &FieldSet) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: Some(writer.now.to_owned()),
            written: fields.encode(),
        }
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self {
            manager: text("manager"),
            operation: match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            written: entry.get("fieldsV1")?.clone(),
        })
    }

    fn write(self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": self.manager, "operation": operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.written,
        });
        if let Some(time) = self.time {
            entry["time"] = time.into();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.into();
        }
        entry
    }

    /// Whether this is the writer's own entry. Who applies has one entry for all versions.
    pub(super) fn is_of(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    pub(super) fn fields(&self) -> FieldSet {
        FieldSet::decode(&self.written)
    }

    /// Whether a path of the set is owned here.
    pub(super) fn has_any(&self, fields: &FieldSet) -> bool {
        fields.touches(&self.written)
    }

    /// Gives up these paths.
    pub(super) fn give_up(&mut self, fields: &FieldSet) {
        if self.has_any(fields) {
            self.written = self.fields().difference(fields).encode();
        }
    }

    /// Takes these paths too.
    pub(super) fn take(&mut self, fields: &FieldSet, now: &str) {
        self.written = self.fields().union(fields).encode();
        self.time = Some(now.to_owned());
    }

    /// Whether nothing is owned any more.
    pub(super) fn is_void(&self) -> bool {
        self.written.as_object().is_none_or(Map::is_empty)
    }

    /// As conflicts name it: `"kubectl" with subresource "status" using v1`.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// The entries of an object.
pub(super) fn of(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Entry::read).collect()
}

/// Whether a writer asks to forget all entries: `managedFields: [{}]`.
pub(super) fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields") {
        Some(Value::Array(list)) => list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Gives `new` the entries of `live`.
pub(super) fn keep(live: &Value, new: &mut Value) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match live.pointer("/metadata/managedFields") {
        Some(entries) => metadata.insert("managedFields".to_owned(), entries.clone()),
        None => metadata.remove("managedFields"),
    };
}

/// Replaces an object's entries, in upstream's order.
pub(super) fn set(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.is_void());
    merge_oldest(&mut entries);
    entries.sort_by(|a, b| {
        let key =
            |e: &Entry| (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone());
        key(a).cmp(&key(b))
    });
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        let list = entries.into_iter().map(Entry::write).collect();
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// Merges the oldest updates into one, so that an object that many programs write does not grow without end.
fn merge_oldest(entries: &mut Vec<Entry>) {
    loop {
        let mut updates: Vec<usize> =
            (0..entries.len()).filter(|i| entries[*i].operation == Operation::Update).collect();
        if updates.len() <= UPDATE_ENTRIES_MAX {
            return;
        }
        updates.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
        let pair = updates.iter().enumerate().find_map(|(i, first)| {
            let mut later = updates[i + 1..].iter();
            later.find(|s| entries[**s].api_version == entries[*first].api_version).map(|second| (*first, *second))
        });
        let Some((first, second)) = pair else { return };
        let old = entries[first].clone();
        let kept = &mut entries[second];
        kept.written = kept.fields().union(&old.fields()).encode();
        ANCIENT.clone_into(&mut kept.manager);
        kept.subresource.clear();
        entries.remove(first);
    }
}
