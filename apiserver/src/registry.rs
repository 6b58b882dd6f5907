//! The registry of served kinds: each strategy once, behind an object-safe face, so that handlers are written once.

use std::{any::Any, sync::Arc};

use api::{Kind, field::Errors};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::strategy::{Cell, Column, NameRule, Object, Strategy};

/// An object of a kind that only its [`Entry`] knows.
pub trait Stored: Any + Send + Sync {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// The object as JSON, `apiVersion` and `kind` first, then `metadata`.
    fn encode(&self) -> serde_json::Result<Vec<u8>>;
    /// The object as a document.
    fn to_value(&self) -> serde_json::Result<Value>;
    /// A copy.
    fn boxed(&self) -> Box<dyn Stored>;
    /// Same type and same content.
    fn same(&self, other: &dyn Stored) -> bool;
    /// For [`downcast`].
    fn as_any(&self) -> &dyn Any;
    /// For the typed face of an entry.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<K: Object> Stored for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn to_value(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }

    fn boxed(&self) -> Box<dyn Stored> {
        Box::new(self.clone())
    }

    fn same(&self, other: &dyn Stored) -> bool {
        downcast::<K>(other).is_some_and(|other| self == other)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The object as its own type.
pub fn downcast<K: Object>(object: &dyn Stored) -> Option<&K> {
    object.as_any().downcast_ref()
}

/// The object as its own type, to change.
pub fn downcast_mut<K: Object>(object: &mut dyn Stored) -> Option<&mut K> {
    object.as_any_mut().downcast_mut()
}

/// What `/scale` shows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleView {
    /// Replicas wanted.
    pub replicas: i32,
    /// Replicas seen.
    pub observed: i32,
    /// The selector in its string form.
    pub selector: String,
}

/// A [`Strategy`] without its type parameter. Objects handed in must be of the entry's own kind.
pub trait Entry: Send + Sync + 'static {
    /// The row.
    fn kind(&self) -> &'static Kind;
    /// Reads stored bytes.
    fn decode(&self, bytes: &[u8]) -> serde_json::Result<Box<dyn Stored>>;
    /// Reads a document.
    fn read(&self, value: Value) -> serde_json::Result<Box<dyn Stored>>;
    /// See [`Strategy::default`].
    fn default(&self, object: &mut dyn Stored);
    /// See [`Strategy::prepare_create`].
    fn prepare_create(&self, object: &mut dyn Stored);
    /// See [`Strategy::prepare_update`].
    fn prepare_update(&self, new: &mut dyn Stored, old: &dyn Stored);
    /// See [`Strategy::prepare_status`].
    fn prepare_status(&self, new: &mut dyn Stored, old: &dyn Stored);
    /// See [`Strategy::validate`].
    fn validate(&self, object: &dyn Stored) -> Errors;
    /// See [`Strategy::validate_update`].
    fn validate_update(&self, new: &dyn Stored, old: &dyn Stored) -> Errors;
    /// See [`Strategy::allocates`].
    fn allocates(&self) -> bool;
    /// See [`Strategy::allocate`].
    fn allocate(&self, new: &mut dyn Stored, old: Option<&dyn Stored>, others: &[&dyn Stored]) -> Errors;
    /// See [`Strategy::name_rule`].
    fn name_rule(&self) -> NameRule;
    /// See [`Strategy::columns`].
    fn columns(&self) -> &'static [Column];
    /// See [`Strategy::row`].
    fn row(&self, object: &dyn Stored, now: Timestamp) -> Vec<Cell>;
    /// The names of the fields that selectors may use beside `metadata.name` and `metadata.namespace`.
    fn field_names(&self) -> Vec<&'static str>;
    /// Their values, in the same order.
    fn field_values(&self, object: &dyn Stored) -> Vec<String>;
    /// See [`Strategy::grace_seconds`].
    fn grace_seconds(&self, object: &dyn Stored, asked: Option<i64>) -> Option<i64>;
    /// See [`Strategy::prepare_delete`].
    fn prepare_delete(&self, object: &mut dyn Stored);
    /// See [`Strategy::holds`].
    fn holds(&self, object: &dyn Stored) -> bool;
    /// What `/scale` shows; none when the kind has no scale.
    fn scale(&self, object: &dyn Stored) -> Option<ScaleView>;
    /// Sets the replicas wanted; does nothing when the kind has no scale.
    fn set_replicas(&self, object: &mut dyn Stored, replicas: i32);
    /// See [`Strategy::create_on_update`].
    fn create_on_update(&self) -> bool;
    /// See [`Strategy::time_to_live`].
    fn time_to_live(&self) -> Option<i64>;
}

struct Typed<S> {
    strategy: S,
    kind: &'static Kind,
}

fn typed<K: Object>(object: &dyn Stored) -> &K {
    downcast(object).expect("invariant: an entry is only handed objects that it decoded itself")
}

fn typed_mut<K: Object>(object: &mut dyn Stored) -> &mut K {
    downcast_mut(object).expect("invariant: an entry is only handed objects that it decoded itself")
}

impl<S: Strategy> Entry for Typed<S> {
    fn kind(&self) -> &'static Kind {
        self.kind
    }

    fn decode(&self, bytes: &[u8]) -> serde_json::Result<Box<dyn Stored>> {
        Ok(Box::new(serde_json::from_slice::<S::Object>(bytes)?))
    }

    fn read(&self, value: Value) -> serde_json::Result<Box<dyn Stored>> {
        Ok(Box::new(serde_json::from_value::<S::Object>(value)?))
    }

    fn default(&self, object: &mut dyn Stored) {
        self.strategy.default(typed_mut(object));
    }

    fn prepare_create(&self, object: &mut dyn Stored) {
        self.strategy.prepare_create(typed_mut(object));
    }

    fn prepare_update(&self, new: &mut dyn Stored, old: &dyn Stored) {
        self.strategy.prepare_update(typed_mut(new), typed(old));
    }

    fn prepare_status(&self, new: &mut dyn Stored, old: &dyn Stored) {
        self.strategy.prepare_status(typed_mut(new), typed(old));
    }

    fn validate(&self, object: &dyn Stored) -> Errors {
        self.strategy.validate(typed(object))
    }

    fn validate_update(&self, new: &dyn Stored, old: &dyn Stored) -> Errors {
        self.strategy.validate_update(typed(new), typed(old))
    }

    fn allocates(&self) -> bool {
        self.strategy.allocates()
    }

    fn allocate(&self, new: &mut dyn Stored, old: Option<&dyn Stored>, others: &[&dyn Stored]) -> Errors {
        let others: Vec<_> = others.iter().map(|o| typed(*o)).collect();
        self.strategy.allocate(typed_mut(new), old.map(typed), &others)
    }

    fn name_rule(&self) -> NameRule {
        self.strategy.name_rule()
    }

    fn columns(&self) -> &'static [Column] {
        self.strategy.columns()
    }

    fn row(&self, object: &dyn Stored, now: Timestamp) -> Vec<Cell> {
        self.strategy.row(typed(object), now)
    }

    fn field_names(&self) -> Vec<&'static str> {
        self.strategy.fields().iter().map(|(name, _)| *name).collect()
    }

    fn field_values(&self, object: &dyn Stored) -> Vec<String> {
        self.strategy.fields().iter().map(|(_, read)| read(typed(object))).collect()
    }

    fn grace_seconds(&self, object: &dyn Stored, asked: Option<i64>) -> Option<i64> {
        self.strategy.grace_seconds(typed(object), asked)
    }

    fn prepare_delete(&self, object: &mut dyn Stored) {
        self.strategy.prepare_delete(typed_mut(object));
    }

    fn holds(&self, object: &dyn Stored) -> bool {
        self.strategy.holds(typed(object))
    }

    fn scale(&self, object: &dyn Stored) -> Option<ScaleView> {
        let scale = self.strategy.scale()?;
        let object = typed(object);
        Some(ScaleView {
            replicas: (scale.replicas)(object),
            observed: (scale.observed)(object),
            selector: (scale.selector)(object),
        })
    }

    fn set_replicas(&self, object: &mut dyn Stored, replicas: i32) {
        if let Some(scale) = self.strategy.scale() {
            (scale.set_replicas)(typed_mut(object), replicas);
        }
    }

    fn create_on_update(&self) -> bool {
        self.strategy.create_on_update()
    }

    fn time_to_live(&self) -> Option<i64> {
        self.strategy.time_to_live()
    }
}

/// All kinds that are served.
#[derive(Clone, Default)]
pub struct Registry {
    entries: Vec<Arc<dyn Entry>>,
}

impl Registry {
    /// Serves the strategy's kind. Panics when the kind has no row in `api::kinds` or is served already: a mistake of
    /// the programmer, found by the first test.
    pub fn add<S: Strategy>(&mut self, strategy: S) {
        let kind = Kind::of::<S::Object>().expect("invariant: every strategy's kind is a row of api::kinds");
        assert!(self.of(kind).is_none(), "{} has two strategies", kind.qualified());
        self.entries.push(Arc::new(Typed { strategy, kind }));
    }

    /// All entries, in the order in which they were added.
    pub fn entries(&self) -> &[Arc<dyn Entry>] {
        &self.entries
    }

    /// The entry of a kind.
    pub fn of(&self, kind: &Kind) -> Option<&Arc<dyn Entry>> {
        self.entries.iter().find(|e| e.kind() == kind)
    }

    /// The entry that serves this path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<dyn Entry>> {
        self.entries.iter().find(|e| {
            let kind = e.kind();
            kind.plural == plural && kind.group == group && kind.version == version
        })
    }
}
