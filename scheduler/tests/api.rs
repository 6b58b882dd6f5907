//! The scheduler against the real API server, in one process.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{sync::Arc, time::Duration};

use apiserver::{Config as ServerConfig, Server, User};
use client::{Caches, Client};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    client: Client,
    _data: tempfile::TempDir,
    _stop: DropGuard,
}

impl World {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::open(ServerConfig {
            data_dir: data.path().to_owned(),
            store: Arc::new(store::memory::Memory::new()),
            members: None,
            history: None,
            advertise: Vec::new(),
            names: Vec::new(),
            signing_duration: apiserver::pki::NODE_LIFE,
            url: "https://127.0.0.1:6443".into(),
        })
        .unwrap();
        let user = User::new("kubernetes-admin", &["system:masters"]);
        let client = client::local::client(server.local(user), axum::body::Body::new);
        let stop = CancellationToken::new();
        let token = stop.clone();
        tokio::spawn(async move { server.serve(Vec::new(), token).await });
        let world = Self { client, _data: data, _stop: stop.clone().drop_guard() };
        world.account().await;
        let config = scheduler::Config::default();
        tokio::spawn(scheduler::run(Caches::new(world.client.clone()), config, stop));
        world
    }

    /// The account that pods run as: a controller's work, which does not run here. Waits until the namespace is there.
    async fn account(&self) {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), "default");
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("default".into());
        let made = async {
            while accounts.create(&PostParams::default(), &account).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, made).await.unwrap();
    }

    async fn node(&self, name: &str, cpu: &str) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let has = json!({"cpu": cpu, "memory": "64Gi", "pods": "110"});
        let status = json!({"status": {"capacity": has, "allocatable": has}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn pod(&self, name: &str, cpu: &str) {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [
                {"name": "main", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]},
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    async fn wait(&self, name: &str, what: impl Fn(&Pod) -> bool) -> Pod {
        let condition = |pod: Option<&Pod>| pod.is_some_and(&what);
        let waited = tokio::time::timeout(PATIENCE, await_condition(self.pods(), name, condition));
        waited.await.expect("in time").unwrap().unwrap()
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn condition(pod: &Pod) -> Option<(&str, &str)> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled")?;
    Some((condition.status.as_str(), condition.message.as_deref().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_no_node_can_take_says_why_and_is_bound_when_one_can() {
    let world = World::start().await;
    world.node("small", "1").await;
    world.pod("web", "2").await;
    let why = "0/1 nodes are available: 1 Insufficient cpu.";
    world.wait("web", |p| condition(p) == Some(("False", why))).await;
    world.node("large", "4").await;
    let pod = world.wait("web", |p| node_of(p).is_some()).await;
    assert_eq!((node_of(&pod), condition(&pod).map(|c| c.0)), (Some("large"), Some("True")));
    let told = async {
        let events = Api::<Event>::namespaced(world.client.clone(), "default");
        loop {
            let list = events.list(&ListParams::default().fields("involvedObject.name=web")).await.unwrap();
            let reasons: Vec<_> = list.iter().filter_map(|e| Some((e.reason.clone()?, e.message.clone()?))).collect();
            let has = |reason: &str, message: &str| reasons.iter().any(|(r, m)| r == reason && m == message);
            if has("FailedScheduling", why) && has("Scheduled", "Successfully assigned default/web to large") {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_are_spread_and_no_node_is_given_too_much() {
    let (nodes, pods) = (20, 200);
    let world = World::start().await;
    let numbers = stream::iter(0..nodes);
    numbers
        .for_each_concurrent(16, |n| {
            let world = &world;
            async move { world.node(&format!("n{n}"), "1").await }
        })
        .await;
    let numbers = stream::iter(0..pods);
    numbers
        .for_each_concurrent(16, |n| {
            let world = &world;
            async move { world.pod(&format!("p{n}"), "100m").await }
        })
        .await;
    let all = async {
        loop {
            let list = world.pods().list(&ListParams::default()).await.unwrap();
            let bound: Vec<_> = list.iter().filter_map(|p| node_of(p).map(str::to_owned)).collect();
            if bound.len() == pods {
                return bound;
            }
            tokio::task::yield_now().await;
        }
    };
    let bound = tokio::time::timeout(PATIENCE, all).await.unwrap();
    for n in 0..nodes {
        assert_eq!(bound.iter().filter(|b| **b == format!("n{n}")).count(), pods / nodes, "n{n}");
    }
}
