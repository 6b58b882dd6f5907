//! `orlop delete`: deletes objects and waits until they are gone.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result};
use api::Kind;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    args::{Cascade, Delete},
    follow::Patience,
    manifest::{self, title},
    rest::{Failures, JSON, Rest, refused_with},
    subject,
};

/// How long to wait for one object to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(300);

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Delete, out: &mut impl Write) -> Result<()> {
    let mut doomed: Vec<(&'static Kind, String, String)> = Vec::new();
    if !args.from.files.is_empty() {
        for document in manifest::read_all(&args.from.files, args.from.recursive)?.into_iter().rev() {
            let namespace = document.namespace.unwrap_or_else(|| rest.namespace.clone());
            doomed.push((document.kind, namespace, document.name));
        }
    } else {
        let named = subject::resolve(rest, &args.what, args.selector.as_deref(), args.all).await?;
        doomed.extend(named.into_iter().map(|(kind, name)| (kind, rest.namespace.clone(), name)));
    }
    let (mut waiting, mut failures) = (Vec::new(), Failures::default());
    for (kind, namespace, name) in doomed {
        let path = subject::path(kind, &namespace, &name);
        match delete(rest, &path, args).await {
            Ok(uid) => {
                writeln!(out, "{} deleted", quoted(kind, &name)).context("print")?;
                waiting.push((kind, name, path, uid));
            }
            Err(error) if args.ignore_not_found && refused_with(&error, 404) => {}
            Err(error) => failures.note(error),
        }
    }
    if !args.no_wait {
        for (kind, name, path, uid) in waiting {
            wait_gone(rest, &path, &uid)
                .await
                .with_context(|| format!("wait for {} to be gone", title(kind, &name)))?;
        }
    }
    failures.end()
}

/// `pod "web-1"`.
fn quoted(kind: &Kind, name: &str) -> String {
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    format!("{}{group} {name:?}", kind.singular)
}

/// Deletes one object; returns its uid.
async fn delete(rest: &Rest, path: &str, args: &Delete) -> Result<String> {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Foreground => "Foreground",
        Cascade::Orphan => "Orphan",
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let payload = Some((JSON, serde_json::to_vec(&options).context("write JSON")?));
    let answer: Value = rest.call(Method::DELETE, path, JSON, payload).await?;
    let uid = ["/metadata/uid", "/details/uid"].iter().find_map(|p| answer.pointer(p).and_then(Value::as_str));
    Ok(uid.unwrap_or_default().to_owned())
}

/// Waits until the object is not there, or is another one of the same name.
pub async fn wait_gone(rest: &Rest, path: &str, uid: &str) -> Result<()> {
    let mut patience = Patience::until(Instant::now() + GONE_DEADLINE);
    // one has done what is waited for
    patience.served();
    let gone = patience.look(async || match rest.get::<Value>(path).await {
        Err(error) if refused_with(&error, 404) => Ok(Some(())),
        Err(error) => Err(error),
        Ok(object) => Ok((object.pointer("/metadata/uid").and_then(Value::as_str) != Some(uid)).then_some(())),
    });
    gone.await?.with_context(|| format!("it is still there after {GONE_DEADLINE:?}"))
}
