//! DELETE on one object, or on all that a selector chooses.

use bytes::Bytes;
use http::StatusCode;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Status, Time};

use crate::{
    admission,
    ask::Ask,
    body, parts, query,
    registry::Stored,
    reply::{self, Answer, Response},
    target::Target,
    write::{self, Committed},
};

/// Most attempts when others write the same object.
const ATTEMPTS: usize = 10;

/// What garbage collection waits for.
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What became of one delete.
pub enum Gone {
    /// It is no more; this was its uid.
    Now(String),
    /// It will go; this is how it is now.
    Later(Bytes),
}

/// Deletes one object: 200 with a status when it is gone, with the object when its deletion waits for something.
pub async fn delete(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let options = options(ask, bytes)?;
    match run(ask, &options).await? {
        Gone::Now(uid) => {
            let status = api::status::success(ask.kind(), ask.target.name(), &uid);
            Ok(reply::json(StatusCode::OK, &status))
        }
        Gone::Later(body) => super::get::shown(ask, StatusCode::OK, &body),
    }
}

/// Deletes all objects that the selectors choose: 200 with the list of them.
pub async fn collection(ask: Ask, bytes: &Bytes) -> Answer<Response> {
    let options = options(&ask, bytes)?;
    let found = super::list::select(&ask).await?;
    let mut one = ask;
    let all = one.target.clone();
    for item in &found.items {
        let namespace = Some(item.namespace().to_owned()).filter(|ns| !ns.is_empty());
        one.target = Target { namespace, name: Some(item.name().to_owned()), ..all.clone() };
        match run(&one, &options).await {
            Ok(_) => {}
            Err(status) if status.code == Some(404) => {}
            Err(status) => return Err(status),
        }
    }
    one.target = all;
    super::list::shown(&one, &found)
}

fn options(ask: &Ask, bytes: &Bytes) -> Answer<DeleteOptions> {
    let options = match body::small::<DeleteOptions>(&ask.headers, bytes)? {
        Some(sent) => sent,
        None => query::delete_options(&ask.query)?,
    };
    if options.orphan_dependents.is_some() && options.propagation_policy.is_some() {
        return Err(invalid(
            "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
        ));
    }
    match options.propagation_policy.as_deref() {
        None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
        Some(other) => Err(invalid(&format!(
            "propagationPolicy: Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
        ))),
    }
}

fn invalid(text: &str) -> Box<Status> {
    Box::new(api::status::failure(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {text}")))
}

/// Deletes the object that the path names, or marks it for its end.
pub async fn run(ask: &Ask, options: &DeleteOptions) -> Answer<Gone> {
    let dry_run = query::dry_run(options.dry_run.iter().flatten().map(String::as_str))?;
    let mut item = ask.item().await?;
    for _ in 0..ATTEMPTS {
        let old = write::decoded(ask, &item)?;
        admission::delete(&ask.user, ask.kind(), &*old)?;
        precondition(ask, options, &*old)?;
        let uid = old.meta().uid.clone().unwrap_or_default();
        let mut new = old.boxed();
        mark(ask, &mut *new, options);
        if new.same(&*old) {
            return Ok(Gone::Later(item.body.clone()));
        }
        let ends = crate::meta::is_done(new.meta()) && !ask.entry.holds(&*new);
        if dry_run {
            return Ok(if ends { Gone::Now(uid) } else { Gone::Later(item.body.clone()) });
        }
        match write::replace(ask, &item, &*new).await? {
            Committed::Done(_) if ends => return Ok(Gone::Now(uid)),
            Committed::Done(now) => return Ok(Gone::Later(now.body.clone())),
            Committed::Moved(None) => return Err(ask.not_found()),
            Committed::Moved(Some(now)) => item = now,
        }
    }
    Err(write::modified(ask))
}

fn precondition(ask: &Ask, options: &DeleteOptions, old: &dyn Stored) -> Answer<()> {
    let Some(wanted) = &options.preconditions else { return Ok(()) };
    let meta = old.meta();
    let conflict = |what: &str, wanted: &str, is: &Option<String>| {
        let is = is.as_deref().unwrap_or_default();
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
        Box::new(api::status::conflict(ask.kind(), ask.target.name(), &why))
    };
    if let Some(uid) = wanted.uid.as_ref().filter(|uid| Some(*uid) != meta.uid.as_ref()) {
        return Err(conflict("UID", uid, &meta.uid));
    }
    if let Some(rv) = wanted.resource_version.as_ref().filter(|rv| Some(*rv) != meta.resource_version.as_ref()) {
        return Err(conflict("ResourceVersion", rv, &meta.resource_version));
    }
    Ok(())
}

/// The object as a delete leaves it: on its way out, with what it waits for (upstream's `BeforeDelete` and
/// `deletionFinalizersForGarbageCollection`).
fn mark(ask: &Ask, object: &mut dyn Stored, options: &DeleteOptions) {
    let asked = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let grace = ask.entry.grace_seconds(object, asked).unwrap_or(0).max(0);
    let meta = object.meta_mut();
    match (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        // already going: the time may only be shortened
        (Some(_), before) => {
            let before = before.unwrap_or(0);
            if asked.is_some() && grace < before {
                let end = meta.deletion_timestamp.as_ref().map_or_else(parts::now, |t| t.0);
                let end = end.saturating_sub(SignedDuration::from_secs(before - grace)).unwrap_or(end);
                meta.deletion_timestamp = Some(Time(end));
                meta.deletion_grace_period_seconds = Some(grace);
            }
        }
        (None, _) => {
            let now = parts::now();
            meta.deletion_timestamp = Some(Time(now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now)));
            meta.deletion_grace_period_seconds = Some(grace);
            if let Some(generation) = meta.generation.as_mut() {
                *generation += 1;
            }
        }
    }
    finalizers(meta.finalizers.get_or_insert_default(), options);
    if meta.finalizers.as_ref().is_some_and(Vec::is_empty) {
        meta.finalizers = None;
    }
    ask.entry.prepare_delete(object);
}

fn finalizers(list: &mut Vec<String>, options: &DeleteOptions) {
    let wanted = match (options.propagation_policy.as_deref(), options.orphan_dependents) {
        (Some("Foreground"), _) => Some(FOREGROUND),
        (Some("Orphan"), _) | (None, Some(true)) => Some(ORPHAN),
        (Some(_), _) | (None, Some(false)) => None,
        (None, None) => return,
    };
    list.retain(|f| f != FOREGROUND && f != ORPHAN || Some(f.as_str()) == wanted);
    if let Some(wanted) = wanted.filter(|wanted| !list.iter().any(|f| f == wanted)) {
        list.push(wanted.to_owned());
    }
}
