//! Several objects at once: all or nothing.

use std::sync::Arc;

use apiserver::User;
use http::StatusCode;
use serde_json::{Value, json};
use store::Backend as _;

use super::cluster::{Cluster, ask};

const ALL: &str = "/apis/orlop.dev/v1/transactions?fieldManager=me&fieldValidation=Strict";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"a": "b"}})
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "selector": {"app": name}},
    })
}

fn transaction(operations: &[(&str, Value)]) -> Value {
    let operations: Vec<_> = operations.iter().map(|(verb, object)| json!({*verb: object})).collect();
    json!({"apiVersion": "orlop.dev/v1", "kind": "Transaction", "spec": {"operations": operations}})
}

fn applied(objects: impl IntoIterator<Item = Value>) -> Value {
    transaction(&objects.into_iter().map(|object| ("apply", object)).collect::<Vec<_>>())
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

fn results(answer: &Value) -> Vec<&str> {
    let outcomes = answer.pointer("/status/outcomes").and_then(Value::as_array);
    outcomes.unwrap_or_else(|| panic!("{answer}")).iter().map(|o| text(o, "/result")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn later_operations_see_earlier_ones_and_all_are_one_revision() {
    let cluster = Cluster::start().await;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"a": "b"}}});
    let both = applied([namespace, map("a", "team"), service("one"), service("two"), map("a", "team")]);
    let (code, answer) = cluster.ask("POST", &format!("{ALL}&namespace=team"), both.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    assert_eq!(results(&answer), ["created", "created", "created", "created", "unchanged"]);
    let revision = answer.pointer("/status/revision").and_then(Value::as_u64).unwrap().to_string();
    let list = "/api/v1/namespaces/team/services";
    let services = cluster.get(list).await;
    let address = |at: usize| text(&services, &format!("/items/{at}/spec/clusterIP")).to_owned();
    assert!(!address(0).is_empty() && address(0) != address(1), "{services}");
    for path in ["/api/v1/namespaces/team", "/api/v1/namespaces/team/configmaps/a", &format!("{list}/two")] {
        assert_eq!(text(&cluster.get(path).await, "/metadata/resourceVersion"), revision, "{path}");
    }
    assert_eq!(text(&answer, "/status/outcomes/1/object/metadata/resourceVersion"), revision);
    let (_, again) = cluster.ask("POST", &format!("{ALL}&namespace=team"), both).await;
    assert_eq!(results(&again), ["unchanged"; 5]);
    assert_eq!(again.pointer("/status/revision"), Some(&json!(0)), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mistake_is_named_and_nothing_is_written() {
    let cluster = Cluster::start().await;
    let mut wrong = service("wrong");
    *wrong.pointer_mut("/spec/ports/0/port").unwrap() = json!(99_999);
    let refused = async |objects: Vec<Value>, code: u16, words: &str| {
        let (is, status) = cluster.ask("POST", ALL, applied(objects)).await;
        assert_eq!(is.as_u16(), code, "{status}");
        let message = text(&status, "/message");
        assert!(message.contains(words) && message.ends_with("(nothing was written)"), "{message}");
    };
    refused(vec![map("a", "default"), wrong], 422, "apply services \"wrong\" in namespace \"default\": ").await;
    refused(vec![map("a", "default"), map("b", "nowhere")], 404, "namespaces \"nowhere\" not found").await;
    let mut typo = map("c", "default");
    typo.as_object_mut().unwrap().insert("dta".into(), json!({}));
    refused(vec![map("a", "default"), typo], 400, "unknown field \"dta\"").await;
    let (code, _) = cluster.ask("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    for (sent, words) in [
        (transaction(&[]), "at least one operation"),
        (json!({"kind": "Pod"}), "must be a Transaction"),
        (applied([json!({"apiVersion": "v1", "kind": "Gizmo"})]), "spec.operations[0].apply: no kind \"Gizmo\""),
        (applied([json!({"apiVersion": "v1", "kind": "Secret"})]), "spec.operations[0].apply.metadata.name"),
        (applied((0..513).map(|i| map(&format!("m{i}"), "default"))), "must have at most 512 items"),
    ] {
        let (code, status) = cluster.ask("POST", ALL, sent).await;
        assert_eq!(code, StatusCode::BAD_REQUEST);
        assert!(text(&status, "/message").contains(words), "{status}");
    }
    let full = applied((0..128).map(|i| map(&format!("m{i}"), "default")));
    let (code, status) = cluster.ask("POST", ALL, full).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text(&status, "/message").contains("needs 128 writes and 129 conditions"), "{status}");
    let (code, _) = cluster.ask("POST", ALL, applied((0..127).map(|i| map(&format!("m{i}"), "default")))).await;
    assert_eq!(code, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_can_take_part_and_a_rehearsal_writes_nothing() {
    let cluster = Cluster::start().await;
    let old = cluster.create(MAPS, map("old", "default")).await;
    let gone = cluster.create(MAPS, map("gone", "default")).await;
    let mut new = old.clone();
    new.as_object_mut().unwrap().insert("data".into(), json!({"a": "c"}));
    let all = transaction(&[
        ("create", map("made", "default")),
        ("replace", new),
        ("delete", gone.clone()),
        ("delete", map("made", "default")),
    ]);
    let (code, answer) = cluster.ask("POST", &format!("{ALL}&dryRun=All"), all.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    assert_eq!(results(&answer), ["created", "configured", "deleted", "deleted"]);
    assert_eq!(cluster.get(&format!("{MAPS}/gone")).await, gone);
    let (code, answer) = cluster.ask("POST", ALL, all.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    assert_eq!(text(&cluster.get(&format!("{MAPS}/old")).await, "/data/a"), "c");
    for name in ["made", "gone"] {
        assert_eq!(cluster.ask("GET", &format!("{MAPS}/{name}"), Value::Null).await.0, StatusCode::NOT_FOUND);
    }
    let (code, status) = cluster.ask("POST", ALL, all).await;
    assert_eq!(code, StatusCode::CONFLICT, "the version that was read is not the one that is there: {status}");
    assert!(text(&status, "/message").starts_with("replace configmaps \"old\""), "{status}");
    let twice = transaction(&[("create", map("x", "default")), ("create", map("old", "default"))]);
    let (code, status) = cluster.ask("POST", ALL, twice).await;
    assert_eq!((code, text(&status, "/reason")), (StatusCode::CONFLICT, "AlreadyExists"));
    assert_eq!(cluster.ask("GET", &format!("{MAPS}/x"), Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_authorized_by_what_holds_before_all_of_them() {
    let cluster = Cluster::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = |name: &str, verbs: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}],
        })
    };
    cluster.create(&format!("{rbac}/roles"), role("patch", json!(["patch"]))).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "ann"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patch"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    cluster.create(&format!("{rbac}/rolebindings"), binding).await;
    cluster.create(MAPS, map("there", "default")).await;
    let as_ann = async |sent: Value| {
        ask(cluster.server.local(User::new("ann", &[])), "POST", ALL, "application/json", sent).await
    };
    let mut labelled = map("there", "default");
    labelled.pointer_mut("/metadata").unwrap().as_object_mut().unwrap().insert("labels".into(), json!({"x": "y"}));
    let (code, answer) = as_ann(applied([labelled.clone()])).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    for (operations, missing) in [
        (vec![("apply", labelled.clone()), ("apply", map("new", "default"))], "cannot create resource \"configmaps\""),
        (vec![("delete", map("there", "default"))], "cannot delete resource \"configmaps\""),
        (vec![("apply", role("patch", json!(["*"]))), ("apply", labelled)], "cannot patch resource \"roles\""),
    ] {
        let (code, status) = as_ann(transaction(&operations)).await;
        assert_eq!(code, StatusCode::FORBIDDEN);
        assert!(text(&status, "/message").contains(missing), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_transactions_are_each_whole_and_none_is_lost() {
    let cluster = Cluster::start().await;
    let numbered = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    for name in ["left", "right"] {
        cluster.create(MAPS, numbered(name, json!({}))).await;
    }
    let all = (0..12).map(|i| {
        let field = json!({format!("k{i}"): "v"});
        let sent = applied([numbered("left", field.clone()), numbered("right", field)]);
        let (service, path) = (cluster.admin(), ALL.replace("=me", &format!("=me{i}")));
        async move { ask(service, "POST", &path, "application/json", sent).await }
    });
    for (code, answer) in futures::future::join_all(all).await {
        assert_eq!(code, StatusCode::CREATED, "{answer}");
    }
    let (left, right) = (cluster.get(&format!("{MAPS}/left")).await, cluster.get(&format!("{MAPS}/right")).await);
    assert_eq!(left.pointer("/data").unwrap().as_object().unwrap().len(), 12, "{left}");
    assert_eq!(left.pointer("/data"), right.pointer("/data"));
    assert_eq!(text(&left, "/metadata/resourceVersion"), text(&right, "/metadata/resourceVersion"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_the_store_hears_of_all_at_once() {
    let store = Arc::new(store::Memory::new());
    let cluster = Cluster::on(store.clone()).await;
    let now = store.status().await.unwrap().revision;
    let objects = (0..100).map(|i| map(&format!("m{i}"), "default"));
    let (code, answer) = cluster.ask("POST", ALL, applied(objects)).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let revision = answer.pointer("/status/revision").and_then(Value::as_u64).unwrap();
    assert!(revision > now);
    let list = cluster.get(&format!("{MAPS}?limit=500")).await;
    let items = list.pointer("/items").and_then(Value::as_array).unwrap();
    assert_eq!(items.len(), 100);
    assert!(items.iter().all(|item| text(item, "/metadata/resourceVersion") == revision.to_string()));
    let before = cluster.get(&format!("/asof/{}{MAPS}", revision - 1)).await;
    assert_eq!(before.pointer("/items"), Some(&json!([])));
}
