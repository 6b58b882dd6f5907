//! `orlop get`: tables as the server lays them out, or the objects themselves.

use std::io::Write;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};

use crate::{
    args::Get,
    manifest::title,
    output::{Columns, Format, Table, print_object},
    rest::{Failures, JSON, Rest, TABLE, query, refused_with},
    subject::{self, Subject},
};

mod watch;

use watch::Watched;

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
    if args.watch && (several || subjects.iter().any(|subject| subject.names.len() > 1)) {
        bail!("only one object, or all of one type, can be watched");
    }
    let mut shown = 0;
    for subject in subjects {
        let prefix = if several { title(subject.kind, "") } else { String::new() };
        let mut screen = Screen::new(args, subject, prefix, out);
        let table = whole_table(rest, args, subject, failures).await?;
        if several && shown > 0 && !table.rows.is_empty() {
            writeln!(screen.out).context("print")?;
        }
        shown += table.rows.len();
        screen.show(&table, &table)?;
        if args.watch && failures.none() {
            return watch(rest, args, subject, table, screen).await;
        }
    }
    if shown == 0 && failures.none() {
        let everywhere = args.all_namespaces || subjects.iter().all(|subject| !subject.kind.namespaced());
        match everywhere {
            true => tracing::info!("No resources found"),
            false => tracing::info!("No resources found in {} namespace.", rest.namespace),
        }
    }
    Ok(())
}

/// Where a table is printed.
struct Screen<'a, W> {
    out: &'a mut W,
    columns: Columns,
    wide: bool,
    namespaces: bool,
    prefix: String,
    /// The headings are to be printed before the first rows.
    headings: bool,
}

impl<'a, W: Write> Screen<'a, W> {
    fn new(args: &Get, subject: &Subject, prefix: String, out: &'a mut W) -> Self {
        let (wide, namespaces) = (args.output == Some(Format::Wide), args.all_namespaces && subject.kind.namespaced());
        Self { out, columns: Columns::default(), wide, namespaces, prefix, headings: !args.no_headers }
    }

    /// Prints the rows of one table below the columns of another.
    fn show(&mut self, rows: &Table, columns: &Table) -> Result<()> {
        if rows.rows.is_empty() {
            return Ok(());
        }
        let headings = std::mem::take(&mut self.headings).then(|| columns.headings(self.wide, self.namespaces));
        let rows = rows.lines(columns, self.wide, self.namespaces, &self.prefix);
        let lines: Vec<_> = headings.into_iter().chain(rows).collect();
        self.columns.print(self.out, &lines).context("print")
    }
}

/// All pages of a subject as one table; of named objects those that exist.
async fn whole_table(rest: &Rest, args: &Get, subject: &Subject, failures: &mut Failures) -> Result<Table> {
    let mut whole = Table::default();
    for path in paths(rest, args, subject) {
        match list(rest, &path, &selectors(args)).await {
            Ok(table) => whole.add(table),
            Err(error) if !subject.names.is_empty() && refused_with(&error, 404) => failures.note(error),
            Err(error) => return Err(error),
        }
    }
    Ok(whole)
}

/// All pages of a list as one table; or one object as a table.
async fn list(rest: &Rest, path: &str, selectors: &[(&str, &str)]) -> Result<Table> {
    let mut whole = Table::default();
    loop {
        let mut options = selectors.to_vec();
        options.push(("limit", PAGE));
        if !whole.metadata.r#continue.is_empty() {
            options.push(("continue", &whole.metadata.r#continue));
        }
        let page: Table = rest.call(Method::GET, &format!("{path}{}", query(&options)), TABLE, None).await?;
        whole.add(page);
        if whole.metadata.r#continue.is_empty() {
            return Ok(whole);
        }
    }
}

/// Shows what changes, until that fails.
async fn watch(
    rest: &Rest,
    args: &Get,
    subject: &Subject,
    listed: Table,
    mut screen: Screen<'_, impl Write>,
) -> Result<()> {
    let mut selectors = selectors(args);
    let name = subject.names.first().map(|n| format!("metadata.name={n}"));
    selectors.extend(name.as_deref().map(|name| ("fieldSelector", name)));
    let namespace = (!args.all_namespaces).then_some(rest.namespace.as_str());
    let watched = Watched { path: subject.kind.path(namespace), selectors };
    let show = |rows, columns: &Table| screen.show(&Table { rows, ..Table::default() }, columns);
    match watch::run(rest, &watched, listed, show).await? {}
}

/// One object, as it is stored.
pub async fn object(rest: &Rest, path: &str) -> Result<Value> {
    rest.call(Method::GET, path, JSON, None).await
}
