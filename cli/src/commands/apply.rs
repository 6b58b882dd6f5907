//! `orlop apply`: makes objects be as the files say, by server-side apply.

use anyhow::{Context, Result};
use http::Method;
use serde_json::Value;

use crate::{
    args::Apply,
    manifest::{self, Document},
    rest::{JSON, Rest, query, refused_with},
    subject,
};

/// Who we are in `managedFields`.
pub const FIELD_MANAGER: &str = "orlop";

/// Reads everything first: nothing is sent unless all files can be read.
pub async fn run(rest: &Rest, args: &Apply, out: &mut impl std::io::Write) -> Result<()> {
    let documents = manifest::read_all(&args.from.files, args.from.recursive)?;
    let mut failed = Vec::new();
    for document in &documents {
        match apply(rest, document, args.force_conflicts, args.dry_run).await {
            Ok(done) => writeln!(out, "{} {done}", document.title()).context("print")?,
            Err(error) => failed.push(error.context(format!("{}: {}", document.source, document.title()))),
        }
    }
    // the first is returned and printed by main; the others are said here
    let mut failed = failed.into_iter();
    let first = failed.next();
    for error in failed {
        writeln!(out, "error: {error:#}").context("print")?;
    }
    first.map_or(Ok(()), Err)
}

/// Applies one object and tells what that did, in kubectl's words.
pub async fn apply(rest: &Rest, document: &Document, force: bool, dry_run: bool) -> Result<&'static str> {
    let namespace = document.namespace.as_deref().unwrap_or(&rest.namespace);
    let path = subject::path(document.kind, namespace, &document.name);
    let before: Option<Value> = match rest.get(&path).await {
        Ok(object) => Some(object),
        Err(error) if refused_with(&error, 404) => None,
        Err(error) => return Err(error),
    };
    let mut options = vec![("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")];
    options.extend(force.then_some(("force", "true")));
    options.extend(dry_run.then_some(("dryRun", "All")));
    let body = serde_json::to_vec(&document.body).context("write JSON")?;
    let payload = Some(("application/apply-patch+yaml", body));
    let url = format!("{path}{}", query(&options));
    let after: Value = rest.call(Method::PATCH, &url, JSON, payload).await?;
    let version = |o: &Value| o.pointer("/metadata/resourceVersion").cloned();
    Ok(match (before, dry_run) {
        (None, false) => "created",
        (None, true) => "created (server dry run)",
        (Some(b), false) if version(&b) == version(&after) => "unchanged",
        (Some(_), false) => "configured",
        (Some(_), true) => "configured (server dry run)",
    })
}
