//! POST on `transactions`: several objects at once, all or nothing.
//!
//! Each operation goes through the handler of its verb, as a request of its own would, on a fork of the cache and into a stage
//! in front of the store ([`Staging`]); so each sees what those before it did. What was staged is committed in one
//! transaction. When somebody else was faster, all of it is done again.

use std::sync::Arc;

use api::{
    Kind,
    transaction::{Effect, KIND, Operation, Outcome, Status as Done, Transaction},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions, Status};
use serde_json::Value;
use store::{Event, backend::MAX_TXN_OPS};

use super::{create, delete, patch, replace};
use crate::{
    ask::Ask,
    body,
    item::Item,
    parts::Parts,
    query::{FieldValidation, Query, WriteOptions},
    registry::Entry,
    reply::{self, Answer, Response},
    service::allow,
    staging::Staging,
    storage,
    target::{Target, Verb},
    user::User,
    write::Door,
};

/// Most operations. Several may write the same object; how many objects fit, the store says.
const MAX_OPERATIONS: usize = 4 * MAX_TXN_OPS;

/// Most attempts when others write the same objects.
const ATTEMPTS: usize = 20;

/// Where objects are that name no namespace, where their kind needs one; the query may name another.
const NAMESPACE: &str = "default";

/// A request.
pub struct Call {
    /// The server.
    pub parts: Arc<Parts>,
    /// Who asks.
    pub user: Arc<User>,
    /// As of a `PATCH`, and `namespace` for objects that name none.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
}

/// One operation, and what it is about.
struct Step {
    operation: Operation,
    target: Target,
    entry: Arc<dyn Entry>,
    /// What errors call it.
    title: String,
}

/// Whether the path is that of transactions.
pub fn is(target: &Target) -> bool {
    let about = (target.group.as_str(), target.version.as_str(), target.resource.as_str());
    about == (api::transaction::GROUP, api::transaction::VERSION, api::transaction::PLURAL)
        && target.name.is_none()
        && target.namespace.is_none()
}

/// Does all of it, or nothing: 201 with what became of each operation.
pub async fn create(call: Call, bytes: &Bytes) -> Answer<Response> {
    let agent = call.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let options = WriteOptions::new(&call.query, agent)?;
    let mut warnings = Vec::new();
    let steps = read(&call, bytes, options.validation, &mut warnings)?;
    call.parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
    for step in &steps {
        permit(&call, step).await.map_err(|status| named(step, *status))?;
    }
    let mut turns = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let kind = step.entry.kind();
        if !steps.iter().take(at).any(|earlier| earlier.entry.kind() == kind) {
            turns.extend(call.parts.allocation.turn(kind).await);
        }
    }
    call.parts.cache.fresh().await.map_err(|late| reply::late(&late))?;
    for _ in 0..ATTEMPTS {
        let mut attempt = Attempt::begin(&call);
        for step in &steps {
            attempt.run(&call, step).await.map_err(|status| named(step, *status))?;
        }
        attempt.staging.fits().map_err(|error| {
            let text = format!("the transaction is too large: {error}");
            Box::new(api::status::failure(413, "RequestEntityTooLarge", text))
        })?;
        let committed = if options.dry_run { Ok(0) } else { attempt.staging.commit().await };
        match committed {
            Ok(revision) => {
                call.parts.cache.wrote(revision);
                warnings.append(&mut attempt.warnings);
                return Ok(shown(attempt.done(revision), &warnings));
            }
            Err(Ok(revision)) => call.parts.cache.reach(revision).await.map_err(|late| reply::late(&late))?,
            Err(Err(error)) => return Err(reply::store_failure(&error)),
        }
    }
    let text = "the objects of the transaction are changed by others all the time; nothing was written, try again";
    Err(Box::new(api::status::failure(409, "Conflict", text)))
}

fn shown(done: Done, warnings: &[String]) -> Response {
    let answer = Transaction {
        api_version: api::moment::API_VERSION.into(),
        kind: KIND.into(),
        status: Some(done),
        ..Transaction::default()
    };
    let mut response = reply::json(StatusCode::CREATED, &answer);
    reply::warn(&mut response, warnings);
    response
}

/// The status of one operation, saying which it was.
fn named(step: &Step, mut status: Status) -> Box<Status> {
    let why = status.message.unwrap_or_default();
    status.message = Some(format!("{}: {why} (nothing was written)", step.title));
    Box::new(status)
}

fn bad(text: impl Into<String>) -> Box<Status> {
    Box::new(api::status::bad_request(text))
}

fn read(call: &Call, bytes: &Bytes, strict: FieldValidation, warnings: &mut Vec<String>) -> Answer<Vec<Step>> {
    let (value, duplicates) = body::document(body::media_type(&call.headers), bytes)?;
    match strict {
        FieldValidation::Strict if !duplicates.is_empty() => {
            return Err(bad(format!("strict decoding error: {}", duplicates.join(", "))));
        }
        FieldValidation::Warn => warnings.extend(duplicates),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    let sent: Transaction =
        serde_json::from_value(value).map_err(|error| bad(format!("the body is no {KIND}: {error}")))?;
    if sent.kind != KIND || sent.api_version != api::moment::API_VERSION {
        return Err(bad(format!("the body must be a {KIND} of {}", api::moment::API_VERSION)));
    }
    let operations = sent.spec.operations;
    if operations.is_empty() {
        return Err(bad("spec.operations: Required value: a transaction has at least one operation"));
    }
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        return Err(bad(format!("spec.operations: Too many: {count}: must have at most {MAX_OPERATIONS} items")));
    }
    let namespace = Some(call.query.get("namespace")).filter(|ns| !ns.is_empty()).unwrap_or(NAMESPACE);
    operations.into_iter().enumerate().map(|(at, operation)| step(call, at, operation, namespace)).collect()
}

fn step(call: &Call, at: usize, operation: Operation, namespace: &str) -> Answer<Step> {
    let text = |pointer| operation.object().pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name").to_owned());
    let path = format!("spec.operations[{at}].{}", operation.verb());
    let entry = Kind::by_manifest(version, kind).and_then(|kind| call.parts.registry.of(kind));
    let entry = entry.ok_or_else(|| bad(format!("{path}: no kind {kind:?} is known in version {version:?}")))?;
    let creates = matches!(operation, Operation::Create(_));
    let generated = creates && !text("/metadata/generateName").is_empty();
    if name.is_empty() && !generated {
        return Err(bad(format!("{path}.metadata.name: Required value")));
    }
    let row = entry.kind();
    let inside = text("/metadata/namespace");
    let inside = if inside.is_empty() { namespace } else { inside };
    let place = if row.namespaced() { format!(" in namespace {inside:?}") } else { String::new() };
    let title = format!("{} {} {name:?}{place}", operation.verb(), row.qualified());
    let target = Target {
        group: row.group.into(),
        version: row.version.into(),
        resource: row.plural.into(),
        namespace: row.namespaced().then(|| inside.to_owned()),
        name: (!creates).then_some(name),
        subresource: None,
    };
    Ok(Step { entry: Arc::clone(entry), operation, target, title })
}

/// Whether who asks may do this by itself, as of now: what earlier operations grant does not count yet.
async fn permit(call: &Call, step: &Step) -> Answer<()> {
    let (kind, name) = (step.entry.kind(), step.target.name());
    let verbs: &[Verb] = match &step.operation {
        Operation::Apply(_) => {
            let id = storage::id(kind, step.target.namespace(), name);
            let exists = call.parts.cache.kind(kind).is_some_and(|cache| cache.get(&id).is_some());
            if exists { &[Verb::Patch] } else { &[Verb::Patch, Verb::Create] }
        }
        Operation::Create(_) => &[Verb::Create],
        Operation::Replace(_) => &[Verb::Update],
        Operation::Delete(_) => &[Verb::Delete],
    };
    for verb in verbs {
        allow(&call.parts, &call.user, &step.target.attributes(*verb, name)).await?;
    }
    Ok(())
}

/// One try.
struct Attempt {
    parts: Arc<Parts>,
    staging: Arc<Staging>,
    outcomes: Vec<(Effect, Option<Shown>)>,
    warnings: Vec<String>,
}

/// An object to be shown, once its revision is known.
enum Shown {
    /// As it was staged.
    Staged(Arc<dyn Entry>, store::Entry),
    /// As it was and is.
    Kept(Bytes),
}

impl Attempt {
    fn begin(call: &Call) -> Self {
        let store = &call.parts.backend;
        let base = call.parts.cache.fork(Arc::clone(store));
        let work = base.fork(Arc::clone(store));
        let staging = Arc::new(Staging::new(Arc::clone(store), base));
        let parts = Arc::new(call.parts.fork(work, Arc::clone(&staging) as Arc<dyn store::Backend>));
        Self { parts, staging, outcomes: Vec::new(), warnings: Vec::new() }
    }

    /// Has the verb's handler do it, and notes what that staged.
    async fn run(&mut self, call: &Call, step: &Step) -> Answer<()> {
        let ask = self.ask(call, step)?;
        let json = |value: &Value| serde_json::to_vec(value).map(Bytes::from).map_err(|e| bad(e.to_string()));
        let response = match &step.operation {
            Operation::Apply(object) => patch::patch(&ask, &json(object)?, Door::Main).await?,
            Operation::Create(object) => create::create(&ask, &json(object)?).await?,
            Operation::Replace(object) => replace::replace(&ask, &json(object)?, Door::Main).await?,
            Operation::Delete(object) => delete::delete(&ask, &preconditions(object)?).await?,
        };
        let said = response.headers().get_all(header::WARNING).iter().filter_map(|value| value.to_str().ok());
        self.warnings.extend(said.filter_map(|value| Some(value.split_once('"')?.1.trim_end_matches('"').to_owned())));
        let created = response.status() == StatusCode::CREATED;
        let events = self.staging.drain();
        self.parts.cache.tell(&events);
        let deletes = matches!(step.operation, Operation::Delete(_));
        let effect = match (&events[..], deletes, created) {
            (_, true, _) => Effect::Deleted,
            ([], ..) => Effect::Unchanged,
            (_, _, true) => Effect::Created,
            (_, _, false) => Effect::Configured,
        };
        let shown = match events.into_iter().next_back() {
            Some(Event::Put { entry, .. }) => Some(Shown::Staged(Arc::clone(&step.entry), entry)),
            Some(Event::Delete { .. }) => None,
            None => {
                let body = response.into_body().collect().await.map_err(|error| bad(error.to_string()))?;
                Some(Shown::Kept(body.to_bytes()))
            }
        };
        self.outcomes.push((effect, shown));
        Ok(())
    }

    /// The request that the step would be by itself.
    fn ask(&self, call: &Call, step: &Step) -> Answer<Ask> {
        let (verb, media_type) = match &step.operation {
            Operation::Apply(_) => (Verb::Patch, "application/apply-patch+yaml"),
            Operation::Create(_) => (Verb::Create, reply::JSON),
            Operation::Replace(_) => (Verb::Update, reply::JSON),
            Operation::Delete(_) => (Verb::Delete, reply::JSON),
        };
        let mut headers = call.headers.clone();
        headers.remove(header::ACCEPT);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        let cache = self.parts.cache.kind(step.entry.kind()).ok_or_else(|| bad("the kind is not served"))?;
        Ok(Ask {
            cache: Arc::clone(cache),
            parts: Arc::clone(&self.parts),
            user: Arc::clone(&call.user),
            verb,
            target: step.target.clone(),
            entry: Arc::clone(&step.entry),
            // a rehearsal is the whole of it, and not committed: so later operations see what earlier ones would do
            query: call.query.without("dryRun"),
            headers,
            at: None,
            lease: None,
        })
    }

    /// What to answer with, now that the revision is known; 0 when nothing was committed.
    fn done(self, revision: store::Revision) -> Done {
        let object = |shown| match shown {
            Shown::Kept(body) => serde_json::from_slice(&body).ok(),
            Shown::Staged(entry, mut stored) => {
                stored.mod_revision = revision;
                let opening = crate::item::opening(entry.kind());
                let item = Item::new(&opening, "".into(), &stored)?;
                let mut value: Value = serde_json::from_slice(&item.body).ok()?;
                if revision == 0
                    && let Some(meta) = value.pointer_mut("/metadata").and_then(Value::as_object_mut)
                {
                    meta.remove("resourceVersion");
                }
                Some(value)
            }
        };
        let outcomes = self.outcomes.into_iter();
        let outcomes = outcomes.map(|(result, shown)| Outcome { result, object: shown.and_then(object) });
        Done { revision, outcomes: outcomes.collect() }
    }
}

/// The options of a delete: the object must be the one that was meant.
fn preconditions(object: &Value) -> Answer<Bytes> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let wanted = Preconditions { uid: text("/metadata/uid"), resource_version: text("/metadata/resourceVersion") };
    let options = DeleteOptions { preconditions: Some(wanted), ..DeleteOptions::default() };
    serde_json::to_vec(&options).map(Bytes::from).map_err(|error| bad(error.to_string()))
}
