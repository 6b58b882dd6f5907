//! Events: what a component tells users about an object.
//!
//! # Guarantees
//! * [`Recorder::event`] never waits. What does not fit the queue ([`QUEUE`] events) is dropped, and the drop is logged.
//! * A repeated event becomes a count on the first one. More than [`SIMILAR`] messages of one reason about one object within
//!   [`WINDOW`] become one combined event, and an object gets at most [`BURST`] writes at once, then one every
//!   [`REFILL`] seconds (as upstream's `events_cache.go`).
//!
//! # Caveats
//! * Events are told, not kept: one that the API does not take after [`TRIES`] tries is dropped.

use std::{sync::Arc, time::Duration};

use ahash::AHashMap;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

/// Events that wait to be written, over all lanes.
pub const QUEUE: usize = 1024;

/// Events written at once; those about one object are written in order.
pub const LANES: usize = 8;

/// Different messages of one reason about one object that are told one by one.
pub const SIMILAR: usize = 10;

/// How long similar events count together, seconds.
pub const WINDOW: i64 = 600;

/// Writes about one object that may come at once.
pub const BURST: f64 = 25.0;

/// Seconds until one more write about the object is allowed.
pub const REFILL: f64 = 300.0;

/// How often a write is tried.
pub const TRIES: u32 = 3;

/// Objects remembered in each lane, for counting.
pub const REMEMBERED: usize = 1024;

/// Whether an event is the ordinary course of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// It is.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

#[derive(Clone, Debug)]
struct Note {
    about: ObjectReference,
    kind: Type,
    reason: String,
    message: String,
}

/// Tells events. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    lanes: Arc<[mpsc::Sender<Note>]>,
    hasher: ahash::RandomState,
}

impl Recorder {
    /// A recorder for this component on this host (empty for none). Must be called inside a runtime.
    pub fn new(client: &Client, component: &str, host: &str) -> Self {
        let source =
            EventSource { component: Some(component.to_owned()), host: (!host.is_empty()).then(|| host.to_owned()) };
        let lane = |_| {
            let (sender, notes) = mpsc::channel(QUEUE / LANES);
            tokio::spawn(write(client.clone(), Correlator::new(source.clone()), notes));
            sender
        };
        Self { lanes: (0..LANES).map(lane).collect(), hasher: ahash::RandomState::new() }
    }

    /// Tells that something happened to an object. `reason` is a CamelCase word, `message` a sentence for people.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        kind: Type,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.about(about.object_ref(&()), kind, reason, message);
    }

    /// As [`Recorder::event`], about an object that is only known by reference (or a part of one, by `fieldPath`).
    pub fn about(&self, about: ObjectReference, kind: Type, reason: &str, message: impl Into<String>) {
        let lane = self.hasher.hash_one((&about.namespace, &about.name, &about.uid)) as usize % self.lanes.len();
        let note = Note { about, kind, reason: reason.to_owned(), message: message.into() };
        if let Err(error) = self.lanes[lane].try_send(note) {
            tracing::debug!(%error, "event dropped: too many wait to be written");
        }
    }
}

async fn write(client: Client, mut correlator: Correlator, mut notes: mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let Some(event) = correlator.note(&note, Timestamp::now()) else { continue };
        for attempt in 1..=TRIES {
            match send(&api, &event).await {
                Ok(()) => break,
                // The API understood and said no (a namespace that is being deleted, say): asking again changes nothing.
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                    tracing::debug!(%status, "event refused");
                    break;
                }
                Err(error) if attempt == TRIES => tracing::debug!(%error, "event dropped: it cannot be written"),
                Err(_) => tokio::time::sleep(Duration::from_millis(200) * attempt).await,
            }
        }
    }
}

async fn send(api: &Api<Event>, event: &Event) -> kube::Result<()> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    if event.count > Some(1) {
        let patch = serde_json::json!({
            "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message,
        });
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    api.create(&PostParams::default(), event).await.map(drop)
}

/// What makes two events similar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    namespace: String,
    name: String,
    uid: String,
    field: String,
    kind: Type,
    reason: String,
}

#[derive(Debug, Default)]
struct Told {
    messages: AHashMap<String, Event>,
    since: i64,
    combined: bool,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: i64,
}

/// Decides what a note becomes: a new event, a count on an old one, or nothing. No I/O, and the time is handed in.
struct Correlator {
    source: EventSource,
    told: AHashMap<Topic, Told>,
    buckets: AHashMap<String, Bucket>,
}

impl Correlator {
    fn new(source: EventSource) -> Self {
        Self { source, told: AHashMap::new(), buckets: AHashMap::new() }
    }

    fn note(&mut self, note: &Note, now: Timestamp) -> Option<Event> {
        self.forget(now.as_second());
        let about = &note.about;
        let part = |field: &Option<String>| field.clone().unwrap_or_default();
        let topic = Topic {
            namespace: part(&about.namespace),
            name: part(&about.name),
            uid: part(&about.uid),
            field: part(&about.field_path),
            kind: note.kind,
            reason: note.reason.clone(),
        };
        if !self.allowed(&format!("{}/{}/{}", topic.namespace, topic.name, topic.uid), now.as_second()) {
            return None;
        }
        let told = self.told.entry(topic).or_default();
        if now.as_second() - told.since > WINDOW {
            *told = Told { since: now.as_second(), ..Told::default() };
        }
        told.combined |= told.messages.len() >= SIMILAR && !told.messages.contains_key(&note.message);
        let (key, message) = if told.combined {
            (String::new(), format!("(combined from similar events): {}", note.message))
        } else {
            (note.message.clone(), note.message.clone())
        };
        if let Some(event) = told.messages.get_mut(&key) {
            event.count = event.count.map(|n| n.saturating_add(1));
            event.last_timestamp = Some(Time(now));
            event.message = Some(message);
            return Some(event.clone());
        }
        let event = fresh(note, message, &self.source, now);
        told.messages.insert(key, event.clone());
        Some(event)
    }

    fn allowed(&mut self, object: &str, now: i64) -> bool {
        let bucket = self.buckets.entry(object.to_owned()).or_insert(Bucket { tokens: BURST, at: now });
        bucket.tokens = BURST.min(bucket.tokens + (now - bucket.at).max(0) as f64 / REFILL);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Keeps memory bounded: drops what is old, and all when that is not enough (then counts start anew).
    fn forget(&mut self, now: i64) {
        if self.told.len() > REMEMBERED {
            self.told.retain(|_, told| now - told.since <= WINDOW);
            if self.told.len() > REMEMBERED {
                self.told.clear();
            }
        }
        if self.buckets.len() > REMEMBERED {
            self.buckets.retain(|_, bucket| bucket.tokens + (now - bucket.at) as f64 / REFILL < BURST);
            if self.buckets.len() > REMEMBERED {
                self.buckets.clear();
            }
        }
    }
}

fn fresh(note: &Note, message: String, source: &EventSource, now: Timestamp) -> Event {
    let mut event = Event {
        involved_object: note.about.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        type_: Some(format!("{:?}", note.kind)),
        ..Event::default()
    };
    let name = note.about.name.as_deref().unwrap_or("cluster");
    event.metadata.name = Some(format!("{name}.{:x}", now.as_nanosecond()));
    event.metadata.namespace = Some(note.about.namespace.clone().unwrap_or_else(|| "default".into()));
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(object: &str, message: &str) -> Note {
        let about =
            ObjectReference { name: Some(object.into()), namespace: Some("web".into()), ..ObjectReference::default() };
        Note { about, kind: Type::Warning, reason: "Failed".into(), message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn a_repeated_event_is_counted() {
        let mut correlator = Correlator::new(EventSource::default());
        let first = correlator.note(&note("a", "no"), at(0)).unwrap();
        let again = correlator.note(&note("a", "no"), at(5)).unwrap();
        let other = correlator.note(&note("b", "no"), at(5)).unwrap();
        assert_eq!((first.count, again.count, other.count), (Some(1), Some(2), Some(1)));
        assert_eq!(first.metadata.name, again.metadata.name);
        assert_eq!(again.last_timestamp, Some(Time(at(5))));
        assert_eq!(again.type_.as_deref(), Some("Warning"));
    }

    #[test]
    fn many_similar_messages_are_combined() {
        let mut correlator = Correlator::new(EventSource::default());
        let told: Vec<_> = (0..14).map(|n| correlator.note(&note("a", &format!("no {n}")), at(n)).unwrap()).collect();
        assert_eq!(told[9].message.as_deref(), Some("no 9"));
        assert_eq!(told[13].message.as_deref(), Some("(combined from similar events): no 13"));
        assert_eq!(told[13].count, Some(4));
        let later = correlator.note(&note("a", "no 99"), at(WINDOW + 20)).unwrap();
        assert_eq!(later.message.as_deref(), Some("no 99"));
    }

    #[test]
    fn one_object_cannot_flood_the_api() {
        let mut correlator = Correlator::new(EventSource::default());
        let told = (0..100).filter(|_| correlator.note(&note("a", "no"), at(0)).is_some()).count();
        assert_eq!(told, 25);
        assert!(correlator.note(&note("b", "no"), at(0)).is_some());
        assert!(correlator.note(&note("a", "no"), at(301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::new(EventSource::default());
        for n in 0..5000 {
            correlator.note(&note(&format!("pod-{n}"), "no"), at(0));
        }
        assert!(correlator.told.len() <= REMEMBERED + 1 && correlator.buckets.len() <= REMEMBERED + 1);
    }
}
