//! What the API promises, verb by verb.

use http::StatusCode;
use serde_json::{Value, json};
use store::Backend as _;

use super::cluster::{Cluster, ask};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": {"a": "b"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    })
}

async fn account(cluster: &Cluster) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await;
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn names(list: &Value) -> Vec<&str> {
    list.pointer("/items").and_then(Value::as_array).unwrap().iter().map(|i| text(i, "/metadata/name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_revision() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.create(MAPS, map(name)).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first.pointer("/metadata/remainingItemCount"), Some(&json!(3)));
    assert_eq!(cluster.ask("DELETE", &format!("{MAPS}/d"), Value::Null).await.0, StatusCode::OK);
    cluster.create(MAPS, map("cc")).await;
    let token = text(&first, "/metadata/continue");
    let second = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"]);
    let rest = cluster.get(&format!("{MAPS}?limit=2&continue={}", text(&second, "/metadata/continue"))).await;
    assert_eq!(names(&rest), ["e"]);
    assert_eq!(text(&rest, "/metadata/continue"), "");
    let revision = text(&first, "/metadata/resourceVersion");
    assert_eq!(text(&rest, "/metadata/resourceVersion"), revision);
    let exact = cluster.get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    let chosen = cluster.get(&format!("{MAPS}?labelSelector=n%20in%20(a,cc)")).await;
    assert_eq!(names(&chosen), ["a", "cc"]);
    let one = cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dcc")).await;
    assert_eq!(names(&one), ["cc"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_outlives_its_revision_goes_on_as_things_are() {
    let store = std::sync::Arc::new(store::Memory::new());
    let cluster = Cluster::on(store.clone()).await;
    for name in ["a", "b", "c"] {
        cluster.create(MAPS, map(name)).await;
    }
    let first = cluster.get(&format!("{MAPS}?limit=1")).await;
    assert_eq!(cluster.ask("DELETE", &format!("{MAPS}/b"), Value::Null).await.0, StatusCode::OK);
    let newest = cluster.create(MAPS, map("d")).await;
    store.compact(text(&newest, "/metadata/resourceVersion").parse().unwrap()).await.unwrap();
    let token = text(&first, "/metadata/continue");
    let (code, status) = cluster.ask("GET", &format!("{MAPS}?limit=5&continue={token}"), Value::Null).await;
    assert_eq!((code, text(&status, "/reason")), (StatusCode::GONE, "Expired"), "{status}");
    assert!(text(&status, "/message").starts_with("The provided continue parameter is too old"), "{status}");
    let token = text(&status, "/metadata/continue");
    let rest = cluster.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!(names(&rest), ["c", "d"]);
    let revision = text(&first, "/metadata/resourceVersion");
    let (code, status) =
        cluster.ask("GET", &format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact"), Value::Null).await;
    assert_eq!((code, text(&status, "/reason")), (StatusCode::GONE, "Expired"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_stored_as_go_would_write_them() {
    let cluster = Cluster::start().await;
    let sent = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "a", "annotations": {}, "labels": null, "creationTimestamp": null},
        "data": {"a": null}, "binaryData": {},
    });
    let made = cluster.create(MAPS, sent.clone()).await;
    assert_eq!(made.pointer("/data"), Some(&json!({"a": ""})));
    for empty in ["/metadata/annotations", "/metadata/labels", "/binaryData"] {
        assert_eq!(made.pointer(empty), None, "{empty}");
    }
    let path = format!("{MAPS}/a?fieldManager=me");
    let (code, applied) = cluster.patch(&path, "application/apply-patch+yaml", sent).await;
    assert_eq!(code, StatusCode::OK, "{applied}");
    assert_eq!(applied.pointer("/metadata/annotations"), None);
    // a namespace that means nothing is forgotten
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b", "namespace": "default"}});
    let made = cluster.create("/api/v1/namespaces", namespace).await;
    assert_eq!(made.pointer("/metadata/namespace"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_do_not_overwrite_each_other() {
    let cluster = Cluster::start().await;
    let first = cluster.create(MAPS, map("a")).await;
    let (code, status) = cluster.ask("POST", MAPS, map("a")).await;
    assert_eq!((code, text(&status, "/reason")), (StatusCode::CONFLICT, "AlreadyExists"));
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second.as_object_mut().unwrap().insert("data".into(), json!({"a": "c"}));
    assert_eq!(cluster.ask("PUT", &path, second).await.0, StatusCode::OK);
    let mut stale = first.clone();
    stale.as_object_mut().unwrap().insert("data".into(), json!({"a": "d"}));
    let (code, status) = cluster.ask("PUT", &path, stale).await;
    assert_eq!((code, text(&status, "/reason")), (StatusCode::CONFLICT, "Conflict"), "{status}");
    let (code, same) = cluster.patch(&path, "application/merge-patch+json", json!({"data": {"a": "c"}})).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(same, cluster.get(&path).await, "a patch that changes nothing writes nothing");
    let all = (0..20).map(|i| {
        let data = json!({"data": {format!("k{i}"): "v"}});
        let service = cluster.admin();
        async move { ask(service, "PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", data).await.0 }
    });
    let codes = futures::future::join_all(all).await;
    assert!(codes.iter().all(|c| *c == StatusCode::OK), "{codes:?}");
    assert_eq!(cluster.get(&path).await.pointer("/data").unwrap().as_object().unwrap().len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_finalizers_and_grace() {
    let cluster = Cluster::start().await;
    account(&cluster).await;
    let mut held = map("held");
    held.pointer_mut("/metadata").unwrap().as_object_mut().unwrap().insert("finalizers".into(), json!(["x.io/y"]));
    cluster.create(MAPS, held).await;
    let path = format!("{MAPS}/held");
    let (code, marked) = cluster.ask("DELETE", &path, Value::Null).await;
    assert_eq!(code, StatusCode::OK);
    assert_ne!(text(&marked, "/metadata/deletionTimestamp"), "");
    let (code, _) =
        cluster.patch(&path, "application/merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(cluster.ask("GET", &path, Value::Null).await.0, StatusCode::NOT_FOUND);

    cluster.create(PODS, pod("p")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let (code, status) = cluster.ask("POST", &format!("{PODS}/p/binding"), binding.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{status}");
    assert_eq!(cluster.ask("POST", &format!("{PODS}/p/binding"), binding).await.0, StatusCode::CONFLICT);
    let uid = json!({"preconditions": {"uid": "other"}});
    assert_eq!(cluster.ask("DELETE", &format!("{PODS}/p"), uid).await.0, StatusCode::CONFLICT);
    let (_, going) = cluster.ask("DELETE", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(going.pointer("/metadata/deletionGracePeriodSeconds"), Some(&json!(30)), "{going}");
    assert_eq!(cluster.get(&format!("{PODS}/p")).await.pointer("/spec/nodeName"), Some(&json!("n1")));
    let (code, _) = cluster.ask("DELETE", &format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(cluster.ask("GET", &format!("{PODS}/p"), Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_stays_until_it_is_finalized() {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster.create("/api/v1/namespaces", namespace).await;
    let (_, going) = cluster.ask("DELETE", "/api/v1/namespaces/team", Value::Null).await;
    assert_eq!(text(&going, "/status/phase"), "Terminating", "{going}");
    let (code, status) = cluster.ask("POST", "/api/v1/namespaces/team/configmaps", map("a")).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    let mut empty = cluster.get("/api/v1/namespaces/team").await;
    empty.as_object_mut().unwrap().insert("spec".into(), json!({}));
    let (code, status) = cluster.ask("PUT", "/api/v1/namespaces/team/finalize", empty).await;
    assert_eq!(code, StatusCode::OK, "{status}");
    assert_eq!(cluster.ask("GET", "/api/v1/namespaces/team", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_given_addresses() {
    let cluster = Cluster::start().await;
    let kubernetes = cluster.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(text(&kubernetes, "/spec/clusterIP"), "10.43.0.1");
    let make = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let all: Vec<_> = ["a", "b", "c"].map(make).into();
    let made = all.into_iter().map(|s| cluster.create("/api/v1/namespaces/default/services", s));
    let made = futures::future::join_all(made).await;
    let mut addresses: Vec<_> = made.iter().map(|s| text(s, "/spec/clusterIP")).collect();
    let mut ports: Vec<_> =
        made.iter().map(|s| s.pointer("/spec/ports/0/nodePort").unwrap().as_i64().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((addresses.len(), ports.len()), (3, 3), "{addresses:?} {ports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_limited_and_typed() {
    let cluster = Cluster::start().await;
    let mut big = map("big");
    big.as_object_mut().unwrap().insert("data".into(), json!({"a": "x".repeat(4 << 20)}));
    assert_eq!(cluster.ask("POST", MAPS, big).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let (code, _) = ask(cluster.admin(), "POST", MAPS, "text/html", map("a")).await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (code, _) = ask(cluster.admin(), "PATCH", &format!("{MAPS}/a"), "application/json", map("a")).await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (code, status) = cluster.ask("POST", MAPS, json!({"kind": "Pod"})).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{status}");
    let (code, status) = cluster.ask("GET", "/api/v1/nonsense", Value::Null).await;
    assert_eq!(
        (code, text(&status, "/message")),
        (StatusCode::NOT_FOUND, "the server could not find the requested resource")
    );
}
