//! `orlop diff`: what has changed since a moment of the past.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::{
    args::Diff,
    objects::{self, Id, Objects},
    output::yaml,
    rest::{Rest, refused_with},
    subject,
};

/// What `kubectl diff` ends with: nothing differs, something does, it could not be found out.
const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;

/// What is shown of a Secret's values.
const HIDDEN: &str = "***";

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Diff, out: &mut impl Write) -> ExitCode {
    match differences(rest, args, out).await {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(DIFFERENT),
        Err(error) => {
            tracing::error!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn differences(rest: &Rest, args: &Diff, out: &mut impl Write) -> Result<bool> {
    let moment = rest.moment(&args.at).await?;
    let before = fetch(&rest.at(&moment.revision.to_string()), args).await?;
    let (after, until) = match &args.to {
        Some(to) => {
            let to = rest.moment(to).await?;
            (fetch(&rest.at(&to.revision.to_string()), args).await?, format!("revision {}", to.revision))
        }
        None => (fetch(rest, args).await?, "now".to_owned()),
    };
    let since = format!("revision {}", moment.revision);
    let mut different = false;
    let mut ids: Vec<_> = before.keys().chain(after.keys()).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        let text = difference(id, before.get(id), after.get(id), (&since, &until))?;
        different |= !text.is_empty();
        out.write_all(text.as_bytes()).context("print")?;
    }
    Ok(different)
}

/// The objects that were asked for, without what changes by itself.
async fn fetch(rest: &Rest, args: &Diff) -> Result<Objects> {
    let mut all = Objects::new();
    let namespace = (!args.all_namespaces).then_some(rest.namespace.as_str());
    if args.what.is_empty() {
        for kind in objects::wanted_kinds(args.all_namespaces) {
            objects::list(rest, kind, namespace, &mut all).await?;
        }
        return Ok(all);
    }
    for subject in subject::parse(&args.what)? {
        if subject.names.is_empty() {
            objects::list(rest, subject.kind, namespace, &mut all).await?;
        }
        for name in &subject.names {
            match rest.get::<Value>(&subject::path(subject.kind, &rest.namespace, name)).await {
                Ok(object) => all.extend([objects::named(subject.kind, object)]),
                Err(error) if refused_with(&error, 404) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

/// The difference of one object as `diff -u` shows it; empty when there is none.
fn difference(id: &Id, before: Option<&Value>, after: Option<&Value>, (since, until): (&str, &str)) -> Result<String> {
    let (mut before, mut after) = (before.map(essence), after.map(essence));
    if id.kind.is_secret() {
        hide(before.as_mut(), after.as_mut());
    }
    let text = |object: Option<Value>| object.map_or_else(|| Ok(String::new()), |object| yaml(&object));
    let (before, after) = (text(before)?, text(after)?);
    let place = if id.namespace.is_empty() { String::new() } else { format!(" in {}", id.namespace) };
    let title = |when: &str| format!("{id}{place} ({when})");
    Ok(TextDiff::from_lines(&before, &after).unified_diff().header(&title(since), &title(until)).to_string())
}

/// The object without what changes whenever anything does.
fn essence(object: &Value) -> Value {
    let mut essence = object.clone();
    if let Some(meta) = essence.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.retain(|name, _| name != "managedFields" && name != "resourceVersion");
    }
    essence
}

/// Secrets are not shown: only whether a value is another.
fn hide(before: Option<&mut Value>, after: Option<&mut Value>) {
    fn values(object: Option<&mut Value>) -> Option<&mut Map<String, Value>> {
        object?.pointer_mut("/data")?.as_object_mut()
    }
    let (mut before, mut after) = (values(before), values(after));
    let names: Vec<String> = before.iter().chain(after.iter()).flat_map(|map| map.keys().cloned()).collect();
    for name in names {
        let (old, new) =
            (before.as_mut().and_then(|map| map.get_mut(&name)), after.as_mut().and_then(|map| map.get_mut(&name)));
        match (old, new) {
            (Some(old), Some(new)) if old != new => {
                *old = format!("{HIDDEN} (before)").into();
                *new = format!("{HIDDEN} (after)").into();
            }
            (old, new) => old.into_iter().chain(new).for_each(|value| *value = HIDDEN.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(kind: &str, before: Option<Value>, after: Option<Value>) -> String {
        let kind = api::Kind::by_manifest("v1", kind).unwrap();
        let object = |data: Value| json!({"metadata": {"name": "a", "namespace": "shop", "resourceVersion": data.to_string()}, "data": data});
        let (before, after) = (before.map(object), after.map(object));
        let (id, _) = objects::named(kind, before.clone().or(after.clone()).unwrap());
        difference(&id, before.as_ref(), after.as_ref(), ("revision 7", "now")).unwrap()
    }

    #[test]
    fn a_difference_is_shown_in_its_surroundings() {
        let text = shown("ConfigMap", Some(json!({"x": "1", "z": "1"})), Some(json!({"x": "2", "z": "1"})));
        assert!(text.starts_with("--- configmap/a in shop (revision 7)\n+++ configmap/a in shop (now)\n@@"), "{text}");
        assert!(text.contains("-  x: ") && text.contains("+  x: ") && text.contains("\n   z: "), "{text}");
        assert_eq!(shown("ConfigMap", Some(json!({"x": "1"})), Some(json!({"x": "1"}))), "");
        assert!(shown("ConfigMap", None, Some(json!({"x": "1"}))).contains("+  x: "));
    }

    #[test]
    fn secrets_stay_secret() {
        let text = shown("Secret", Some(json!({"x": "MQ==", "y": "Mg=="})), Some(json!({"x": "Mw==", "y": "Mg=="})));
        assert!(text.contains("*** (before)") && text.contains("*** (after)"), "{text}");
        assert!(!text.contains("MQ==") && !text.contains("Mg=="), "{text}");
        assert_eq!(shown("Secret", Some(json!({"x": "MQ=="})), Some(json!({"x": "MQ=="}))), "");
    }
}
