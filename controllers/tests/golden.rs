//! `testdata/<controller>/<case>.input.yaml`, the objects that are seen, and `<case>.plan.yaml`, what is planned.
//! `REWRITE=1` writes what is planned now.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::Arc};

use controllers::{endpointslice, node, replicaset};
use jiff::Timestamp;
use kube::core::Selector;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[test]
fn endpointslices() {
    golden("endpointslice", |docs| {
        let service = of("Service", docs).remove(0);
        let plan = endpointslice::plan::plan(&service, &shared(docs, "Pod"), &shared(docs, "EndpointSlice"));
        let names: Vec<_> = plan.delete.iter().map(|k| &k.name).collect();
        json!({"create": plan.create, "update": plan.update, "delete": names})
    });
}

#[test]
fn replicasets() {
    golden("replicaset", |docs| {
        let set: k8s_openapi::api::apps::v1::ReplicaSet = of("ReplicaSet", docs).remove(0);
        let selector: Selector = set.spec.selector.clone().try_into().unwrap();
        let pods = shared(docs, "Pod");
        let neighbours = replicaset::rank::neighbours(pods.iter().cloned());
        let seen =
            replicaset::Observed { set: &set, selector: &selector, pods: &pods, neighbours: &neighbours, now: now() };
        let plan = replicaset::plan(&seen);
        let names = |keys: &[client::Key]| keys.iter().map(|k| k.name.clone()).collect::<Vec<_>>();
        json!({
            "adopt": names(&plan.adopt), "release": names(&plan.release), "create": plan.create,
            "delete": names(&plan.delete), "status": plan.status, "again": plan.again.map(|d| d.as_secs()),
        })
    });
}

#[test]
fn nodes() {
    golden("node", |docs| {
        let seen = docs.iter().find(|d| d.get("kind").unwrap() == "Seen").unwrap();
        let flag = |name: &str| seen.get(name).unwrap().as_bool().unwrap();
        let plan = node::plan(&of("Node", docs).remove(0), flag("stale"), flag("evict"), now());
        json!({"conditions": plan.conditions, "taints": plan.taints, "podsNotReady": plan.pods_not_ready})
    });
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn of<K: DeserializeOwned>(kind: &str, docs: &[Value]) -> Vec<K> {
    let docs = docs.iter().filter(|d| d.get("kind").unwrap() == kind);
    docs.map(|d| serde_json::from_value(d.clone()).unwrap()).collect()
}

fn shared<K: DeserializeOwned>(docs: &[Value], kind: &str) -> Vec<Arc<K>> {
    of(kind, docs).into_iter().map(Arc::new).collect()
}

fn golden(controller: &str, plan: impl Fn(&[Value]) -> Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(controller);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(case) = path.to_str().unwrap().strip_suffix(".input.yaml") else { continue };
        let docs: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap();
        let planned = serde_saphyr::to_string(&plan(&docs)).unwrap();
        let expected = format!("{case}.plan.yaml");
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&expected, &planned).unwrap();
        } else {
            assert_eq!(planned, fs::read_to_string(&expected).unwrap(), "{expected}");
        }
        count += 1;
    }
    assert!(count > 0, "no case of {controller} found");
}
