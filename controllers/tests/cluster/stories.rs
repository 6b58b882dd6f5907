//! What a user does, and what comes of it.

use std::time::{Duration, Instant};

use controllers::deployment::condition;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{nodes, world::World};

fn deployment(replicas: i32) -> Deployment {
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "registry.local/web:v1"}]},
            },
        },
    });
    serde_json::from_value(deployment).unwrap()
}

fn is_complete(deployment: &Deployment, replicas: i32) -> bool {
    let Some(status) = &deployment.status else { return false };
    status.observed_generation == deployment.metadata.generation
        && status.available_replicas == Some(replicas)
        && status.updated_replicas == Some(replicas)
        && status.replicas == Some(replicas)
        && condition::get(status, condition::PROGRESSING)
            .is_some_and(|c| c.reason.as_deref() == Some(condition::COMPLETE))
}

/// Waits for the end of the rollout of what the API holds now, which the cache may not show yet.
async fn complete(world: &World, replicas: i32) {
    let wanted = world.api::<Deployment>("web").get("web").await.unwrap().metadata.generation;
    let done = |d: &Deployment| d.metadata.generation >= wanted && is_complete(d, replicas);
    world.until::<Deployment>("the rollout", |all| all.len() == 1 && done(&all[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_rolled_out_scaled_changed_undone_and_removed() {
    let world = World::new(|_| {}).await;
    world.namespace("web").await;
    nodes::start(&world, &["a"]).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let service: Service = serde_json::from_value(service).unwrap();
    world.api::<Service>("web").create(&PostParams::default(), &service).await.unwrap();
    world.api::<Deployment>("web").create(&PostParams::default(), &deployment(3)).await.unwrap();
    complete(&world, 3).await;
    endpoints(&world, 3).await;

    world.patch::<Deployment>("web", "web", json!({"spec": {"replicas": 5}})).await;
    complete(&world, 5).await;
    endpoints(&world, 5).await;

    let image = |tag: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": format!("registry.local/web:{tag}")}]}}}});
    world.patch::<Deployment>("web", "web", image("v2")).await;
    complete(&world, 5).await;
    world.patch::<Deployment>("web", "web", image("v1")).await;
    complete(&world, 5).await;
    // Going back gives the first one a new revision.
    let revisions = |all: &[std::sync::Arc<ReplicaSet>]| {
        let revision = |s: &ReplicaSet| s.annotations()["deployment.kubernetes.io/revision"].clone();
        let mut all: Vec<_> = all.iter().map(|s| (revision(s), s.spec.replicas.unwrap())).collect();
        all.sort();
        all == [("2".to_owned(), 0), ("3".to_owned(), 5)]
    };
    world.until::<ReplicaSet>("the revisions", revisions).await;
    world
        .until::<Deployment>("the revision", |all| {
            all[0].annotations().get("deployment.kubernetes.io/revision").is_some_and(|r| r == "3")
        })
        .await;

    world.api::<Deployment>("web").delete("web", &DeleteParams::background()).await.unwrap();
    world.until::<Pod>("no pod", |all| all.is_empty()).await;
    world.until::<ReplicaSet>("no replica set", |all| all.is_empty()).await;
    endpoints(&world, 0).await;
}

async fn endpoints(world: &World, count: usize) {
    let of_web = |slices: &[std::sync::Arc<EndpointSlice>]| -> usize {
        let slices = slices.iter().filter(|s| s.labels().get("kubernetes.io/service-name").is_some_and(|n| n == "web"));
        let endpoints = slices.flat_map(|s| s.endpoints.clone().unwrap_or_default());
        endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
    };
    world.until::<EndpointSlice>("the endpoints", |all| of_web(all) == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_in_the_foreground_and_orphaning_keep_their_order() {
    let world = World::new(|_| {}).await;
    world.namespace("web").await;
    nodes::start(&world, &["a"]).await;
    let deployments = world.api::<Deployment>("web");
    deployments.create(&PostParams::default(), &deployment(2)).await.unwrap();
    complete(&world, 2).await;
    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
    world.until::<Deployment>("no deployment", |all| all.is_empty()).await;
    let left = world.api::<Pod>("web").list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.len(), 0, "the deployment goes after its pods");

    deployments.create(&PostParams::default(), &deployment(2)).await.unwrap();
    complete(&world, 2).await;
    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    let free = |all: &[std::sync::Arc<ReplicaSet>]| all.len() == 1 && all[0].owner_references().is_empty();
    world.until::<ReplicaSet>("an orphaned replica set", free).await;
    world.until::<Deployment>("no deployment", |all| all.is_empty()).await;
    deployments.create(&PostParams::default(), &deployment(2)).await.unwrap();
    world
        .until::<ReplicaSet>("an adopted replica set", |all| all.len() == 1 && all[0].owner_references().len() == 1)
        .await;
    complete(&world, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_takes_all_that_is_in_it_along() {
    let world = World::new(|_| {}).await;
    world.namespace("web").await;
    nodes::start(&world, &["a"]).await;
    world.api::<Deployment>("web").create(&PostParams::default(), &deployment(3)).await.unwrap();
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "held", "finalizers": ["test.local/held"]}})).unwrap();
    world.api::<ConfigMap>("web").create(&PostParams::default(), &map).await.unwrap();
    complete(&world, 3).await;
    let namespaces = Api::<Namespace>::all(world.admin.clone());
    namespaces.delete("web", &DeleteParams::default()).await.unwrap();
    let says = |all: &[std::sync::Arc<Namespace>]| {
        let conditions =
            all.iter().filter(|n| n.name_any() == "web").flat_map(|n| n.status.clone()).flat_map(|s| s.conditions);
        let mut messages = conditions.flatten().filter_map(|c| c.message);
        messages.any(|m| {
            m == "Some content in the namespace has finalizers remaining: test.local/held in 1 resource instances"
        })
    };
    world.until::<Namespace>("the reason why it stays", says).await;
    world.patch::<ConfigMap>("web", "held", json!({"metadata": {"finalizers": null}})).await;
    world.until::<Namespace>("no namespace", |all| all.iter().all(|n| n.name_any() != "web")).await;
    world.until::<Pod>("no pod", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_silent_node_are_replaced_elsewhere_and_removed_with_it() {
    let world = World::new(|config| {
        config.node_monitor_grace = Duration::from_secs(1);
        config.node_gone_grace = Duration::from_millis(200);
    })
    .await;
    world.namespace("web").await;
    let alive = nodes::start(&world, &["a", "b"]).await;
    let nodes = world.until::<Node>("two ranges", |all| all.len() == 2 && all.iter().all(|n| range(n).is_some())).await;
    assert_ne!(range(&nodes[0]), range(&nodes[1]));
    let mut quick = deployment(2);
    let tolerations = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
    ]);
    quick.spec.template.spec.as_mut().unwrap().tolerations = Some(serde_json::from_value(tolerations).unwrap());
    world.api::<Deployment>("web").create(&PostParams::default(), &quick).await.unwrap();
    complete(&world, 2).await;

    alive.lock().retain(|n| n != "a");
    let on = |node: &str, all: &[std::sync::Arc<Pod>], leaving: bool| {
        let on_it = all.iter().filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some(node));
        on_it.filter(|p| p.metadata.deletion_timestamp.is_some() == leaving).count()
    };
    world.until::<Pod>("replacements", |all| on("a", all, true) == 2 && on("b", all, false) == 2).await;
    complete(&world, 2).await;

    Api::<Node>::all(world.admin.clone()).delete("a", &DeleteParams::default()).await.unwrap();
    world.until::<Pod>("only the living", |all| on("a", all, true) == 0 && all.len() == 2).await;
}

fn range(node: &Node) -> Option<String> {
    node.spec.as_ref()?.pod_cidr.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pods_are_made_in_parallel() {
    let world = World::new(|_| {}).await;
    world.namespace("web").await;
    let start = Instant::now();
    world.api::<Deployment>("web").create(&PostParams::default(), &deployment(100)).await.unwrap();
    world.until::<Pod>("a hundred pods", |all| all.len() == 100).await;
    println!("100 pods after {:?}", start.elapsed());
}
