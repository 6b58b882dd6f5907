//! The metadata: what the server sets, keeps and checks, alike for all kinds.

use api::{
    field::{Error, Errors, Path},
    names,
    status::{bad_request, conflict},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};

use crate::{registry::Entry, reply::Answer, strategy::NameRule};

/// Most bytes of all annotations of an object (upstream's `TotalAnnotationSizeLimitB`).
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Longest name that `generateName` makes, and its random part, characters.
const MAX_GENERATED: usize = 63;
const RANDOM: usize = 5;

/// Letters and digits that make no words (upstream's `rand.String`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn bad(text: &str) -> Box<Status> {
    Box::new(bad_request(text))
}

/// Sets what a new object is given, and clears what a creator may not set.
pub fn prepare_create(entry: &dyn Entry, meta: &mut ObjectMeta, namespace: &str, now: Timestamp) -> Answer<()> {
    if meta.resource_version.take().is_some_and(|rv| !rv.is_empty()) {
        return Err(bad("resourceVersion should not be set on objects to be created"));
    }
    place(entry, meta, namespace)?;
    if meta.name.as_deref().unwrap_or_default().is_empty()
        && let Some(base) = meta.generate_name.as_deref().filter(|base| !base.is_empty())
    {
        meta.name = Some(generated(base));
    }
    meta.uid = Some(uuid::Uuid::new_v4().to_string());
    meta.creation_timestamp = Some(Time(now));
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.self_link = None;
    meta.generation = None;
    Ok(())
}

/// A name that begins with `base`, shortened if need be.
pub fn generated(base: &str) -> String {
    let base: String = base.chars().take(MAX_GENERATED - RANDOM).collect();
    let random = rand::random::<[u8; RANDOM]>();
    let letters = random.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
    base + &letters.collect::<String>()
}

/// The namespace of the path is the object's; where its kind has none, what the object says is nothing (upstream's
/// `EnsureObjectNamespaceMatchesRequestNamespace`).
fn place(entry: &dyn Entry, meta: &mut ObjectMeta, namespace: &str) -> Answer<()> {
    let own = meta.namespace.as_deref().unwrap_or_default();
    if !entry.kind().namespaced() {
        meta.namespace = None;
    } else if own.is_empty() {
        meta.namespace = Some(namespace.to_owned());
    } else if own != namespace {
        return Err(bad("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

/// Keeps what a writer may not change. 409 when the writer meant another object or another version of it.
pub fn prepare_update(entry: &dyn Entry, new: &mut ObjectMeta, old: &ObjectMeta) -> Answer<()> {
    let kind = entry.kind();
    let name = old.name.as_deref().unwrap_or_default();
    place(entry, new, old.namespace.as_deref().unwrap_or_default())?;
    match new.name.as_deref() {
        None | Some("") => new.name.clone_from(&old.name),
        Some(sent) if sent != name => {
            return Err(bad(&format!("the name of the object ({sent}) does not match the name on the URL ({name})")));
        }
        Some(_) => {}
    }
    if let Some(sent) = new.uid.as_deref().filter(|uid| !uid.is_empty())
        && Some(sent) != old.uid.as_deref()
    {
        let own = old.uid.as_deref().unwrap_or_default();
        let why = format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {own}");
        return Err(Box::new(conflict(kind, name, &why)));
    }
    if let Some(sent) = new.resource_version.as_deref().filter(|rv| !rv.is_empty() && *rv != "0")
        && Some(sent) != old.resource_version.as_deref()
    {
        return Err(Box::new(conflict(kind, name, api::status::MODIFIED)));
    }
    new.uid.clone_from(&old.uid);
    new.resource_version.clone_from(&old.resource_version);
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    new.generation = old.generation;
    new.generate_name.clone_from(&old.generate_name);
    new.self_link = None;
    Ok(())
}

/// What is wrong with it (upstream's `ValidateObjectMeta`).
pub fn validate(entry: &dyn Entry, meta: &ObjectMeta) -> Errors {
    let path = Path::new("metadata");
    let mut errors = Errors::new();
    let complain = |text: &str| match entry.name_rule() {
        NameRule::Subdomain => names::dns_subdomain(text),
        NameRule::Label => names::dns_label(text),
        NameRule::Label1035 => names::dns_1035_label(text),
        NameRule::PathSegment => path_segment(text),
    };
    let name = meta.name.as_deref().unwrap_or_default();
    if let Some(base) = meta.generate_name.as_deref().filter(|b| !b.is_empty()) {
        // a base may end where a name may not: it is judged with a letter after it
        let wrong = complain(&format!("{}a", base.chars().take(MAX_GENERATED - RANDOM).collect::<String>()));
        errors.extend(wrong.into_iter().map(|why| Error::invalid(&path.child("generateName"), base, why)));
    }
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(complain(name).into_iter().map(|why| Error::invalid(&path.child("name"), name, why)));
    }
    errors.extend(api::selector::validate_labels(meta.labels.as_ref(), &path.child("labels")));
    annotations(meta, &path.child("annotations"), &mut errors);
    for finalizer in meta.finalizers.iter().flatten() {
        let wrong = names::qualified_name(finalizer);
        errors.extend(wrong.into_iter().map(|why| Error::invalid(&path.child("finalizers"), finalizer, why)));
    }
    owners(meta, &path.child("ownerReferences"), &mut errors);
    errors
}

fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect(),
    }
}

fn annotations(meta: &ObjectMeta, path: &Path, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        total += key.len() + value.len();
        let wrong = names::qualified_name(&key.to_ascii_lowercase());
        errors.extend(wrong.into_iter().map(|why| Error::invalid(path, key, why)));
    }
    if total > MAX_ANNOTATIONS {
        errors.push(Error::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owners(meta: &ObjectMeta, path: &Path, errors: &mut Errors) {
    let mut controllers = 0;
    for (i, owner) in meta.owner_references.iter().flatten().enumerate() {
        let path = path.index(i);
        for (field, value) in
            [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)]
        {
            if value.is_empty() {
                errors.push(Error::invalid(&path.child(field), value, "must not be empty"));
            }
        }
        controllers += usize::from(owner.controller == Some(true));
    }
    if controllers > 1 {
        let text = "Only one reference can have Controller set to true";
        errors.push(Error::invalid(path, controllers, text));
    }
}

/// What is wrong with the change: finalizers may not be added to an object that is going.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta) -> Errors {
    if old.deletion_timestamp.is_none() {
        return Errors::new();
    }
    let known = old.finalizers.as_deref().unwrap_or_default();
    let added: Vec<_> = new.finalizers.iter().flatten().filter(|f| !known.contains(f)).collect();
    if added.is_empty() {
        return Errors::new();
    }
    let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
    vec![Error::forbidden(&Path::new("metadata").child("finalizers"), why)]
}

/// The object is on its way out, and nothing holds it any more.
pub fn is_done(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
}
