//! `orlop get -w`: the rows that change, as long as the user looks; past the end of a watch, which servers give it after a
//! while, and past the death of the server that it comes from.
//!
//! Every change is shown once, in order: the next server is asked for what came after the newest revision that was seen. Where
//! none remembers so far back (410), all is listed anew, and what differs from what was shown is shown: of an object that
//! changed several times the newest row alone, and of one that is gone its last row, as when its deletion is told.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use anyhow::{Context, Result, anyhow};
use futures::{AsyncBufRead, AsyncBufReadExt, TryStreamExt};
use http::Method;
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    follow::Patience,
    output::{Row, Table},
    rest::{Failure, Lost, Rest, TABLE, query, refused_with},
};

/// How long a server may say nothing before it is taken for stuck: one that is not sends a bookmark about every minute, and one
/// that knows none is asked again in vain.
const SILENCE: Duration = Duration::from_secs(150);

/// What is watched.
#[derive(Debug)]
pub struct Watched<'a> {
    /// The path of the list.
    pub path: String,
    /// Which of it.
    pub selectors: Vec<(&'a str, &'a str)>,
}

/// Shows what changes after `listed` was shown, until that fails. `show` is given rows, and the columns of the table.
///
/// # Errors
/// When a server refuses, none serves for too long, or the rows cannot be shown.
pub async fn run(
    rest: &Rest,
    watched: &Watched<'_>,
    listed: Table,
    mut show: impl FnMut(Vec<Row>, &Table) -> Result<()>,
) -> Result<Infallible> {
    let mut seen = Seen::default();
    seen.listed(listed);
    let mut patience = Patience::default();
    patience.served();
    let followed = patience.follow(async |patience| match serve(rest, watched, &mut seen, patience, &mut show).await {
        Err(error) if refused_with(&error, 410) => {
            seen.revision.clear();
            Ok(None)
        }
        ended => ended.map(|()| None),
    });
    followed.await
}

/// One watch to its end, after a list where one is needed.
async fn serve(
    rest: &Rest,
    watched: &Watched<'_>,
    seen: &mut Seen,
    patience: &mut Patience,
    show: &mut impl FnMut(Vec<Row>, &Table) -> Result<()>,
) -> Result<()> {
    if seen.revision.is_empty() {
        let table = patience.answer(super::list(rest, &watched.path, &watched.selectors)).await?;
        let rows = seen.listed(table);
        show(rows, &seen.columns)?;
    }
    let mut options = watched.selectors.clone();
    options.extend([("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", &seen.revision)]);
    let url = format!("{}{}", watched.path, query(&options));
    let response = patience.answer(rest.send(Method::GET, &url, TABLE, None)).await?;
    patience.served();
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let mut stream = Box::pin(body).into_async_read();
    while let Some(line) = tokio::time::timeout(SILENCE, line(&mut stream)).await.context(Lost::BrokenOff)?? {
        let rows = seen.told(serde_json::from_slice(&line).context("understand a change")?)?;
        show(rows, &seen.columns)?;
    }
    Ok(())
}

/// The next line; none at the end. A line without an end is none.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.context(Lost::BrokenOff)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(anyhow!("it ends in the middle of a change")).context(Lost::BrokenOff),
    }
}

/// An event of a watch.
#[derive(Debug, Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

/// What was shown, and how far.
#[derive(Debug, Default)]
struct Seen {
    /// The newest; empty when all must be listed.
    revision: String,
    /// The last row of each object, by namespace and name.
    rows: BTreeMap<(String, String), Row>,
    /// The columns.
    columns: Table,
}

impl Seen {
    /// The rows that differ from what was shown before.
    fn listed(&mut self, table: Table) -> Vec<Row> {
        let mut before = std::mem::take(&mut self.rows);
        let mut differ = Vec::new();
        for row in self.take(table) {
            let key = key(&row);
            let shown = before.remove(&key);
            if shown.is_none_or(|shown| revision(&shown) != revision(&row)) {
                differ.push(row.clone());
            }
            self.rows.insert(key, row);
        }
        differ.extend(before.into_values());
        differ
    }

    /// The rows that an event has to show.
    fn told(&mut self, event: Event) -> Result<Vec<Row>> {
        if event.r#type == "ERROR" {
            let status: Status = serde_json::from_value(event.object).context("understand why a watch failed")?;
            return Err(Failure(status).into());
        }
        let table: Table = serde_json::from_value(event.object).context("understand a changed row")?;
        let mut rows = self.take(table);
        match event.r#type.as_str() {
            "BOOKMARK" => rows.clear(),
            "DELETED" => rows.iter().for_each(|row| drop(self.rows.remove(&key(row)))),
            // from no revision on, servers tell first of what there is
            _ => rows.retain(|row| {
                let shown = self.rows.insert(key(row), row.clone());
                shown.is_none_or(|shown| revision(row).is_empty() || revision(&shown) != revision(row))
            }),
        }
        Ok(rows)
    }

    /// Notes how far a table goes, and its columns, which not every table names.
    fn take(&mut self, table: Table) -> Vec<Row> {
        let Table { column_definitions, rows, metadata } = table;
        if !column_definitions.is_empty() {
            self.columns.column_definitions = column_definitions;
        }
        let of_row = || rows.last().map(revision).unwrap_or_default().to_owned();
        self.revision = if metadata.resource_version.is_empty() { of_row() } else { metadata.resource_version };
        rows
    }
}

fn key(row: &Row) -> (String, String) {
    let of = &row.object.metadata;
    (of.namespace.clone(), of.name.clone())
}

fn revision(row: &Row) -> &str {
    &row.object.metadata.resource_version
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(revision: &str, rows: &[(&str, u32)]) -> Value {
        let row = |(name, at): &(&str, u32)| json!({"cells": [name], "object": {"metadata": {"name": name, "resourceVersion": at.to_string()}}});
        json!({
            "columnDefinitions": [{"name": "Name"}], "metadata": {"resourceVersion": revision},
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    fn shown(rows: &[Row]) -> String {
        rows.iter().map(|row| format!("{}@{}", key(row).1, revision(row))).collect::<Vec<_>>().join(" ")
    }

    fn listed(seen: &mut Seen, revision: &str, rows: &[(&str, u32)]) -> String {
        shown(&seen.listed(serde_json::from_value(table(revision, rows)).unwrap()))
    }

    fn told(seen: &mut Seen, word: &str, revision: &str, row: (&str, u32)) -> String {
        shown(&seen.told(Event { r#type: word.into(), object: table(revision, &[row]) }).unwrap())
    }

    #[test]
    fn every_change_is_shown_once_and_says_how_far_it_is() {
        let mut seen = Seen::default();
        assert_eq!(listed(&mut seen, "7", &[("a", 3), ("b", 5)]), "a@3 b@5");
        assert_eq!(told(&mut seen, "MODIFIED", "8", ("a", 8)), "a@8");
        assert_eq!(told(&mut seen, "BOOKMARK", "12", ("", 12)), "");
        assert_eq!(seen.revision, "12");
        assert_eq!(told(&mut seen, "ADDED", "8", ("a", 8)), "", "it was shown");
        assert_eq!(told(&mut seen, "DELETED", "13", ("a", 13)), "a@13");
        assert_eq!(told(&mut seen, "ADDED", "", ("a", 14)), "a@14");
        assert_eq!(seen.revision, "14", "the row says it where the table does not");
    }

    #[test]
    fn a_list_after_a_gap_shows_what_differs() {
        let mut seen = Seen::default();
        listed(&mut seen, "7", &[("a", 3), ("b", 5), ("c", 6)]);
        assert_eq!(listed(&mut seen, "90", &[("a", 3), ("c", 80), ("d", 85)]), "c@80 d@85 b@5");
        assert_eq!(seen.revision, "90");
        assert_eq!(listed(&mut seen, "91", &[("a", 3), ("c", 80), ("d", 85)]), "");
    }

    #[test]
    fn an_error_is_the_servers_refusal() {
        let status = serde_json::to_value(api::status::expired("too old")).unwrap();
        let gone = Seen::default().told(Event { r#type: "ERROR".into(), object: status }).unwrap_err();
        assert!(refused_with(&gone, 410), "{gone:#}");
    }

    #[tokio::test]
    async fn half_a_change_is_a_break() {
        let mut stream = futures::io::Cursor::new(b"{}\n{\"type\"".to_vec());
        assert_eq!(line(&mut stream).await.unwrap().unwrap(), b"{}\n");
        let error = line(&mut stream).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Lost>(), Some(&Lost::BrokenOff));
        assert!(line(&mut stream).await.unwrap().is_none());
    }
}
