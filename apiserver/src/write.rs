//! The write: what create, replace, patch and the subresources have in common, from a decoded object to a committed one.

use std::sync::Arc;

use api::{managed, schema::Schema};
use bytes::Bytes;
use k8s_openapi::{
    api::core::v1::Namespace,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Status},
};
use store::LeaseId;

use crate::{
    admission,
    ask::Ask,
    authz::escalation,
    item::{self, Item},
    meta, parts,
    query::WriteOptions,
    registry::Stored,
    reply::{self, Answer},
    services,
    storage::{self, Conditions, Outcome},
};

/// Most attempts at a write that names no resourceVersion, when others write the same object.
const ATTEMPTS: usize = 20;

/// Through which door an object is written: what of it the writer may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The object itself: all but the status.
    Main,
    /// `/status`: the status alone.
    Status,
    /// `/scale`: the replica count.
    Scale,
    /// The server itself, or a subresource that has already seen to it.
    Own,
}

impl Door {
    fn subresource(self) -> &'static str {
        match self {
            Self::Main | Self::Own => "",
            Self::Status => "status",
            Self::Scale => "scale",
        }
    }
}

/// An object that is written hangs on this lease of the store, and goes with it. Put into a request's extensions by this
/// process; nothing that comes over a connection has any.
#[derive(Clone, Copy, Debug)]
pub struct OnLease(pub LeaseId);

/// Who owns which field, computed or already known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// By comparing new and old.
    Compare,
    /// Server-side apply has done it.
    Done,
}

/// Stores a new object in the namespace of the path; answers with its bytes.
pub async fn create(ask: &Ask, object: Box<dyn Stored>, options: &WriteOptions, track: Track) -> Answer<Bytes> {
    let sent_name = object.meta().name.clone().unwrap_or_default();
    let mut last = None;
    let turn = ask.parts.allocation.turn(ask.kind()).await;
    if turn.is_some() {
        ask.fresh().await?;
    }
    for _ in 0..ATTEMPTS {
        let new = prepared(ask, object.boxed(), options, track).await?;
        if options.dry_run {
            return rehearsed(&*new);
        }
        let name = new.meta().name.clone().unwrap_or_default();
        match insert(ask, &*new, &name).await? {
            Inserted::Done(body) => return Ok(body),
            Inserted::Taken if !sent_name.is_empty() => return Err(taken(ask, &name)),
            Inserted::Taken => last = Some(taken(ask, &name)),
            Inserted::NamespaceMoved => {}
        }
    }
    Err(last.unwrap_or_else(|| {
        let name = sent_name;
        Box::new(api::status::conflict(ask.kind(), &name, "its namespace changes all the time; try again"))
    }))
}

fn taken(ask: &Ask, name: &str) -> Box<Status> {
    Box::new(api::status::already_exists(ask.kind(), name))
}

/// The object as it would be stored, or why it is not.
async fn prepared(
    ask: &Ask,
    mut new: Box<dyn Stored>,
    options: &WriteOptions,
    track: Track,
) -> Answer<Box<dyn Stored>> {
    let entry = &*ask.entry;
    let namespace = ask.target.namespace();
    meta::prepare_create(entry, new.meta_mut(), namespace, parts::now())?;
    entry.default(&mut *new);
    entry.prepare_create(&mut *new);
    admission::create(&*ask.parts, &ask.user, ask.kind(), namespace, &mut *new).await?;
    if track == Track::Compare {
        follow(ask, None, &mut *new, Door::Main, options)?;
    }
    let mut errors = meta::validate(entry, new.meta());
    errors.extend(entry.validate(&*new));
    refuse(ask, &*new, &errors)?;
    let errors = services::allocate(&ask.parts.cache, &mut *new);
    refuse(ask, &*new, &errors)?;
    escalation::check(&ask.parts.authz, &ask.parts.cache, &ask.user, &*new)?;
    Ok(new)
}

enum Inserted {
    Done(Bytes),
    Taken,
    NamespaceMoved,
}

async fn insert(ask: &Ask, new: &dyn Stored, name: &str) -> Answer<Inserted> {
    let id = storage::id(ask.kind(), ask.target.namespace(), name);
    // the namespace must still be as admission saw it: nothing is created behind the back of its deletion
    let conditions = match namespace(ask) {
        Some((key, revision)) => Conditions::default().and(key, revision),
        None => Conditions::default(),
    };
    match commit(ask, &id, 0, 0, conditions, new).await? {
        Committed::Done(item) => Ok(Inserted::Done(item.body.clone())),
        Committed::Moved(Some(_)) => Ok(Inserted::Taken),
        Committed::Moved(None) => Ok(Inserted::NamespaceMoved),
    }
}

fn namespace(ask: &Ask) -> Option<(Bytes, store::Revision)> {
    let namespace = ask.target.namespace.as_ref().filter(|_| ask.kind().namespaced())?;
    let row = api::Kind::of::<Namespace>()?;
    let item = ask.parts.cache.kind(row)?.get(namespace)?;
    Some((storage::key(row, namespace), item.revision))
}

/// Changes the object that the path names, by `make`, which is given it as it is now and is called again when somebody
/// else was faster: a writer that names a version is then refused, as it is no longer that one. Answers with its bytes.
pub async fn update(
    ask: &Ask,
    door: Door,
    options: &WriteOptions,
    track: Track,
    mut make: impl FnMut(&dyn Stored) -> Answer<Box<dyn Stored>>,
) -> Answer<Bytes> {
    let _turn = ask.parts.allocation.turn(ask.kind()).await;
    let mut item = ask.item().await?;
    for _ in 0..ATTEMPTS {
        let old = decoded(ask, &item)?;
        let mut new = make(&*old)?;
        settle(ask, &mut *new, &*old, door, options, track)?;
        keep_times(&mut *new, &*old);
        if new.same(&*old) && ask.lease.is_none_or(|lease| lease == item.lease) {
            return Ok(item.body.clone());
        }
        if options.dry_run {
            return rehearsed(&*new);
        }
        match replace(ask, &item, &*new).await? {
            Committed::Done(item) => return Ok(item.body.clone()),
            Committed::Moved(None) => return Err(ask.not_found()),
            Committed::Moved(Some(now)) => item = now,
        }
    }
    Err(modified(ask))
}

/// A write that would change nothing but when its fields were set changes nothing (upstream's
/// `IgnoreManagedFieldsTimestampsTransformer`). Only known now: defaulting may have undone what the write asked for.
fn keep_times(new: &mut dyn Stored, old: &dyn Stored) {
    let timeless = |entries: &Option<Vec<ManagedFieldsEntry>>| {
        let mut entries = entries.clone();
        entries.iter_mut().flatten().for_each(|entry| entry.time = None);
        entries
    };
    let before = &old.meta().managed_fields;
    if timeless(&new.meta().managed_fields) == timeless(before) {
        let now = std::mem::replace(&mut new.meta_mut().managed_fields, before.clone());
        if !new.same(old) {
            new.meta_mut().managed_fields = now;
        }
    }
}

/// Stores the new object in the place of `item`, or removes it when nothing holds it any more.
pub async fn replace(ask: &Ask, item: &Arc<Item>, new: &dyn Stored) -> Answer<Committed> {
    if meta::is_done(new.meta()) && !ask.entry.holds(new) {
        return remove(ask, item).await;
    }
    commit(ask, &item.id, item.revision, item.lease, Conditions::default(), new).await
}

/// Removes the object. What is handed back is how it was last.
pub async fn remove(ask: &Ask, item: &Arc<Item>) -> Answer<Committed> {
    let key = storage::key(ask.kind(), &item.id);
    let outcome = storage::delete(&*ask.parts.backend, key, item.revision).await;
    match outcome.map_err(|error| reply::store_failure(&error))? {
        Outcome::Done(revision) => {
            ask.parts.cache.wrote(revision);
            Ok(Committed::Done(Arc::new(item.stamped(&ask.cache.opening, revision))))
        }
        Outcome::Moved(now) => Ok(Committed::Moved(now.and_then(|now| stored(ask, &item.id, &now)))),
    }
}

/// The stored object, decoded.
pub fn decoded(ask: &Ask, item: &Item) -> Answer<Box<dyn Stored>> {
    item.decode(&*ask.entry).map_err(|error| {
        Box::new(api::status::internal(format!("stored {} {:?} does not decode: {error}", ask.kind().kind, item.id)))
    })
}

/// 409.
pub fn modified(ask: &Ask) -> Box<Status> {
    Box::new(api::status::conflict(ask.kind(), ask.target.name(), api::status::MODIFIED))
}

/// Makes of what was sent what will be stored.
fn settle(
    ask: &Ask,
    new: &mut dyn Stored,
    old: &dyn Stored,
    door: Door,
    options: &WriteOptions,
    track: Track,
) -> Answer<()> {
    let entry = &*ask.entry;
    meta::prepare_update(entry, new.meta_mut(), old.meta())?;
    entry.default(new);
    match door {
        Door::Main | Door::Scale => entry.prepare_update(new, old),
        Door::Status => entry.prepare_status(new, old),
        Door::Own => {}
    }
    if door != Door::Own {
        admission::update(&ask.user, ask.kind(), door.subresource(), new, old)?;
    }
    if track == Track::Compare {
        follow(ask, Some(old), new, door, options)?;
    }
    let mut errors = meta::validate(entry, new.meta());
    errors.extend(meta::validate_update(new.meta(), old.meta()));
    if door != Door::Own {
        errors.extend(entry.validate(new));
        errors.extend(entry.validate_update(new, old));
    }
    refuse(ask, new, &errors)?;
    if door == Door::Main {
        let errors = services::allocate(&ask.parts.cache, new);
        refuse(ask, new, &errors)?;
        escalation::check(&ask.parts.authz, &ask.parts.cache, &ask.user, new)?;
    }
    Ok(())
}

fn refuse(ask: &Ask, new: &dyn Stored, errors: &[api::field::Error]) -> Answer<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let name = new.meta().name.as_deref().unwrap_or_default();
    Err(Box::new(api::status::invalid(ask.kind(), name, errors)))
}

/// Notes who owns the fields that this write changes.
fn follow(ask: &Ask, old: Option<&dyn Stored>, new: &mut dyn Stored, door: Door, options: &WriteOptions) -> Answer<()> {
    let Some(ty) = Schema::of(ask.kind()) else { return Ok(()) };
    let failed = |error: serde_json::Error| Box::new(api::status::internal(error));
    let live = old.map(Stored::to_value).transpose().map_err(failed)?;
    let mut value = new.to_value().map_err(failed)?;
    let (api_version, now) = (ask.kind().api_version(), parts::now().to_string());
    let writer = managed::Writer {
        manager: &options.manager,
        api_version: &api_version,
        subresource: door.subresource(),
        now: &now,
    };
    managed::update(ty, live.as_ref(), &mut value, &writer);
    let entries = value.pointer_mut("/metadata/managedFields").map(serde_json::Value::take);
    let entries: Option<Vec<ManagedFieldsEntry>> = entries.map(serde_json::from_value).transpose().map_err(failed)?;
    new.meta_mut().managed_fields = entries.filter(|entries| !entries.is_empty());
    Ok(())
}

/// What a dry run answers with.
fn rehearsed(new: &dyn Stored) -> Answer<Bytes> {
    new.encode().map(Into::into).map_err(|error| Box::new(api::status::internal(error)))
}

/// What a write came to.
pub enum Committed {
    /// Done; as it is now.
    Done(Arc<Item>),
    /// Not done: this is how the object is instead, if it is.
    Moved(Option<Arc<Item>>),
}

async fn commit(
    ask: &Ask,
    id: &str,
    expected: store::Revision,
    lease: LeaseId,
    conditions: Conditions,
    new: &dyn Stored,
) -> Answer<Committed> {
    let parts = &ask.parts;
    let value: Bytes =
        item::encode(&ask.cache.opening, new).map_err(|error| Box::new(api::status::internal(error)))?.into();
    let failed = |error: store::Error| reply::store_failure(&error);
    let mut lease = ask.lease.unwrap_or(lease);
    if let Some(ttl) = ask.entry.time_to_live() {
        lease = parts.expiry.lease(&parts.backend, ttl, parts::now().as_second()).await.map_err(failed)?;
    }
    let key = storage::key(ask.kind(), id);
    let outcome = storage::put(&*parts.backend, key.clone(), expected, conditions, value.clone(), lease).await;
    if matches!(outcome, Err(store::Error::LeaseNotFound(_))) {
        parts.expiry.forget().await;
    }
    match outcome.map_err(failed)? {
        Outcome::Done(revision) => {
            parts.cache.wrote(revision);
            let (create_revision, version) = (revision, 1);
            let entry = store::Entry { key, value, create_revision, mod_revision: revision, version, lease };
            let item = stored(ask, id, &entry);
            Ok(Committed::Done(
                item.ok_or_else(|| Box::new(api::status::internal("the object was stored but does not read back")))?,
            ))
        }
        Outcome::Moved(now) => Ok(Committed::Moved(now.and_then(|now| stored(ask, id, &now)))),
    }
}

fn stored(ask: &Ask, id: &str, entry: &store::Entry) -> Option<Arc<Item>> {
    Item::new(&ask.cache.opening, id.into(), entry).map(Arc::new)
}
