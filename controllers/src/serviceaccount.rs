//! What every namespace has: the ServiceAccount `default`, and the authority's certificate for its Pods.
//!
//! Follows upstream's `serviceaccounts_controller.go` and `rootcacertpublisher`.

use std::collections::BTreeMap;

use client::{Caches, Controller, During, Error, Key, Next, Reader, Reconcile};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio_util::sync::CancellationToken;

/// The ServiceAccount of Pods that name none.
pub const DEFAULT: &str = "default";

/// The ConfigMap that holds the authority's certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// Its only entry.
const CA_KEY: &str = "ca.crt";

struct ServiceAccounts {
    client: kube::Client,
    namespaces: Reader<Namespace>,
    accounts: Reader<ServiceAccount>,
    maps: Reader<ConfigMap>,
    ca: String,
}

/// Runs the controller until `shutdown`. `ca` is the authority's certificate, PEM.
pub async fn run(caches: Caches, ca: String, shutdown: CancellationToken) {
    let accounts = caches.reader_of_fields::<ServiceAccount>(&format!("metadata.name={DEFAULT}"));
    let maps = caches.reader_of_fields::<ConfigMap>(&format!("metadata.name={ROOT_CA}"));
    let controller = ServiceAccounts {
        client: caches.client().clone(),
        namespaces: caches.reader(),
        accounts: accounts.clone(),
        maps: maps.clone(),
        ca,
    };
    let namespace = |meta: &ObjectMeta| vec![Key::new("", meta.namespace.clone().unwrap_or_default())];
    Controller::new("serviceaccount", &caches, controller)
        .watches_in(&accounts, move |account| namespace(&account.metadata))
        .watches_in(&maps, move |map| namespace(&map.metadata))
        .run(shutdown)
        .await;
}

impl Reconcile for ServiceAccounts {
    type Object = Namespace;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let alive = self.namespaces.get(key).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
        if !alive {
            return Ok(Next::AwaitChange);
        }
        let done = match self.account(&key.name).await {
            Ok(()) => self.map(&key.name).await,
            failed => failed,
        };
        match done {
            // Created a moment ago, or not to be created any more: the cache will say.
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Next::AwaitChange),
            done => done.map(|()| Next::AwaitChange),
        }
    }
}

impl ServiceAccounts {
    async fn account(&self, namespace: &str) -> Result<(), Error> {
        let key = Key::new(namespace, DEFAULT);
        if self.accounts.get(&key).is_some() {
            return Ok(());
        }
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let account = ServiceAccount { metadata: meta(&key), ..ServiceAccount::default() };
        match api.create(&PostParams::default(), &account).await.during::<ServiceAccount>("create", &key) {
            Err(error) if error.is_already_exists() => Ok(()),
            done => done.map(drop),
        }
    }

    async fn map(&self, namespace: &str) -> Result<(), Error> {
        let key = Key::new(namespace, ROOT_CA);
        let data = BTreeMap::from([(CA_KEY.to_owned(), self.ca.clone())]);
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let Some(seen) = self.maps.get(&key) else {
            let map = ConfigMap { metadata: meta(&key), data: Some(data), ..ConfigMap::default() };
            return api.create(&PostParams::default(), &map).await.during::<ConfigMap>("create", &key).map(drop);
        };
        if seen.data.as_ref() == Some(&data) {
            return Ok(());
        }
        let map = ConfigMap { data: Some(data), ..seen.as_ref().clone() };
        api.replace(ROOT_CA, &PostParams::default(), &map).await.during::<ConfigMap>("update", &key).map(drop)
    }
}

fn meta(key: &Key) -> ObjectMeta {
    ObjectMeta { name: Some(key.name.clone()), namespace: Some(key.namespace.clone()), ..ObjectMeta::default() }
}
