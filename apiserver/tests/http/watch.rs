//! Watches: what comes, in which order, and how it ends.

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use store::Backend as _;
use tower::ServiceExt as _;

use super::cluster::{Cluster, SOON};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An open watch.
struct Watch {
    body: Body,
    text: Vec<u8>,
}

impl Watch {
    async fn open(cluster: &Cluster, path: &str, accept: &str) -> Self {
        let request = Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = cluster.admin().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { body: response.into_body(), text: Vec::new() }
    }

    /// The next event, or none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|b| *b == b'\n') {
                let line: Vec<_> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(SOON, self.body.frame()).await.expect("an event comes in time")?;
            self.text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    async fn expect(&mut self, expected: &str) {
        let event = self.next().await.expect("another event");
        assert_eq!(show(&event), expected, "{event}");
    }
}

fn show(event: &Value) -> String {
    let text = |at: &str| event.pointer(at).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("/type"), text("/object/metadata/name")).trim().to_owned()
}

fn map(name: &str, tier: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"tier": tier}}})
}

async fn label(cluster: &Cluster, name: &str, tier: &str) {
    let labels = json!({"metadata": {"labels": {"tier": tier}}});
    let (code, _) = cluster.patch(&format!("{MAPS}/{name}"), "application/merge-patch+json", labels).await;
    assert_eq!(code, StatusCode::OK);
}

fn revision(object: &Value) -> String {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_where_a_list_ended() {
    let cluster = Cluster::start().await;
    let list = cluster.get(MAPS).await;
    cluster.create(MAPS, map("a", "front")).await;
    let mut watch = Watch::open(&cluster, &format!("{MAPS}?watch=1&resourceVersion={}", revision(&list)), "*/*").await;
    watch.expect("ADDED a").await;
    label(&cluster, "a", "back").await;
    watch.expect("MODIFIED a").await;
    let (code, _) = cluster.ask("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(code, StatusCode::OK);
    watch.expect("DELETED a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_leaves_the_selector_is_deleted_for_the_watcher() {
    let cluster = Cluster::start().await;
    cluster.create(MAPS, map("a", "front")).await;
    cluster.create(MAPS, map("b", "back")).await;
    let mut watch = Watch::open(&cluster, &format!("{MAPS}?watch=1&labelSelector=tier%3Dfront"), "*/*").await;
    watch.expect("ADDED a").await;
    label(&cluster, "b", "front").await;
    watch.expect("ADDED b").await;
    label(&cluster, "a", "back").await;
    let event = watch.next().await.unwrap();
    assert_eq!(show(&event), "DELETED a");
    assert_eq!(event.pointer("/object/metadata/labels/tier"), Some(&json!("front")), "the old body");
    let now = cluster.get(&format!("{MAPS}/a")).await;
    assert_eq!(revision(event.pointer("/object").unwrap()), revision(&now), "at the new revision");
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.create(MAPS, map("a", "front")).await;
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3";
    let mut watch = Watch::open(&cluster, &format!("{MAPS}?{query}"), "*/*").await;
    watch.expect("ADDED a").await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(show(&bookmark), "BOOKMARK");
    let annotation = bookmark.pointer("/object/metadata/annotations/k8s.io~1initial-events-end");
    assert_eq!(annotation, Some(&json!("true")), "{bookmark}");
    // before the end comes another, and then the end
    watch.expect("BOOKMARK").await;
    assert_eq!(watch.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_frames_are_tables_when_asked_for() {
    let cluster = Cluster::start().await;
    cluster.create(MAPS, map("a", "front")).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = Watch::open(&cluster, &format!("{MAPS}?watch=1"), table).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event.pointer("/object/kind"), Some(&json!("Table")));
    assert_eq!(event.pointer("/object/rows/0/cells/0"), Some(&json!("a")));
    assert_eq!(event.pointer("/object/rows/0/object/kind"), Some(&json!("PartialObjectMetadata")));
    label(&cluster, "a", "back").await;
    let event = watch.next().await.unwrap();
    assert_eq!(event.pointer("/object/columnDefinitions"), Some(&json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_past_is_an_error_event_also_after_a_restart() {
    let store = std::sync::Arc::new(store::Memory::new());
    let first = Cluster::on(store.clone()).await;
    cluster_of(&first, 5).await;
    let list = first.get(&format!("{MAPS}?limit=1")).await;
    store.compact(revision(&list).parse().unwrap()).await.unwrap();
    let last = revision(&first.create(MAPS, map("z", "front")).await);
    // a server that starts anew remembers what the store does, so that watchers can resume
    let second = Cluster::on(store).await;
    let mut watch = Watch::open(&second, &format!("{MAPS}?watch=1&resourceVersion={}", revision(&list)), "*/*").await;
    let event = watch.next().await.unwrap();
    assert_eq!(show(&event), "ADDED z");
    assert_eq!(revision(event.pointer("/object").unwrap()), last);
    let mut watch = Watch::open(&second, &format!("{MAPS}?watch=1&resourceVersion=2"), "*/*").await;
    let event = watch.next().await.unwrap();
    assert_eq!(event.pointer("/type"), Some(&json!("ERROR")));
    assert_eq!(event.pointer("/object/code"), Some(&json!(410)));
    assert_eq!(event.pointer("/object/reason"), Some(&json!("Expired")));
    assert_eq!(watch.next().await, None);
}

async fn cluster_of(cluster: &Cluster, maps: usize) {
    for i in 0..maps {
        cluster.create(MAPS, map(&format!("m{i}"), "front")).await;
    }
}
