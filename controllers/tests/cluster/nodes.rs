//! Nodes without a runtime: they bind Pods, say that they run, and end those that are deleted.

use std::{sync::Arc, time::Duration};

use client::{Caches, Controller, Error, Key, Next, OrGone, Reconcile};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// Names of the Nodes that live.
pub type Alive = Arc<Mutex<Vec<String>>>;

struct Kubelets {
    caches: Caches,
    alive: Alive,
}

/// Registers Nodes, renews their Leases, and runs their Pods while they are alive.
pub async fn start(world: &World, names: &[&str]) -> Alive {
    let alive: Alive = Arc::new(Mutex::new(names.iter().map(|n| (*n).to_owned()).collect()));
    let nodes = Api::<Node>::all(world.admin.clone());
    for name in names {
        let node = json!({"metadata": {"name": name}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        tokio::spawn(renew(world.admin.clone(), (*name).to_owned(), Arc::clone(&alive)));
    }
    let kubelets = Kubelets { caches: world.caches.clone(), alive: Arc::clone(&alive) };
    tokio::spawn(Controller::new("kubelets", &world.caches, kubelets).workers(32).run(CancellationToken::new()));
    alive
}

async fn renew(client: kube::Client, name: String, alive: Alive) {
    let leases = Api::<Lease>::namespaced(client, "kube-node-lease");
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        if !alive.lock().contains(&name) {
            return;
        }
        let now = k8s_openapi::jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
        });
        leases.patch(&name, &PatchParams::apply("kubelet").force(), &Patch::Apply(lease)).await.ok();
    }
}

impl Reconcile for Kubelets {
    type Object = Pod;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.caches.reader::<Pod>().get(key) else { return Ok(Next::AwaitChange) };
        let api = Api::<Pod>::namespaced(self.caches.client().clone(), &key.namespace);
        let failed =
            |source| Error::Api { operation: "run", kind: "Pod".into(), key: key.clone(), source: Box::new(source) };
        let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.clone()) else {
            if pod.metadata.deletion_timestamp.is_some() {
                return Ok(Next::AwaitChange);
            }
            // The shortest name that lives: enough of a scheduler for what is told here.
            let Some(node) = self.pick() else { return Ok(Next::After(Duration::from_millis(50))) };
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": key.name}, "target": {"kind": "Node", "name": node}});
            let request =
                http::Request::post(format!("/api/v1/namespaces/{}/pods/{}/binding", key.namespace, key.name))
                    .header("content-type", "application/json")
                    .body(serde_json::to_vec(&binding).unwrap())
                    .unwrap();
            let bound = self.caches.client().request::<serde_json::Value>(request).await;
            bound.map_err(failed).or_gone()?;
            return Ok(Next::AwaitChange);
        };
        if !self.alive.lock().contains(&node) {
            return Ok(Next::AwaitChange);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let answer = api.delete(&key.name, &DeleteParams::default().grace_period(0)).await;
            return answer.map_err(failed).or_gone().map(|_| Next::AwaitChange);
        }
        if pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running") {
            return Ok(Next::AwaitChange);
        }
        let number = u32::from_str_radix(&pod.metadata.uid.as_deref().unwrap_or_default()[..4], 16).unwrap();
        let ip = format!("10.42.{}.{}", number / 250 % 250, number % 250 + 2);
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        let answer = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(status)).await;
        answer.map_err(failed).or_gone().map(|_| Next::AwaitChange)
    }
}

impl Kubelets {
    fn pick(&self) -> Option<String> {
        self.alive.lock().first().cloned()
    }
}
