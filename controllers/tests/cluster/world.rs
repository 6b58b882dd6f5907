//! An API server, the controllers, and ways to wait for what they do.

use std::{sync::Arc, time::Duration};

use apiserver::{Config, Server, User};
use client::{Caches, Client, Object, Reader};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub admin: Client,
    pub caches: Caches,
    shutdown: CancellationToken,
    _data: tempfile::TempDir,
}

impl World {
    pub async fn new(change: impl FnOnce(&mut controllers::Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Server::open(Config {
            data_dir: data.path().to_owned(),
            store: Arc::new(store::Memory::new()),
            members: None,
            history: None,
            advertise: vec!["127.0.0.1:6443".parse().unwrap()],
            names: Vec::new(),
            signing_duration: apiserver::pki::NODE_LIFE,
            url: "https://127.0.0.1:6443".into(),
        });
        let server = Arc::new(server.unwrap());
        let shutdown = CancellationToken::new();
        let (serving, ended) = (Arc::clone(&server), shutdown.clone());
        tokio::spawn(async move { serving.serve(Vec::new(), ended).await });
        let client = |user| client::local::client(server.local(user), axum::body::Body::new);
        let admin = client(User::new("kubernetes-admin", &["system:masters"]));
        let controllers = client(User::new("system:kube-controller-manager", &[]));
        let mut config = controllers::Config::new("the authority");
        change(&mut config);
        tokio::spawn(controllers::run(Caches::new(controllers), config, shutdown.clone()));
        Self { caches: Caches::new(admin.clone()), admin, shutdown, _data: data }
    }

    pub fn api<K: Object + kube::Resource<Scope = NamespaceResourceScope>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// Creates a namespace, with what every namespace has.
    pub async fn namespace(&self, name: &str) {
        use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
        let namespaces = Api::<Namespace>::all(self.admin.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let made = async || namespaces.create(&PostParams::default(), &namespace).await;
        // The very first requests may come before the server has read its store.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(error) = made().await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::task::yield_now().await;
        }
        self.until::<ServiceAccount>("the default account", |all| {
            all.iter().any(|a| meta(a.as_ref()) == (name, "default"))
        })
        .await;
        self.until::<ConfigMap>("the authority's certificate", |all| {
            all.iter().any(|m| meta(m.as_ref()) == (name, "kube-root-ca.crt"))
        })
        .await;
    }

    /// Waits until the objects of a kind are as `done` says.
    pub async fn until<K: Object + serde::Serialize>(
        &self,
        what: &str,
        mut done: impl FnMut(&[Arc<K>]) -> bool,
    ) -> Vec<Arc<K>> {
        let reader: Reader<K> = self.caches.reader();
        let mut changes = reader.subscribe();
        let wait = async {
            reader.synced().await;
            while !done(&reader.list()) {
                changes.recv().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let objects: Vec<_> = reader.list().iter().map(|o| serde_json::to_string(o.as_ref()).unwrap()).collect();
            panic!("waited in vain for {what}:\n{}", objects.join("\n"));
        }
        reader.list()
    }

    /// Patches a namespaced object.
    pub async fn patch<K: Object + kube::Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
        name: &str,
        patch: Value,
    ) {
        let api = self.api::<K>(namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn meta<K: Object>(object: &K) -> (&str, &str) {
    let meta = object.meta();
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
