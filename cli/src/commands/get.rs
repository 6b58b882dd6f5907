//! `orlop get`: tables as the server lays them out, or the objects themselves.

use std::io::Write;

use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{
    args::Get,
    manifest::title,
    output::{Columns, Format, Table, print_object},
    rest::{Failures, JSON, Rest, TABLE, query, refused_with},
    subject::{self, Subject},
};

/// Objects asked for at once.
const PAGE: &str = "500";

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Get, out: &mut impl Write) -> Result<()> {
    let subjects = subject::parse(&args.what)?;
    let then = args.at.as_ref().map(|moment| rest.at(moment));
    let rest = then.as_ref().unwrap_or(rest);
    let mut failures = Failures::default();
    match args.output {
        Some(Format::Yaml | Format::Json | Format::Name) if !args.watch => {
            objects(rest, args, &subjects, &mut failures, out).await?;
        }
        _ => tables(rest, args, &subjects, &mut failures, out).await?,
    }
    failures.end()
}

/// The paths to ask: one per name, or one for the list.
fn paths(rest: &Rest, args: &Get, subject: &Subject) -> Vec<String> {
    let namespace = (!args.all_namespaces).then_some(rest.namespace.as_str());
    if subject.names.is_empty() {
        return vec![subject.kind.path(namespace)];
    }
    subject.names.iter().map(|n| subject::path(subject.kind, &rest.namespace, n)).collect()
}

fn selectors(args: &Get) -> Vec<(&str, &str)> {
    let labels = args.selector.as_deref().map(|s| ("labelSelector", s));
    labels.into_iter().chain(args.field_selector.as_deref().map(|s| ("fieldSelector", s))).collect()
}

async fn objects(
    rest: &Rest,
    args: &Get,
    subjects: &[Subject],
    failures: &mut Failures,
    out: &mut impl Write,
) -> Result<()> {
    let format = args.output.unwrap_or(Format::Yaml);
    let mut items: Vec<Value> = Vec::new();
    let mut single = false;
    for subject in subjects {
        for path in paths(rest, args, subject) {
            let mut answer: Value = match rest.get(&format!("{path}{}", query(&selectors(args)))).await {
                Ok(answer) => answer,
                Err(error) if !subject.names.is_empty() && refused_with(&error, 404) => {
                    failures.note(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if subject.names.is_empty() {
                let typed = |mut item: Value| {
                    item["apiVersion"] = subject.kind.api_version().into();
                    item["kind"] = subject.kind.kind.into();
                    item
                };
                let list = answer.get_mut("items").map(Value::take);
                let Some(Value::Array(list)) = list else { continue };
                items.extend(list.into_iter().map(typed));
            } else {
                single = subjects.len() == 1 && subject.names.len() == 1;
                items.push(answer);
            }
        }
    }
    if format == Format::Name {
        for item in &items {
            let text = |pointer| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let kind = api::Kind::by_manifest(text("/apiVersion"), text("/kind"));
            writeln!(out, "{}", kind.map_or_else(String::new, |k| title(k, text("/metadata/name"))))
                .context("print")?;
        }
        return Ok(());
    }
    match items.pop() {
        None if single || subjects.iter().any(|s| !s.names.is_empty()) => Ok(()),
        Some(one) if single => print_object(out, &one, format),
        last => {
            items.extend(last);
            print_object(out, &json!({"apiVersion": "v1", "kind": "List", "items": items}), format)
        }
    }
}

async fn tables(
    rest: &Rest,
    args: &Get,
    subjects: &[Subject],
    failures: &mut Failures,
    out: &mut impl Write,
) -> Result<()> {
    let several = subjects.len() > 1;
    let mut shown = 0;
    let mut revision = String::new();
    let mut columns = Columns::default();
    for subject in subjects {
        let prefix = if several { title(subject.kind, "") } else { String::new() };
        let table = whole_table(rest, args, subject, failures).await?;
        revision.clone_from(&table.metadata.resource_version);
        if table.rows.is_empty() {
            continue;
        }
        if several && shown > 0 {
            writeln!(out).context("print")?;
        }
        shown += table.rows.len();
        let (wide, namespaces) = (args.output == Some(Format::Wide), args.all_namespaces && subject.kind.namespaced());
        columns = Columns::default();
        let mut rows: Vec<_> = (!args.no_headers).then(|| table.headings(wide, namespaces)).into_iter().collect();
        rows.extend(table.lines(&table, wide, namespaces, &prefix));
        columns.print(out, &rows).context("print")?;
    }
    if shown == 0 && !args.watch && failures.none() {
        let everywhere = args.all_namespaces || subjects.iter().all(|subject| !subject.kind.namespaced());
        match everywhere {
            true => tracing::info!("No resources found"),
            false => tracing::info!("No resources found in {} namespace.", rest.namespace),
        }
    }
    match subjects {
        [subject] if args.watch => watch(rest, args, subject, &revision, &mut columns, out).await,
        _ if args.watch => anyhow::bail!("you may only watch a single type of object"),
        _ => Ok(()),
    }
}

/// All pages of a subject as one table; of named objects those that exist.
async fn whole_table(rest: &Rest, args: &Get, subject: &Subject, failures: &mut Failures) -> Result<Table> {
    let mut whole = Table::default();
    for path in paths(rest, args, subject) {
        let mut next = String::new();
        loop {
            let mut options = selectors(args);
            if subject.names.is_empty() {
                options.push(("limit", PAGE));
            }
            if !next.is_empty() {
                options.push(("continue", &next));
            }
            let url = format!("{path}{}", query(&options));
            let page: Table = match rest.call(Method::GET, &url, TABLE, None).await {
                Ok(page) => page,
                Err(error) if !subject.names.is_empty() && refused_with(&error, 404) => {
                    failures.note(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            if !page.column_definitions.is_empty() {
                whole.column_definitions = page.column_definitions;
            }
            whole.rows.extend(page.rows);
            whole.metadata.resource_version = page.metadata.resource_version;
            next = page.metadata.r#continue;
            if next.is_empty() {
                break;
            }
        }
    }
    Ok(whole)
}

async fn watch(
    rest: &Rest,
    args: &Get,
    subject: &Subject,
    revision: &str,
    columns: &mut Columns,
    out: &mut impl Write,
) -> Result<()> {
    let mut options = selectors(args);
    let name = subject.names.first().map(|n| format!("metadata.name={n}"));
    if let Some(name) = &name {
        options.push(("fieldSelector", name));
    }
    options.extend([("watch", "true"), ("resourceVersion", revision)]);
    let namespace = (!args.all_namespaces).then_some(rest.namespace.as_str());
    let path = format!("{}{}", subject.kind.path(namespace), query(&options));
    let response = rest.send(Method::GET, &path, TABLE, None).await?;
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let mut lines = Box::pin(body).into_async_read().lines();
    let mut known = Table::default();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line.context("follow changes")?).context("understand a change")?;
        let table: Table = serde_json::from_value(event.get("object").cloned().unwrap_or_default())
            .context("understand a changed row")?;
        if !table.column_definitions.is_empty() {
            known.column_definitions = table.column_definitions;
            let rows = Table { column_definitions: Vec::new(), rows: table.rows, metadata: table.metadata };
            print_rows(&rows, &known, args, subject, columns, out)?;
        } else {
            print_rows(&table, &known, args, subject, columns, out)?;
        }
    }
    Ok(())
}

fn print_rows(
    rows: &Table,
    known: &Table,
    args: &Get,
    subject: &Subject,
    columns: &mut Columns,
    out: &mut impl Write,
) -> Result<()> {
    let (wide, namespaces) = (args.output == Some(Format::Wide), args.all_namespaces && subject.kind.namespaced());
    columns.print(out, &rows.lines(known, wide, namespaces, "")).context("print")
}

/// One object, as it is stored.
pub async fn object(rest: &Rest, path: &str) -> Result<Value> {
    rest.call(Method::GET, path, JSON, None).await
}
