//! Garbage: objects whose owners are all gone.
//!
//! Follows upstream's `pkg/controller/garbagecollector`. Every kind is watched by its metadata alone.
//!
//! # Guarantees
//! * An object is deleted only when each owner that it names is known to be gone: seen to be deleted, or asked for and not
//!   found under that uid.
//! * A deletion carries the uid and resource version that were judged: whoever changed the object meanwhile wins.
//!
//! # Caveats
//! * A namespaced owner of a cluster-scoped object, or of one in another namespace, cannot be looked up: such an object is
//!   left alone and named in the log.
//! * Events are not collected: they die of age.

use std::sync::Arc;

use api::{Kind, kinds::KINDS};
use client::{Caches, Controller, Error, Key, Next, OrGone, Reconcile};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, PartialObjectMeta, Patch, PatchParams, Preconditions, PropagationPolicy},
    runtime::{WatchStreamExt, watcher},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub mod decide;
pub mod graph;

use self::{
    decide::{Action, Policy, decide},
    graph::{Graph, Node, Uid},
};
use crate::kind::resource;

/// Objects judged at once.
pub const WORKERS: usize = 32;

/// Kinds that are not collected.
const IGNORED: [&str; 1] = ["Event"];

struct Collector {
    client: kube::Client,
    graph: Arc<Mutex<Graph>>,
}

/// Runs the collector until `shutdown`.
pub async fn run(caches: Caches, shutdown: CancellationToken) {
    let client = caches.client().clone();
    let graph = Arc::new(Mutex::new(Graph::default()));
    let (sender, mut uids) = mpsc::unbounded_channel::<Uid>();
    let kinds: Vec<_> = KINDS.iter().filter(|k| !IGNORED.contains(&k.kind)).collect();
    graph.lock().expect_kinds(kinds.len());
    let watches = futures::future::join_all(kinds.into_iter().map(|kind| {
        let (client, graph, sender) = (client.clone(), Arc::clone(&graph), sender.clone());
        async move { watch(kind, client, &graph, &sender).await }
    }));
    let keys = stream::poll_fn(move |cx| uids.poll_recv(cx)).map(|uid| Key::new("", uid));
    let collector = Collector { client, graph };
    let controller = Controller::of_keys("garbage", &caches, collector).also(keys).workers(WORKERS);
    tokio::join!(shutdown.run_until_cancelled(watches), controller.run(shutdown.clone()));
}

/// Keeps the graph as one kind is, and says which objects to judge.
async fn watch(kind: &'static Kind, client: kube::Client, graph: &Mutex<Graph>, changed: &mpsc::UnboundedSender<Uid>) {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &resource(kind));
    let events = watcher(api, watcher::Config::default()).backoff(client::cache::Retry::default());
    let mut events = std::pin::pin!(events);
    let mut listed = ahash::AHashSet::new();
    while let Some(event) = events.next().await {
        let mut graph = graph.lock();
        let uids = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                let node = Node::of(kind, &object.metadata);
                listed.insert(node.uid.clone());
                graph.apply(node)
            }
            Ok(watcher::Event::InitDone) => graph.listed(kind, &listed),
            Ok(watcher::Event::Apply(object)) => graph.apply(Node::of(kind, &object.metadata)),
            Ok(watcher::Event::Delete(object)) => graph.delete(&Node::of(kind, &object.metadata).uid),
            Err(error) => {
                tracing::debug!(kind = kind.kind, %error, "watch will be retried");
                Vec::new()
            }
        };
        drop(graph);
        // The receiver lives in the loop that ends together with this one: when it is gone nobody needs to judge.
        uids.into_iter().for_each(|uid| drop(changed.send(uid)));
    }
}

impl Reconcile for Collector {
    /// What it deletes most.
    type Object = Pod;

    /// The key's name is the uid of the object to judge.
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let uid = &key.name;
        let unsure = self.graph.lock().unsure_owners(uid);
        for (owner, namespace) in unsure {
            if !self.exists(&owner, namespace.as_deref()).await? {
                self.graph.lock().is_gone(&owner.uid);
            }
        }
        let (node, action) = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(uid) else { return Ok(Next::AwaitChange) };
            (node.clone(), decide(&graph, node))
        };
        self.apply(&node, action).await?;
        Ok(Next::AwaitChange)
    }
}

impl Collector {
    fn api(&self, kind: &Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|n| kind.namespaced() && !n.is_empty()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource(kind)),
            None => Api::all_with(self.client.clone(), &resource(kind)),
        }
    }

    /// Asks for an owner that no watch has shown. One of a kind that nobody serves counts as existing.
    async fn exists(&self, owner: &OwnerReference, namespace: Option<&str>) -> Result<bool, Error> {
        let Some(kind) = Kind::by_manifest(&owner.api_version, &owner.kind) else { return Ok(true) };
        if kind.namespaced() && namespace.is_none_or(str::is_empty) {
            tracing::warn!(owner = %owner.name, kind = %owner.kind, "a cluster-scoped object has a namespaced owner");
            return Ok(true);
        }
        let key = Key::new(namespace.unwrap_or_default(), owner.name.clone());
        let answer = self.api(kind, namespace).get_metadata_opt(&owner.name).await;
        let found = answer.map_err(failed("get", kind, &key))?;
        Ok(found.is_some_and(|o| o.metadata.uid.as_ref() == Some(&owner.uid)))
    }

    async fn apply(&self, node: &Node, action: Action) -> Result<(), Error> {
        match action {
            Action::Nothing => Ok(()),
            Action::Delete(policy) => self.delete(node, policy).await,
            Action::SetOwners(owners) => self.patch(node, &serde_json::json!({ "ownerReferences": owners })).await,
            Action::SetFinalizers(finalizers) => {
                self.patch(node, &serde_json::json!({ "finalizers": finalizers })).await
            }
            Action::Judge(uids) => {
                // They are dependents of an object that waits for them: no change of their own would bring them here.
                let nodes: Vec<_> = {
                    let graph = self.graph.lock();
                    let found = uids.iter().filter_map(|uid| graph.get(uid));
                    found.map(|n| (n.clone(), decide(&graph, n))).collect()
                };
                let all =
                    nodes.into_iter().map(|(node, action)| Box::pin(async move { self.apply(&node, action).await }));
                stream::iter(all.collect::<Vec<_>>()).buffer_unordered(WORKERS).try_collect::<()>().await
            }
            Action::Orphan(dependents) => {
                let all = dependents.into_iter().map(|(dependent, owners)| async move {
                    self.patch(&dependent, &serde_json::json!({ "ownerReferences": owners })).await
                });
                stream::iter(all.collect::<Vec<_>>()).buffer_unordered(WORKERS).try_collect::<()>().await?;
                self.patch(node, &serde_json::json!({ "finalizers": node.finalizers_without(graph::ORPHAN) })).await
            }
        }
    }

    async fn delete(&self, node: &Node, policy: Policy) -> Result<(), Error> {
        tracing::debug!(kind = node.kind.kind, object = %node.key, ?policy, "collecting garbage");
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(node.uid.clone()),
                resource_version: Some(node.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        let answer = self.api(node.kind, Some(&node.key.namespace)).delete(&node.key.name, &params).await;
        answer.map_err(failed("collect", node.kind, &node.key)).or_gone().map(drop)
    }

    async fn patch(&self, node: &Node, metadata: &serde_json::Value) -> Result<(), Error> {
        let mut metadata = metadata.clone();
        if let Some(fields) = metadata.as_object_mut() {
            fields.insert("uid".into(), node.uid.clone().into());
            fields.insert("resourceVersion".into(), node.resource_version.clone().into());
        }
        let patch = Patch::Merge(serde_json::json!({ "metadata": metadata }));
        let api = self.api(node.kind, Some(&node.key.namespace));
        let answer = api.patch_metadata(&node.key.name, &PatchParams::default(), &patch).await;
        answer.map_err(failed("change the owners of", node.kind, &node.key)).or_gone().map(drop)
    }
}

fn failed(operation: &'static str, kind: &Kind, key: &Key) -> impl FnOnce(kube::Error) -> Error + use<> {
    let (kind, key) = (kind.kind.to_owned(), key.clone());
    move |source| Error::Api { operation, kind, key, source: Box::new(source) }
}
