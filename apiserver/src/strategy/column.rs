//! How columns are declared and cells are written, as upstream's table printers do.

use std::collections::BTreeMap;

use api::duration;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{Cell, Column, age};

/// The name of the object.
pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

/// Time since the object was created.
pub(super) const AGE: Column = text("Age", "Time since creation.");

/// Names of containers, for kinds with a pod template.
pub(super) const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");

/// Images of containers, for kinds with a pod template.
pub(super) const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");

/// A column of text that is always shown.
pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

/// A column of numbers that is always shown.
pub(super) const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

/// A column of text that only `-o wide` shows.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

/// The cell of [`NAME`].
pub(super) fn name(meta: &ObjectMeta) -> Cell {
    Cell::Text(meta.name.clone().unwrap_or_default())
}

/// The cell of [`AGE`].
pub(super) fn aged(meta: &ObjectMeta, now: Timestamp) -> Cell {
    Cell::Text(age(meta, now))
}

/// A cell of text.
pub(super) fn cell(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

/// The text, or `<none>` where there is none.
pub(super) fn or_none(text: Option<&str>) -> Cell {
    Cell::Text(text.filter(|t| !t.is_empty()).unwrap_or("<none>").to_owned())
}

/// Time since then, `<unknown>` when never.
pub(super) fn since(then: Option<&Time>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".to_owned(), |t| duration::short(now.duration_since(t.0).as_secs()))
}

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(super) fn containers(template: Option<&PodTemplateSpec>) -> [Cell; 2] {
    let containers = template.and_then(|t| t.spec.as_ref()).map(|s| s.containers.as_slice()).unwrap_or_default();
    let names: Vec<_> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<_> = containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    [cell(names.join(",")), cell(images.join(","))]
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>) -> Cell {
    let pairs: Vec<_> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    or_none(Some(&pairs.join(",")))
}

/// The first `limit` of a list, and how many more there are.
pub(super) fn first(list: &[String], limit: usize) -> Cell {
    let shown = list[..list.len().min(limit)].join(",");
    if list.len() > limit {
        cell(format!("{shown} + {} more...", list.len() - limit))
    } else if shown.is_empty() {
        cell("<unset>")
    } else {
        cell(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_say_how_many_are_left_out() {
        let list: Vec<_> = (1..=5).map(|i| i.to_string()).collect();
        assert_eq!(first(&list, 3), cell("1,2,3 + 2 more..."));
        assert_eq!(first(&list[..3], 3), cell("1,2,3"));
        assert_eq!(first(&[], 3), cell("<unset>"));
    }
}
