//! The watch cache of one kind: its objects on a persistent map, its latest changes in a ring, and who watches.
//!
//! # Invariants
//! * What a reader is handed under one lock is one state: a snapshot and the changes after it have no gap and no overlap.
//! * Nobody waits for a watcher: one whose queue is full is dropped, its stream ends, and it resumes from the ring.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use ahash::AHashMap;
use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::RwLock;
use store::Revision;
use tokio::sync::mpsc;

use super::filter::Filter;
use crate::{
    item::{self, Item},
    registry::Entry,
};

/// Most changes kept for watchers that resume.
const RING_EVENTS: usize = 10_000;

/// Most bytes of objects kept for watchers that resume.
const RING_BYTES: usize = 8 << 20;

/// Most changes that wait for one watcher.
const WATCHER_QUEUE: usize = 1_000;

/// One change of one object.
pub struct Change {
    /// The revision that made it.
    pub revision: Revision,
    /// As it is now; none when it is gone.
    pub new: Option<Arc<Item>>,
    /// As it was, if it was; when the object is gone, stamped with the revision of its end.
    pub old: Option<Arc<Item>>,
    frame: OnceLock<Bytes>,
}

/// What a change means to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The object came, or came to match.
    Added,
    /// The object changed.
    Modified,
    /// The object went, or ceased to match.
    Deleted,
}

impl Event {
    /// The word in a watch event's `type`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One watch event in JSON, with its newline.
pub fn frame(word: &str, object: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(object.len() + 40);
    bytes.extend_from_slice(b"{\"type\":\"");
    bytes.extend_from_slice(word.as_bytes());
    bytes.extend_from_slice(b"\",\"object\":");
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(b"}\n");
    bytes.into()
}

impl Change {
    /// What the change means to a reader with this filter; none when it concerns neither the old nor the new object.
    pub fn seen_by(&self, filter: &Filter, entry: &dyn Entry) -> Option<Event> {
        let is = self.new.as_ref().is_some_and(|item| filter.matches(entry, item));
        let was = self.old.as_ref().is_some_and(|item| filter.matches(entry, item));
        match (was, is) {
            (false, false) => None,
            (false, true) => Some(Event::Added),
            (true, true) => Some(Event::Modified),
            (true, false) => Some(Event::Deleted),
        }
    }

    /// The object that the event shows.
    pub fn shown(&self, event: Event, opening: &str) -> Arc<Item> {
        match (event, &self.new, &self.old) {
            // it left the selector: the old body, at the revision of the change
            (Event::Deleted, Some(_), Some(old)) => Arc::new(old.stamped(opening, self.revision)),
            (_, Some(new), _) => Arc::clone(new),
            (_, None, Some(old)) => Arc::clone(old),
            (_, None, None) => unreachable!("invariant: a change has an old or a new object"),
        }
    }

    /// The event in JSON; shared by all watchers that see it as what it is in the store.
    pub fn frame(&self, event: Event, opening: &str) -> Bytes {
        if event == self.natural() {
            return self.frame.get_or_init(|| frame(event.word(), &self.shown(event, opening).body)).clone();
        }
        frame(event.word(), &self.shown(event, opening).body)
    }

    fn natural(&self) -> Event {
        match (&self.new, &self.old) {
            (None, _) => Event::Deleted,
            (Some(_), None) => Event::Added,
            (Some(_), Some(_)) => Event::Modified,
        }
    }

    fn bytes(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |item| item.body.len())
    }
}

/// All objects of a kind at one revision. Cheap to take, cheap to hold.
#[derive(Clone)]
pub struct Snapshot {
    /// By id.
    pub objects: OrdMap<Arc<str>, Arc<Item>>,
    /// Everything up to and including this revision is in.
    pub revision: Revision,
}

impl Snapshot {
    /// The objects of one namespace, or all, in the order of their ids.
    pub fn within<'a>(&'a self, namespace: Option<&str>) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        let prefix = namespace.map(|ns| format!("{ns}/")).unwrap_or_default();
        self.after(&prefix).take_while(move |item| item.id.starts_with(&prefix))
    }

    /// The objects from this id on.
    pub fn after<'a>(&'a self, id: &str) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        let from = (std::ops::Bound::Included(id), std::ops::Bound::Unbounded);
        self.objects.range::<_, str>(from).map(|(_, item)| item)
    }
}

struct Watcher {
    filter: Arc<Filter>,
    sender: mpsc::Sender<Arc<Change>>,
}

#[derive(Default)]
struct Watchers {
    plain: Vec<Watcher>,
    /// By field and the value that it must have.
    triggered: AHashMap<usize, AHashMap<String, Vec<Watcher>>>,
}

struct State {
    objects: OrdMap<Arc<str>, Arc<Item>>,
    /// The newest revision that changed an object of this kind.
    revision: Revision,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Changes after this revision are all in the ring.
    oldest: Revision,
    watchers: Watchers,
}

/// What a new watcher is handed.
pub struct Subscription {
    /// Everything up to and including this revision is in the snapshot or the backlog.
    pub revision: Revision,
    /// The objects as they are, when asked for.
    pub snapshot: Option<Snapshot>,
    /// Changes since the revision asked for.
    pub backlog: Vec<Arc<Change>>,
    /// Changes from now on.
    pub receiver: mpsc::Receiver<Arc<Change>>,
}

/// The past asked for is forgotten; this is the oldest that is not.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld(pub Revision);

/// The cache of one kind.
pub struct KindCache {
    /// The kind's strategy.
    pub entry: Arc<dyn Entry>,
    /// How stored objects begin.
    pub opening: String,
    state: RwLock<State>,
}

impl KindCache {
    /// An empty cache, to be loaded before it is read.
    pub fn new(entry: Arc<dyn Entry>) -> Self {
        let opening = item::opening(entry.kind());
        let state = State {
            objects: OrdMap::new(),
            revision: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            oldest: 0,
            watchers: Watchers::default(),
        };
        Self { entry, opening, state: RwLock::new(state) }
    }

    /// The same objects, without a past and without watchers.
    #[must_use]
    pub fn fork(&self) -> Self {
        let fork = Self::new(Arc::clone(&self.entry));
        let state = self.state.read();
        fork.load(state.objects.clone(), state.revision);
        fork
    }

    /// Replaces everything by what the store holds at `revision`. Watchers are ended: they may have missed something.
    pub fn load(&self, objects: OrdMap<Arc<str>, Arc<Item>>, revision: Revision) {
        let mut state = self.state.write();
        *state = State {
            objects,
            revision,
            ring: VecDeque::new(),
            ring_bytes: 0,
            oldest: revision,
            watchers: Watchers::default(),
        };
    }

    /// Takes one change from the store.
    pub fn apply(&self, id: &str, event: &store::Event) {
        let mut state = self.state.write();
        let change = match event {
            store::Event::Put { entry, .. } => {
                let Some(item) = Item::new(&self.opening, id.into(), entry) else {
                    tracing::error!(%id, kind = self.entry.kind().kind, "stored value is no object of its kind, it is left out");
                    return;
                };
                let item = Arc::new(item);
                let old = state.objects.insert(Arc::clone(&item.id), Arc::clone(&item));
                Change { revision: entry.mod_revision, new: Some(item), old, frame: OnceLock::new() }
            }
            store::Event::Delete { revision, .. } => {
                let Some(old) = state.objects.remove(id) else { return };
                let old = Arc::new(old.stamped(&self.opening, *revision));
                Change { revision: *revision, new: None, old: Some(old), frame: OnceLock::new() }
            }
        };
        state.push(Arc::new(change), &*self.entry);
    }

    /// The object of this id.
    pub fn get(&self, id: &str) -> Option<Arc<Item>> {
        self.state.read().objects.get(id).cloned()
    }

    /// The newest revision that changed an object of this kind.
    pub fn version(&self) -> Revision {
        self.state.read().revision
    }

    /// All objects. `applied` is the revision that the whole cache had before the call.
    pub fn snapshot(&self, applied: Revision) -> Snapshot {
        let state = self.state.read();
        Snapshot { objects: state.objects.clone(), revision: state.revision.max(applied) }
    }

    /// The changes after this revision, in order.
    pub fn since(&self, revision: Revision) -> Result<Vec<Arc<Change>>, TooOld> {
        self.state.read().since(revision)
    }

    /// Joins the watchers. With `since`, changes after that revision come first; without, a snapshot does.
    pub fn subscribe(
        &self,
        filter: &Arc<Filter>,
        since: Option<Revision>,
        applied: Revision,
    ) -> Result<Subscription, TooOld> {
        let (sender, receiver) = mpsc::channel(WATCHER_QUEUE);
        let mut state = self.state.write();
        let revision = state.revision.max(applied);
        let (snapshot, backlog) = match since {
            None => (Some(Snapshot { objects: state.objects.clone(), revision }), Vec::new()),
            Some(since) => (None, state.since(since)?),
        };
        state.watchers.add(Watcher { filter: Arc::clone(filter), sender });
        Ok(Subscription { revision, snapshot, backlog, receiver })
    }

    /// Ends all watchers, so that long requests do not hold up a shutdown.
    pub fn close(&self) {
        self.state.write().watchers = Watchers::default();
    }
}

impl State {
    fn since(&self, revision: Revision) -> Result<Vec<Arc<Change>>, TooOld> {
        if revision < self.oldest {
            return Err(TooOld(self.oldest));
        }
        let first = self.ring.partition_point(|change| change.revision <= revision);
        Ok(self.ring.range(first..).cloned().collect())
    }

    fn push(&mut self, change: Arc<Change>, entry: &dyn Entry) {
        self.revision = change.revision;
        self.watchers.tell(&change, entry);
        self.ring_bytes += change.bytes();
        self.ring.push_back(change);
        while self.ring.len() > RING_EVENTS || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            if let Some(gone) = self.ring.pop_front() {
                self.ring_bytes -= gone.bytes();
                self.oldest = gone.revision;
            }
        }
    }
}

impl Watchers {
    fn add(&mut self, watcher: Watcher) {
        match watcher.filter.trigger() {
            None => self.plain.push(watcher),
            Some((field, value)) => {
                let value = value.to_owned();
                self.triggered.entry(field).or_default().entry(value).or_default().push(watcher);
            }
        }
    }

    fn tell(&mut self, change: &Arc<Change>, entry: &dyn Entry) {
        self.plain.retain(|watcher| watcher.tell(change, entry));
        for (field, watchers) in &mut self.triggered {
            let value =
                |item: &Option<Arc<Item>>| item.as_ref().and_then(|item| item.facts(entry).fields.get(*field).cloned());
            let (new, old) = (value(&change.new), value(&change.old));
            let moved = old.as_ref().filter(|old| Some(*old) != new.as_ref());
            for value in new.iter().chain(moved) {
                let Some(list) = watchers.get_mut(value) else { continue };
                list.retain(|watcher| watcher.tell(change, entry));
                if list.is_empty() {
                    watchers.remove(value);
                }
            }
        }
        self.triggered.retain(|_, watchers| !watchers.is_empty());
    }
}

impl Watcher {
    /// False when the watcher is gone or too slow.
    fn tell(&self, change: &Arc<Change>, entry: &dyn Entry) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        change.seen_by(&self.filter, entry).is_none() || self.sender.try_send(Arc::clone(change)).is_ok()
    }
}
