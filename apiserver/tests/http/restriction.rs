//! What a node may read and write, and what it may not.

use apiserver::User;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    access::{CORE, text},
    cluster::{Cluster, SOON, ask},
};

/// A request of a node's.
async fn as_node(cluster: &Cluster, node: &str, request: (&str, &str, Value)) -> (StatusCode, Value) {
    let service = cluster.server.local(User::new(&format!("system:node:{node}"), &["system:nodes"]));
    let (method, path, body) = request;
    let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    ask(service, method, path, media_type, body).await
}

async fn get(cluster: &Cluster, node: &str, path: &str) -> StatusCode {
    as_node(cluster, node, ("GET", path, Value::Null)).await.0
}

fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

/// A cluster with a service account, and secrets of these names.
async fn cluster(secrets: &[&str]) -> Cluster {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.create(&format!("{CORE}/serviceaccounts"), account).await;
    for name in secrets {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        cluster.create(&format!("{CORE}/secrets"), secret).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_refer_to_for_as_long_as_they_do() {
    let cluster = cluster(&["env", "file", "pull", "other"]).await;
    let secret = |name: &str| format!("{CORE}/secrets/{name}");
    let everything = json!({
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"name": "i", "image": "x", "envFrom": [{"secretRef": {"name": "env"}}]}],
        "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "file"}}]}}],
    });
    assert_eq!(get(&cluster, "n1", &secret("env")).await, StatusCode::FORBIDDEN);
    cluster.create(&format!("{CORE}/pods"), pod("p", &everything)).await;
    for name in ["env", "file", "pull"] {
        assert_eq!(get(&cluster, "n1", &secret(name)).await, StatusCode::OK, "{name}");
        assert_eq!(get(&cluster, "n2", &secret(name)).await, StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(get(&cluster, "n1", &secret("other")).await, StatusCode::FORBIDDEN);
    assert_eq!(get(&cluster, "n1", &format!("{CORE}/configmaps/kube-root-ca.crt")).await, StatusCode::NOT_FOUND);
    assert_eq!(get(&cluster, "n1", &format!("{CORE}/serviceaccounts/default")).await, StatusCode::OK);
    assert_eq!(get(&cluster, "n1", &format!("{CORE}/secrets")).await, StatusCode::FORBIDDEN);
    assert_eq!(
        get(&cluster, "n1", &format!("{CORE}/secrets?fieldSelector=metadata.name%3Denv&watch=true&timeoutSeconds=1"))
            .await,
        StatusCode::OK
    );
    // two pods refer to it, then one, then none
    cluster.create(&format!("{CORE}/pods"), pod("q", &json!({"imagePullSecrets": [{"name": "pull"}]}))).await;
    for gone in ["p", "q"] {
        assert_eq!(get(&cluster, "n1", &secret("pull")).await, StatusCode::OK, "before {gone} is gone");
        let now = json!({"gracePeriodSeconds": 0});
        assert_eq!(cluster.ask("DELETE", &format!("{CORE}/pods/{gone}"), now).await.0, StatusCode::OK);
    }
    // a yes is given by what the server has seen, which is a moment behind what it has done
    for name in ["pull", "env"] {
        let deadline = tokio::time::Instant::now() + SOON;
        while get(&cluster, "n1", &secret(name)).await != StatusCode::FORBIDDEN {
            assert!(tokio::time::Instant::now() < deadline, "{name} can still be read");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_and_touches_its_own_pods_alone() {
    let cluster = cluster(&[]).await;
    let pods = format!("{CORE}/pods");
    cluster.create(&pods, pod("p", &json!({}))).await;
    assert_eq!(get(&cluster, "n1", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await, StatusCode::OK);
    assert_eq!(get(&cluster, "n1", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await, StatusCode::FORBIDDEN);
    assert_eq!(get(&cluster, "n1", "/api/v1/pods").await, StatusCode::FORBIDDEN);
    assert_eq!(get(&cluster, "n1", &format!("{pods}/p")).await, StatusCode::OK);
    assert_eq!(get(&cluster, "n2", &format!("{pods}/p")).await, StatusCode::FORBIDDEN);
    let (path, phase) = (format!("{pods}/p/status"), json!({"status": {"phase": "Running"}}));
    assert_eq!(as_node(&cluster, "n2", ("PATCH", &path, phase.clone())).await.0, StatusCode::FORBIDDEN);
    assert_eq!(as_node(&cluster, "n1", ("PATCH", &path, phase)).await.0, StatusCode::OK);
    let own = pod("own", &json!({}));
    let (code, status) = as_node(&cluster, "n1", ("POST", &pods, own)).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    let (path, now) = (format!("{pods}/p"), json!({"gracePeriodSeconds": 0}));
    assert_eq!(as_node(&cluster, "n2", ("DELETE", &path, now.clone())).await.0, StatusCode::FORBIDDEN);
    assert_eq!(as_node(&cluster, "n1", ("DELETE", &path, now)).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_nobody_but_itself() {
    let cluster = cluster(&[]).await;
    let refused = |said: &(StatusCode, Value), expected: &str| {
        assert_eq!(said.0, StatusCode::FORBIDDEN, "{}", said.1);
        assert!(text(&said.1, "/message").contains(expected), "expected {expected:?} in {}", said.1);
    };
    let node = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let nodes = "/api/v1/nodes";
    let other = as_node(&cluster, "n1", ("POST", nodes, node("n2", json!({})))).await;
    refused(&other, "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"");
    let trusted = json!({"disk": "fast", "node-restriction.kubernetes.io/trusted": "yes"});
    let trusted = as_node(&cluster, "n1", ("POST", nodes, node("n1", trusted))).await;
    refused(&trusted, "is not allowed to set the following labels: node-restriction.kubernetes.io/trusted");
    let taint = |key: &str| json!([{"key": key, "effect": "NoSchedule"}]);
    let mut own = node("n1", json!({"disk": "fast", "kubernetes.io/hostname": "n1"}));
    own.as_object_mut().unwrap().insert("spec".into(), json!({"taints": taint("starting")}));
    let made = as_node(&cluster, "n1", ("POST", nodes, own)).await;
    assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
    let path = format!("{nodes}/n1");
    let change = |body: Value| as_node(&cluster, "n1", ("PATCH", &path, body));
    refused(&change(json!({"spec": {"taints": []}})).await, "node \"n1\" is not allowed to modify taints");
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    refused(&change(role).await, "is not allowed to modify labels: node-role.kubernetes.io/control-plane");
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"}]);
    let owner = json!({"metadata": {"ownerReferences": owner}});
    refused(&change(owner).await, "node \"n1\" is not allowed to modify ownerReferences");
    let said = change(json!({"metadata": {"labels": {"disk": "slow"}}, "spec": {"taints": taint("starting")}})).await;
    assert_eq!(said.0, StatusCode::OK, "{}", said.1);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease =
        |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    refused(&as_node(&cluster, "n1", ("POST", leases, lease("n2"))).await, "same name as the requesting node");
    assert_eq!(as_node(&cluster, "n1", ("POST", leases, lease("n1"))).await.0, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_given_tokens_that_die_with_its_pods() {
    let cluster = cluster(&["s"]).await;
    let made = cluster.create(&format!("{CORE}/pods"), pod("p", &json!({}))).await;
    let uid = text(&made, "/metadata/uid");
    let path = format!("{CORE}/serviceaccounts/default/token");
    let token = |node: &'static str, to: Value| {
        let request = json!({"spec": {"boundObjectRef": to}});
        as_node(&cluster, node, ("POST", &path, request))
    };
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let (code, status) = token("n1", bound.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{status}");
    for (node, to, expected) in [
        ("n1", Value::Null, "node requested token not bound to a pod"),
        ("n1", json!({"kind": "Secret", "name": "s"}), "node requested token not bound to a pod"),
        ("n1", json!({"kind": "Pod", "name": "p"}), "node requested token with a pod binding without a uid"),
        ("n2", bound, "no relationship found between node 'n2' and this serviceaccount"),
    ] {
        let (code, status) = token(node, to).await;
        assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
        assert!(text(&status, "/message").contains(expected), "expected {expected:?} in {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_evicted() {
    let cluster = cluster(&[]).await;
    let pods = format!("{CORE}/pods");
    cluster.create(&pods, pod("p", &json!({}))).await;
    let eviction = |name: &str, options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    let path = format!("{pods}/p/eviction");
    assert_eq!(cluster.ask("POST", &path, eviction("q", json!({}))).await.0, StatusCode::BAD_REQUEST);
    let elsewhere = as_node(&cluster, "n2", ("POST", &path, eviction("p", json!({})))).await;
    assert_eq!(elsewhere.0, StatusCode::FORBIDDEN, "{}", elsewhere.1);
    cluster.create(&path, eviction("p", json!({"dryRun": ["All"]}))).await;
    let alive = cluster.get(&format!("{pods}/p")).await;
    assert_eq!(alive.pointer("/metadata/deletionTimestamp"), None);
    let said = cluster.create(&path, eviction("p", json!({"gracePeriodSeconds": 7}))).await;
    assert_eq!(text(&said, "/status"), "Success");
    let going = cluster.get(&format!("{pods}/p")).await;
    assert_eq!(going.pointer("/metadata/deletionGracePeriodSeconds"), Some(&json!(7)));
    cluster.create(&path, eviction("p", json!({"gracePeriodSeconds": 0}))).await;
    let gone = cluster.ask("POST", &path, eviction("p", json!({}))).await;
    assert_eq!(gone.0, StatusCode::NOT_FOUND, "{}", gone.1);
}
