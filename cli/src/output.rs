//! How answers are printed: tables in aligned columns, YAML, JSON or names.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// Between two columns.
const GAP: usize = 3;

/// What `-o` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// More columns
    Wide,
    /// The objects as YAML
    Yaml,
    /// The objects as JSON
    Json,
    /// Type and name alone
    Name,
}

/// Prints a whole object, or a list of them.
pub fn print_object(out: &mut impl Write, object: &Value, format: Format) -> Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(object).context("write JSON")? + "\n",
        Format::Yaml | Format::Wide | Format::Name => yaml(object)?,
    };
    out.write_all(text.as_bytes()).context("print")
}

/// An object as YAML.
pub fn yaml(object: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(object).context("write YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Rows under headings, aligned. Kept between frames of a watch, so that columns do not jump needlessly.
#[derive(Debug, Default)]
pub struct Columns {
    widths: BTreeMap<usize, usize>,
}

impl Columns {
    /// Prints these rows.
    pub fn print(&mut self, out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                let width = self.widths.entry(index).or_default();
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in rows {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if index + 1 < row.len() {
                    let width = self.widths.get(&index).copied().unwrap_or_default();
                    let pad = width - cell.chars().count() + GAP;
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        out.flush()
    }
}

/// A `meta.k8s.io/v1` Table, reduced to what is shown.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The columns.
    #[serde(default)]
    pub column_definitions: Vec<ColumnDefinition>,
    /// The rows.
    #[serde(default)]
    pub rows: Vec<Row>,
    /// Of the list.
    #[serde(default)]
    pub metadata: ListMeta,
}

/// A column of a table.
#[derive(Debug, serde::Deserialize)]
pub struct ColumnDefinition {
    /// Its heading.
    pub name: String,
    /// 0 is always shown, others with `-o wide`.
    #[serde(default)]
    pub priority: i32,
}

/// A row of a table.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Row {
    /// One value per column.
    pub cells: Vec<Value>,
    /// What the row is about.
    #[serde(default)]
    pub object: Partial,
}

/// An object's metadata.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Partial {
    /// The metadata.
    #[serde(default)]
    pub metadata: Meta,
}

/// Of an object's metadata what tables need.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its revision.
    #[serde(default)]
    pub resource_version: String,
}

/// Of a list's metadata what paging and watching need.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// Where the next page starts.
    #[serde(default)]
    pub r#continue: String,
    /// The revision.
    #[serde(default)]
    pub resource_version: String,
}

impl Table {
    /// Adds the next page.
    pub fn add(&mut self, page: Self) {
        if !page.column_definitions.is_empty() {
            self.column_definitions = page.column_definitions;
        }
        self.rows.extend(page.rows);
        self.metadata = page.metadata;
    }

    /// The headings, in capitals.
    pub fn headings(&self, wide: bool, namespaces: bool) -> Vec<String> {
        let own = self.shown(wide).map(|(_, c)| c.name.to_uppercase());
        namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(own).collect()
    }

    /// The rows as text; names get `prefix`.
    pub fn lines(&self, columns: &Self, wide: bool, namespaces: bool, prefix: &str) -> Vec<Vec<String>> {
        let line = |row: &Row| {
            let own = columns.shown(wide).map(|(index, column)| {
                let cell = row.cells.get(index).map_or_else(String::new, cell_text);
                if column.name == "Name" { format!("{prefix}{cell}") } else { cell }
            });
            namespaces.then(|| row.object.metadata.namespace.clone()).into_iter().chain(own).collect()
        };
        self.rows.iter().map(line).collect()
    }

    fn shown(&self, wide: bool) -> impl Iterator<Item = (usize, &ColumnDefinition)> {
        self.column_definitions.iter().enumerate().filter(move |(_, c)| wide || c.priority == 0)
    }
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_stay_when_more_rows_come() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let mut out = Vec::new();
        let mut columns = Columns::default();
        columns.print(&mut out, &[row(&["NAME", "AGE"]), row(&["web-1", "3s"])]).unwrap();
        columns.print(&mut out, &[row(&["b", "4s"])]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    AGE\nweb-1   3s\nb       4s\n");
    }
}
