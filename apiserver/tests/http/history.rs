//! The API as it was, below `/asof/`.

use http::StatusCode;
use serde_json::{Value, json};
use store::Backend as _;

use super::cluster::{Cluster, ask};
use apiserver::User;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": {"a": value}})
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn values(list: &Value) -> Vec<(&str, &str)> {
    let items = list.pointer("/items").and_then(Value::as_array).unwrap();
    items.iter().map(|i| (text(i, "/metadata/name"), text(i, "/data/a"))).collect()
}

/// A cluster with a past: a and b existed at the revision; then a changed, b went and c came.
async fn aged() -> (Cluster, std::sync::Arc<store::Memory>, String) {
    let store = std::sync::Arc::new(store::Memory::new());
    let cluster = Cluster::on(store.clone()).await;
    cluster.create(MAPS, map("a", "1")).await;
    let b = cluster.create(MAPS, map("b", "1")).await;
    let then = text(&b, "/metadata/resourceVersion").to_owned();
    let (code, _) =
        cluster.patch(&format!("{MAPS}/a"), "application/merge-patch+json", json!({"data": {"a": "2"}})).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(cluster.ask("DELETE", &format!("{MAPS}/b"), Value::Null).await.0, StatusCode::OK);
    cluster.create(MAPS, map("c", "1")).await;
    (cluster, store, then)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_read_as_it_was_and_not_changed() {
    let (cluster, _store, then) = aged().await;
    let root = format!("/asof/{then}");
    let list = cluster.get(&format!("{root}{MAPS}")).await;
    assert_eq!(values(&list), [("a", "1"), ("b", "1")]);
    assert_eq!(text(&list, "/metadata/resourceVersion"), then, "all of one revision");
    let all = cluster.get(&format!("{root}/api/v1/configmaps?labelSelector=n%3Db")).await;
    assert_eq!(values(&all), [("b", "1")]);
    let first = cluster.get(&format!("{root}{MAPS}?limit=1")).await;
    let token = text(&first, "/metadata/continue");
    let second = cluster.get(&format!("{root}{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((values(&first), values(&second)), (vec![("a", "1")], vec![("b", "1")]));
    assert_eq!(text(&cluster.get(&format!("{root}{MAPS}/b")).await, "/data/a"), "1");
    let (code, status) = cluster.ask("GET", &format!("{root}{MAPS}/c"), Value::Null).await;
    assert_eq!((code, text(&status, "/message")), (StatusCode::NOT_FOUND, "configmaps \"c\" not found"));
    for (method, path) in [("POST", MAPS.to_owned()), ("DELETE", format!("{MAPS}/a")), ("PATCH", format!("{MAPS}/a"))] {
        let (code, status) = cluster.ask(method, &format!("{root}{path}"), map("d", "1")).await;
        assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert!(text(&status, "/message").contains("the past can be read"), "{status}");
    }
    let (code, events) = cluster.ask("GET", &format!("{root}{MAPS}?watch=1"), Value::Null).await;
    let events = events.as_str().unwrap();
    assert_eq!(code, StatusCode::OK);
    assert_eq!(events.lines().filter(|l| l.starts_with("{\"type\":\"ADDED\"")).count(), 2, "{events}");
    let (_, events) = cluster.ask("GET", &format!("{root}{MAPS}?watch=1&resourceVersion=1"), Value::Null).await;
    assert_eq!(events.pointer("/object/code"), Some(&json!(410)), "{events}");
    let moment = cluster.get(&root).await;
    assert_eq!(moment.pointer("/revision"), Some(&json!(then.parse::<u64>().unwrap())), "{moment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_the_past_is_decided_as_of_now() {
    let (cluster, _store, then) = aged().await;
    let as_ann = || cluster.server.local(User::new("ann", &[]));
    let path = format!("/asof/{then}{MAPS}");
    let (code, _) = ask(as_ann(), "GET", &path, "application/json", Value::Null).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let (code, list) = ask(as_ann(), "GET", &path, "application/json", Value::Null).await;
    assert_eq!((code, values(&list).len()), (StatusCode::OK, 2));
    let (code, _) = ask(as_ann(), "GET", &format!("/asof/{then}"), "application/json", Value::Null).await;
    assert_eq!(code, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_and_what_has_not_happened_are_told_apart() {
    let (cluster, store, then) = aged().await;
    let status = async |moment: &str| {
        let (code, status) = cluster.ask("GET", &format!("/asof/{moment}{MAPS}"), Value::Null).await;
        (code.as_u16(), text(&status, "/message").to_owned())
    };
    let (code, message) = status("99999").await;
    assert_eq!(code, 404);
    assert!(message.starts_with("revision 99999 has not happened yet: the newest is "), "{message}");
    assert_eq!(status("2999-01-01T00:00:00Z").await.0, 404);
    assert_eq!(status("1999-01-01T00:00:00Z").await.0, 410);
    let newest: u64 = text(&cluster.get(MAPS).await, "/metadata/resourceVersion").parse().unwrap();
    store.compact(newest).await.unwrap();
    let (code, message) = status(&then).await;
    assert_eq!(code, 410);
    let expected =
        format!("revision {then} is no longer kept by the store: the oldest that can be read is revision {newest}");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(status("soon").await.0, 400);
    let now = jiff::Timestamp::now().to_string();
    assert_eq!(status(&now).await.0, 200, "now is the newest past");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_from_a_lost_future_is_told_to_list() {
    let (cluster, ..) = aged().await;
    let (_, event) = cluster.ask("GET", &format!("{MAPS}?watch=1&resourceVersion=99999"), Value::Null).await;
    assert_eq!(event.pointer("/object/code"), Some(&json!(410)), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_the_past_below_its_servers_address() {
    let (cluster, _store, then) = aged().await;
    let kubectl = async |moment: &str, words: &str| {
        let server = format!("--server=https://{}/asof/{moment}", cluster.address);
        cluster.kubectl(&format!("{server} {words}"), "").await
    };
    let said = kubectl(&then, "get configmaps -o name").await;
    assert_eq!(said.out, "configmap/a\nconfigmap/b\n", "{}", said.err);
    let said = kubectl(&then, "get configmap b").await;
    assert!(said.out.starts_with("NAME   DATA   AGE\nb      1"), "{}{}", said.out, said.err);
    let said = kubectl(&then, "explain configmap.data").await;
    assert!(said.out.contains("FIELD: data"), "{}{}", said.out, said.err);
    let said = kubectl(&then, "delete configmap a").await;
    assert!(!said.ok && said.err.contains("the past can be read"), "{}", said.err);
    let said = kubectl(&then, "get configmaps --watch -o name").await;
    assert_eq!(said.out, "configmap/a\nconfigmap/b\n", "{}", said.err);
    let said = kubectl("99999", "get pods").await;
    assert!(said.err.contains("has not happened yet"), "{}", said.err);
}
