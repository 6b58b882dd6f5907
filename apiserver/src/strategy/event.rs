//! Event: what happened to an object, in words; it dies after an hour.

use api::field::{Error, Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::{Cell, Column, FieldOf, Strategy, column};

/// The strategy of Events.
pub struct Events;

/// How long an event is kept; seconds.
const KEPT_SECONDS: i64 = 3600;
/// Upstream's limits for events with an `eventTime`, in bytes.
const MAX_REASON: usize = 128;
/// The longest message of an event with an `eventTime`, in bytes.
const MAX_NOTE: usize = 1024;

static COLUMNS: &[Column] = &[
    column::text("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
    column::text("Type", "Type of this event (Normal, Warning), new types could be added in the future"),
    column::text("Reason", "A short, machine understandable string that gives the reason for the event."),
    column::text("Object", "The object that this event is about."),
    column::wide("Subobject", "The part of the object that this event is about."),
    column::wide("Source", "The component that reported this event."),
    column::text("Message", "A human-readable description of what happened."),
    column::wide("First Seen", "The time at which the event was first recorded."),
    column::wide("Count", "The number of times this event has occurred."),
    column::wide("Name", "The name of the event."),
];

fn seconds(time: Option<&MicroTime>) -> Option<Time> {
    time.map(|t| Time(t.0))
}

fn source(object: &Event) -> String {
    let legacy = object.source.clone().unwrap_or_default();
    let source = if legacy.component.as_deref().is_none_or(str::is_empty) {
        EventSource { component: object.reporting_component.clone(), host: object.reporting_instance.clone() }
    } else {
        legacy
    };
    let parts = [source.component, source.host];
    parts.into_iter().flatten().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}

fn component(object: &Event) -> String {
    let legacy = object.source.as_ref().and_then(|s| s.component.clone()).filter(|c| !c.is_empty());
    legacy.or_else(|| object.reporting_component.clone()).unwrap_or_default()
}

impl Strategy for Events {
    type Object = Event;

    fn validate(&self, object: &Event) -> Errors {
        let mut errors = Errors::new();
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let about = object.involved_object.namespace.as_deref().unwrap_or_default();
        // events about cluster-scoped objects lie in "default"
        if about != namespace && !(about.is_empty() && matches!(namespace, "default" | "kube-system")) {
            let why = "does not match event.namespace";
            errors.push(Error::invalid(&Path::new("involvedObject").child("namespace"), about, why));
        }
        if object.event_time.is_none() {
            return errors;
        }
        let reason = object.reason.as_deref().unwrap_or_default();
        if reason.is_empty() {
            errors.push(Error::required(&Path::new("reason"), ""));
        } else if reason.len() > MAX_REASON {
            let why = format!("can have at most {MAX_REASON} characters");
            errors.push(Error::invalid(&Path::new("reason"), reason, why));
        }
        if object.reporting_component.as_deref().is_none_or(str::is_empty) {
            errors.push(Error::required(&Path::new("reportingController"), ""));
        }
        if object.message.as_deref().is_some_and(|m| m.len() > MAX_NOTE) {
            let why = format!("can have at most {MAX_NOTE} characters");
            errors.push(Error::invalid(&Path::new("message"), "", why));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Event, now: Timestamp) -> Vec<Cell> {
        let event_time = seconds(object.event_time.as_ref());
        let first = object.first_timestamp.as_ref().or(event_time.as_ref());
        let series = object.series.as_ref();
        let series_time = seconds(series.and_then(|s| s.last_observed_time.as_ref()));
        let last = if series.is_some() { series_time.as_ref() } else { object.last_timestamp.as_ref().or(first) };
        let count = series.map_or(object.count.filter(|c| *c > 0), |s| s.count).unwrap_or(1);
        let about = &object.involved_object;
        let kind = about.kind.as_deref().unwrap_or_default().to_lowercase();
        let target = match about.name.as_deref() {
            None | Some("") => kind,
            Some(name) => format!("{kind}/{name}"),
        };
        let text = |value: &Option<String>| column::cell(value.clone().unwrap_or_default());
        vec![
            column::cell(column::since(last, now)),
            text(&object.type_),
            text(&object.reason),
            column::cell(target),
            text(&about.field_path),
            column::cell(source(object)),
            column::cell(object.message.as_deref().unwrap_or_default().trim()),
            column::cell(column::since(first, now)),
            Cell::Number(i64::from(count)),
            column::name(&object.metadata),
        ]
    }

    fn fields(&self) -> &'static [FieldOf<Event>] {
        &[
            ("involvedObject.kind", |e| e.involved_object.kind.clone().unwrap_or_default()),
            ("involvedObject.namespace", |e| e.involved_object.namespace.clone().unwrap_or_default()),
            ("involvedObject.name", |e| e.involved_object.name.clone().unwrap_or_default()),
            ("involvedObject.uid", |e| e.involved_object.uid.clone().unwrap_or_default()),
            ("involvedObject.apiVersion", |e| e.involved_object.api_version.clone().unwrap_or_default()),
            ("involvedObject.resourceVersion", |e| e.involved_object.resource_version.clone().unwrap_or_default()),
            ("involvedObject.fieldPath", |e| e.involved_object.field_path.clone().unwrap_or_default()),
            ("reason", |e| e.reason.clone().unwrap_or_default()),
            ("reportingComponent", |e| e.reporting_component.clone().unwrap_or_default()),
            ("source", component),
            ("type", |e| e.type_.clone().unwrap_or_default()),
        ]
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn time_to_live(&self) -> Option<i64> {
        Some(KEPT_SECONDS)
    }
}
