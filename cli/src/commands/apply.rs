//! `orlop apply`: makes objects be as the files say, by server-side apply.

use anyhow::{Context, Result, bail};
use api::transaction::{Effect, Operation};
use http::Method;
use serde_json::Value;

use crate::{
    args::Apply,
    manifest::{self, Document},
    rest::{Failures, JSON, Rest, query, refused_with},
    subject,
};

/// Who we are in `managedFields`.
pub const FIELD_MANAGER: &str = "orlop";

/// Reads everything first: nothing is sent unless all files can be read.
pub async fn run(rest: &Rest, args: &Apply, out: &mut impl std::io::Write) -> Result<()> {
    let documents = manifest::read_all(&args.from.files, args.from.recursive)?;
    documents.iter().filter(|_| rest.named_namespace).try_for_each(|document| same_namespace(rest, document))?;
    if args.atomic {
        return together(rest, &documents, args, out).await;
    }
    let mut failures = Failures::default();
    for document in &documents {
        match apply(rest, document, args.force_conflicts, args.dry_run).await {
            Ok(done) => writeln!(out, "{} {done}", document.title()).context("print")?,
            Err(error) => failures.note(error.context(format!("{}: {}", document.source, document.title()))),
        }
    }
    failures.end()
}

/// An object that says where it lives lives there: `--namespace` is for those that do not say.
fn same_namespace(rest: &Rest, document: &Document) -> Result<()> {
    match document.namespace.as_ref().filter(|own| document.kind.namespaced() && **own != rest.namespace) {
        Some(own) => bail!(
            "{}: the namespace of {} is {own:?}, not {:?}: leave --namespace out, or pass --namespace={own}",
            document.source,
            document.title(),
            rest.namespace
        ),
        None => Ok(()),
    }
}

/// Applies all objects in one transaction.
async fn together(rest: &Rest, documents: &[Document], args: &Apply, out: &mut impl std::io::Write) -> Result<()> {
    let operations = documents.iter().map(|document| Operation::Apply(document.body.clone())).collect();
    let mut options = vec![("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")];
    options.extend(args.force_conflicts.then_some(("force", "true")));
    let done = rest.transact(operations, &options, args.dry_run).await?;
    for (document, outcome) in documents.iter().zip(done.outcomes) {
        let done = match outcome.result {
            Effect::Created => "created",
            Effect::Configured => "configured",
            Effect::Unchanged => "unchanged",
            Effect::Deleted => "deleted",
        };
        let rehearsed = if args.dry_run { " (server dry run)" } else { "" };
        writeln!(out, "{} {done}{rehearsed}", document.title()).context("print")?;
    }
    Ok(())
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
