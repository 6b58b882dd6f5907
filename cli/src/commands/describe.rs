//! `orlop describe`: all of an object in a form to read, and the events about it.

use std::io::Write;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::{Map, Value};

use crate::{args::Describe, output::Columns, rest::Rest, subject};

/// Fields that say nothing to a reader.
const HIDDEN: [&str; 5] = ["managedFields", "selfLink", "apiVersion", "kind", "uid"];

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Describe, out: &mut impl Write) -> Result<()> {
    let subjects = subject::resolve(rest, &args.what, args.selector.as_deref(), true).await?;
    for (index, (kind, name)) in subjects.iter().enumerate() {
        if index > 0 {
            writeln!(out, "\n").context("print")?;
        }
        let mut object: Value = rest.get(&subject::path(kind, &rest.namespace, name)).await?;
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind.kind == "Secret" {
            conceal(&mut object);
        }
        out.write_all(render(&object).as_bytes()).context("print")?;
        let events: Api<Event> = Api::all(rest.client());
        let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let events = events.list(&params).await.context("list the events")?.items;
        print_events(&events, Timestamp::now(), out)?;
    }
    Ok(())
}

/// Replaces a Secret's values by their sizes.
fn conceal(secret: &mut Value) {
    let values = secret.get_mut("data").and_then(Value::as_object_mut);
    for value in values.into_iter().flat_map(Map::values_mut) {
        let base64 = value.as_str().unwrap_or_default();
        let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
        *value = format!("{} bytes", base64.len() / 4 * 3 - padding).into();
    }
}

/// The object as indented text: metadata first and flattened, then the rest in the API's own order.
fn render(object: &Value) -> String {
    let mut text = String::new();
    let top = object.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(meta)) = top.get("metadata") {
        let order = ["name", "namespace", "labels", "annotations", "creationTimestamp"];
        let rest = meta.keys().map(String::as_str).filter(|k| !order.contains(k));
        for key in order.into_iter().chain(rest) {
            if let Some(value) = meta.get(key) {
                field(&mut text, 0, key, value);
            }
        }
    }
    for (key, value) in top.iter().filter(|(k, _)| *k != "metadata") {
        field(&mut text, 0, key, value);
    }
    text
}

fn field(text: &mut String, depth: usize, key: &str, value: &Value) {
    if HIDDEN.contains(&key) {
        return;
    }
    let indent = "  ".repeat(depth);
    let heading = heading(key);
    match value {
        Value::Object(map) if map.is_empty() => {}
        Value::Object(map) => {
            text.push_str(&format!("{indent}{heading}:\n"));
            let own_words =
                matches!(key, "labels" | "annotations" | "matchLabels" | "selector" | "data" | "nodeSelector");
            for (key, value) in map {
                match value {
                    Value::String(s) if own_words => text.push_str(&format!("{indent}  {key}={s}\n")),
                    _ => field(text, depth + 1, key, value),
                }
            }
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) if key == "conditions" => conditions(text, &indent, items),
        Value::Array(items) => {
            text.push_str(&format!("{indent}{heading}:\n"));
            items.iter().for_each(|item| list_item(text, depth + 1, item));
        }
        Value::String(line) => text.push_str(&format!("{indent}{heading}: {line}\n")),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
            text.push_str(&format!("{indent}{heading}: {other}\n"))
        }
    }
}

fn list_item(text: &mut String, depth: usize, item: &Value) {
    let indent = "  ".repeat(depth);
    match item {
        Value::Object(map) => {
            let name = map.get("name").and_then(Value::as_str).unwrap_or("-");
            text.push_str(&format!("{indent}{name}:\n"));
            map.iter().filter(|(k, _)| *k != "name").for_each(|(k, v)| field(text, depth + 1, k, v));
        }
        Value::String(line) => text.push_str(&format!("{indent}{line}\n")),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            text.push_str(&format!("{indent}{other}\n"));
        }
    }
}

fn conditions(text: &mut String, indent: &str, items: &[Value]) {
    let cell = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut rows = vec![["Type", "Status", "Reason", "Message"].map(str::to_owned).to_vec()];
    rows.extend(items.iter().map(|i| ["type", "status", "reason", "message"].map(|k| cell(i, k)).to_vec()));
    let mut table = Vec::new();
    // a Vec takes all that is written to it
    if Columns::default().print(&mut table, &rows).is_ok() {
        text.push_str(&format!("{indent}Conditions:\n"));
        for line in String::from_utf8_lossy(&table).lines() {
            text.push_str(&format!("{indent}  {line}\n"));
        }
    }
}

/// `creationTimestamp` as `Creation Timestamp`.
fn heading(key: &str) -> String {
    let mut text = String::new();
    let mut previous_lower = false;
    for (index, letter) in key.chars().enumerate() {
        if index == 0 {
            text.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && previous_lower {
                text.push(' ');
            }
            text.push(letter);
        }
        previous_lower = letter.is_lowercase() || letter.is_ascii_digit();
    }
    text
}

fn print_events(events: &[Event], now: Timestamp, out: &mut impl Write) -> Result<()> {
    if events.is_empty() {
        return writeln!(out, "Events: <none>").context("print");
    }
    let mut events: Vec<_> = events.iter().collect();
    let when = |e: &Event| {
        let last = e.last_timestamp.as_ref().map(|t| t.0).or_else(|| e.event_time.as_ref().map(|t| t.0));
        last.or_else(|| e.metadata.creation_timestamp.as_ref().map(|t| t.0))
    };
    events.sort_by_key(|e| when(e));
    let mut rows = vec![["  Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec()];
    for event in events {
        let age =
            when(event).map_or_else(|| "<unknown>".into(), |t| api::duration::short(now.duration_since(t).as_secs()));
        let count = event.count.filter(|c| *c > 1).map_or_else(String::new, |c| format!(" (x{c})"));
        let source = event.source.as_ref().and_then(|s| s.component.clone()).or(event.reporting_component.clone());
        rows.push(vec![
            format!("  {}", event.type_.as_deref().unwrap_or_default()),
            event.reason.clone().unwrap_or_default(),
            format!("{age}{count}"),
            source.unwrap_or_default(),
            event.message.clone().unwrap_or_default(),
        ]);
    }
    writeln!(out, "Events:").context("print")?;
    Columns::default().print(out, &rows).context("print")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_from_its_name_down() {
        let pod = serde_json::json!({
            "kind": "Pod", "status": {"podIP": "10.42.0.5", "conditions": [{"type": "Ready", "status": "True"}]},
            "metadata": {"uid": "u", "labels": {"app": "web"}, "name": "a"},
            "spec": {"containers": [{"name": "web", "image": "web:1"}], "nodeName": "node-1"},
        });
        let text = render(&pod);
        assert!(text.starts_with("Name: a\nLabels:\n  app=web\n"), "{text}");
        assert!(text.contains("Spec:\n  Containers:\n    web:\n      Image: web:1\n  Node Name: node-1\n"), "{text}");
        assert!(text.contains("  Conditions:\n    Type    Status   Reason   Message\n    Ready   True\n"), "{text}");
    }

    #[test]
    fn secrets_are_told_by_their_size_alone() {
        let mut secret = serde_json::json!({"kind": "Secret", "data": {"password": "aHVudGVyMg=="}});
        conceal(&mut secret);
        assert_eq!(secret.pointer("/data/password").unwrap(), "7 bytes");
    }
}
