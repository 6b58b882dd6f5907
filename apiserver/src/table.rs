//! The table: what `kubectl get` prints, made by the server (`meta.k8s.io` Table), and objects cut down to their metadata.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    registry::Entry,
    reply::Answer,
    strategy::{Cell, Column},
};

/// What of each object goes with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads `includeObject`; 400 for anything else.
    pub fn parse(text: &str) -> Answer<Self> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(Box::new(api::status::bad_request(format!("unrecognized includeObject value: {other:?}")))),
        }
    }
}

/// A table that is being written.
pub struct Writer<'a> {
    entry: &'a dyn Entry,
    version: &'static str,
    include: Include,
    now: Timestamp,
    rows: Vec<u8>,
    headed: bool,
}

impl<'a> Writer<'a> {
    /// A table of `meta.k8s.io/<version>` without rows.
    pub fn new(entry: &'a dyn Entry, version: &'static str, include: Include, now: Timestamp) -> Self {
        Self { entry, version, include, now, rows: Vec::new(), headed: true }
    }

    /// Leaves the column definitions out, as all watch frames but the first do.
    #[must_use]
    pub fn headless(mut self) -> Self {
        self.headed = false;
        self
    }

    /// Adds the row of an object, given as its bytes.
    pub fn row(&mut self, body: &Bytes) {
        let cells: Vec<Value> = match self.entry.decode(body) {
            Ok(object) => self.entry.row(&*object, self.now).into_iter().map(cell).collect(),
            Err(error) => {
                tracing::error!(kind = self.entry.kind().kind, %error, "stored object does not decode, its row is left out");
                return;
            }
        };
        if !self.rows.is_empty() {
            self.rows.push(b',');
        }
        self.rows.extend_from_slice(b"{\"cells\":");
        self.rows.extend_from_slice(Value::Array(cells).to_string().as_bytes());
        match self.include {
            Include::None => {}
            Include::Metadata => {
                self.rows.extend_from_slice(b",\"object\":");
                self.rows.extend_from_slice(&metadata_only(body, self.version));
            }
            Include::Object => {
                self.rows.extend_from_slice(b",\"object\":");
                self.rows.extend_from_slice(body);
            }
        }
        self.rows.push(b'}');
    }

    /// The whole table.
    pub fn finish(self, revision: &str, continues: &str, remaining: Option<u64>) -> Bytes {
        let columns: Vec<_> = self.entry.columns().iter().filter(|_| self.headed).map(definition).collect();
        let meta = list_meta(revision, continues, remaining);
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{}\",\"metadata\":{meta},\"columnDefinitions\":{},\"rows\":[",
            self.version,
            Value::Array(columns)
        );
        let mut bytes = Vec::with_capacity(head.len() + self.rows.len() + 2);
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&self.rows);
        bytes.extend_from_slice(b"]}");
        bytes.into()
    }
}

/// The metadata of a list.
pub fn list_meta(revision: &str, continues: &str, remaining: Option<u64>) -> Value {
    let mut meta = serde_json::Map::new();
    meta.insert("resourceVersion".into(), revision.into());
    if !continues.is_empty() {
        meta.insert("continue".into(), continues.into());
    }
    if let Some(remaining) = remaining {
        meta.insert("remainingItemCount".into(), remaining.into());
    }
    Value::Object(meta)
}

fn cell(cell: Cell) -> Value {
    match cell {
        Cell::Text(text) => Value::String(text),
        Cell::Number(number) => number.into(),
    }
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// The `PartialObjectMetadata` of an object, cut out of its bytes.
pub fn metadata_only(body: &Bytes, version: &str) -> Bytes {
    let head = format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",");
    let metadata = crate::item::metadata(body).map_or(&b"\"metadata\":{}"[..], |(start, end)| &body[start..end]);
    let mut bytes = Vec::with_capacity(head.len() + metadata.len() + 1);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(metadata);
    bytes.push(b'}');
    bytes.into()
}

/// The `resourceVersion` that stands in an object's bytes; empty when there is none.
pub fn revision_of(body: &Bytes) -> String {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let after = text.split_once("\"metadata\":{\"resourceVersion\":\"").map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}
