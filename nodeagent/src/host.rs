//! What all pods of a node share: its parts, and who is here.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use client::{Key, Reader, events::Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use kube::{Client, Resource};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    Config, field::Place, images::Images, network::Network, observed::Seen, runtime::Runtime, sources::Sources,
    storage::Storage,
};

/// A node's parts.
pub struct Host {
    /// Its settings.
    pub config: Config,
    /// What pods are told of it.
    pub place: Place,
    /// The API.
    pub client: Client,
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// The network.
    pub network: Arc<dyn Network>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Files.
    pub storage: Arc<dyn Storage>,
    /// ConfigMaps, Secrets, tokens.
    pub sources: Arc<Sources>,
    /// Services, for the environment of containers.
    pub services: Reader<Service>,
    /// Tells users.
    pub recorder: Recorder,
    /// Who is here.
    pub guests: Guests,
}

impl Host {
    /// The node's addresses as text, primary first.
    pub fn addresses(&self) -> &[String] {
        &self.place.host_ips
    }
}

/// How a pod and its containers are just now.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The object.
    pub pod: Arc<Pod>,
    /// Its containers, as they change.
    pub members: watch::Receiver<Arc<BTreeMap<String, Seen>>>,
}

/// The pods of the node by name, for those who ask it directly.
#[derive(Default)]
pub struct Guests {
    by_key: RwLock<AHashMap<Key, Guest>>,
}

impl Guests {
    /// The pod of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Guest> {
        self.by_key.read().get(&Key::new(namespace, name)).cloned()
    }

    /// All of them, in no order.
    pub fn list(&self) -> Vec<Guest> {
        self.by_key.read().values().cloned().collect()
    }

    /// Makes a pod known, or known anew.
    pub fn put(&self, guest: Guest) {
        self.by_key.write().insert(Key::of(guest.pod.as_ref()), guest);
    }

    /// Forgets a pod, unless another one has taken its name.
    pub fn remove(&self, pod: &Pod) {
        let key = Key::of(pod);
        let mut all = self.by_key.write();
        if all.get(&key).is_some_and(|g| g.pod.metadata.uid == pod.metadata.uid) {
            all.remove(&key);
        }
    }
}

/// A reference to one container of a pod, for events.
pub fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let spec = pod.spec.as_ref();
    let init = spec.is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == container));
    let list = if init { "initContainers" } else { "containers" };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..pod.object_ref(&()) }
}
