//! Which nodes have pods that refer to an object: what a node's reads are allowed by (upstream's `graph.go`).
//!
//! The index is brought up to date when it is asked. It takes from the pods' cache what changed since it was asked last, and
//! reads all pods anew only when that past is forgotten.

use std::sync::Arc;

use ahash::AHashMap;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};
use parking_lot::Mutex;
use store::Revision;

use crate::{
    cache::{Cache, KindCache},
    item::Item,
    registry::downcast,
};

/// The plurals of what pods refer to.
pub const CONFIG_MAPS: &str = "configmaps";
/// See [`CONFIG_MAPS`].
pub const SECRETS: &str = "secrets";
/// See [`CONFIG_MAPS`].
pub const ACCOUNTS: &str = "serviceaccounts";

/// An object that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Its plural.
    pub resource: &'static str,
    /// Its namespace, which is the pod's.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The index.
#[derive(Default)]
pub struct References {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// All changes of pods up to and including this revision are in.
    revision: Revision,
    /// By the pod's id: its node, and what it refers to. Pods without a node are not here.
    pods: AHashMap<Arc<str>, (String, Vec<Reference>)>,
    /// How many pods of each node refer to the object.
    nodes: AHashMap<Reference, AHashMap<String, usize>>,
}

impl References {
    /// Whether a pod that is bound to the node refers to the object.
    pub fn holds(&self, cache: &Cache, node: &str, to: &Reference) -> bool {
        let Some(pods) = api::Kind::of::<Pod>().and_then(|kind| cache.kind(kind)) else { return false };
        let mut state = self.state.lock();
        state.catch_up(pods);
        state.nodes.get(to).is_some_and(|nodes| nodes.contains_key(node))
    }
}

impl State {
    fn catch_up(&mut self, pods: &KindCache) {
        if self.revision == pods.version() {
            return;
        }
        let Ok(changes) = pods.since(self.revision) else {
            let snapshot = pods.snapshot(0);
            *self = Self { revision: snapshot.revision, ..Self::default() };
            snapshot.objects.values().for_each(|item| self.add(pods, item));
            return;
        };
        for change in changes {
            if let Some(old) = &change.old {
                self.remove(&old.id);
            }
            if let Some(new) = &change.new {
                self.add(pods, new);
            }
            self.revision = change.revision;
        }
    }

    fn add(&mut self, pods: &KindCache, item: &Item) {
        let object = item.decode(&*pods.entry).ok();
        let Some(spec) = object.as_deref().and_then(downcast::<Pod>).and_then(|pod| pod.spec.as_ref()) else { return };
        let Some(node) = spec.node_name.as_ref().filter(|node| !node.is_empty()) else { return };
        let references = references(item.namespace(), spec);
        for reference in &references {
            *self.nodes.entry(reference.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.pods.insert(Arc::clone(&item.id), (node.clone(), references));
    }

    fn remove(&mut self, id: &str) {
        let Some((node, references)) = self.pods.remove(id) else { return };
        for reference in references {
            let Some(nodes) = self.nodes.get_mut(&reference) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
            }
            nodes.retain(|_, count| *count > 0);
            if nodes.is_empty() {
                self.nodes.remove(&reference);
            }
        }
    }
}

type Found<'a> = Vec<(&'static str, &'a str)>;

/// Everything that a pod refers to, each once.
fn references(namespace: &str, spec: &PodSpec) -> Vec<Reference> {
    let mut found = vec![(ACCOUNTS, spec.service_account_name.as_deref().unwrap_or("default"))];
    found.extend(spec.image_pull_secrets.iter().flatten().map(|pull| (SECRETS, pull.name.as_str())));
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        environment(container.env.as_deref(), container.env_from.as_deref(), &mut found);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        environment(container.env.as_deref(), container.env_from.as_deref(), &mut found);
    }
    spec.volumes.iter().flatten().for_each(|each| volume(each, &mut found));
    found.sort_unstable();
    found.dedup();
    let named = found.into_iter().filter(|(_, name)| !name.is_empty());
    named.map(|(resource, name)| Reference { resource, namespace: namespace.into(), name: name.into() }).collect()
}

fn environment<'a>(env: Option<&'a [EnvVar]>, from: Option<&'a [EnvFromSource]>, found: &mut Found<'a>) {
    for source in from.into_iter().flatten() {
        found.extend(source.config_map_ref.iter().map(|r| (CONFIG_MAPS, r.name.as_str())));
        found.extend(source.secret_ref.iter().map(|r| (SECRETS, r.name.as_str())));
    }
    for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.iter().map(|r| (CONFIG_MAPS, r.name.as_str())));
        found.extend(source.secret_key_ref.iter().map(|r| (SECRETS, r.name.as_str())));
    }
}

fn volume<'a>(volume: &'a Volume, found: &mut Found<'a>) {
    found.extend(volume.config_map.iter().map(|c| (CONFIG_MAPS, c.name.as_str())));
    found.extend(volume.secret.iter().filter_map(|s| Some((SECRETS, s.secret_name.as_deref()?))));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        found.extend(source.config_map.iter().map(|c| (CONFIG_MAPS, c.name.as_str())));
        found.extend(source.secret.iter().map(|s| (SECRETS, s.name.as_str())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_refers_to_all_that_its_containers_and_volumes_name() {
        let spec = serde_json::json!({
            "serviceAccountName": "robot",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}},
            ]}],
            "initContainers": [{"name": "i", "envFrom": [
                {"secretRef": {"name": "whole"}}, {"configMapRef": {"name": "settings"}},
            ]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "debug"}}]}],
            "volumes": [
                {"name": "v", "secret": {"secretName": "mounted"}},
                {"name": "w", "configMap": {"name": "files"}},
                {"name": "x", "projected": {"sources": [{"secret": {"name": "p"}}, {"configMap": {"name": "q"}}]}},
                {"name": "y", "emptyDir": {}},
            ],
        });
        let found = references("shop", &serde_json::from_value(spec).unwrap());
        assert!(found.iter().all(|r| r.namespace == "shop"));
        let found: Vec<_> = found.iter().map(|r| format!("{}/{}", r.resource, r.name)).collect();
        assert_eq!(
            found,
            [
                "configmaps/files",
                "configmaps/q",
                "configmaps/settings",
                "secrets/debug",
                "secrets/key",
                "secrets/mounted",
                "secrets/p",
                "secrets/pull",
                "secrets/whole",
                "serviceaccounts/robot",
            ]
        );
    }
}
