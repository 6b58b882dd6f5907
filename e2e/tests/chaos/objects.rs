//! Clients of the Kubernetes API: each creates objects through one of the servers, and what was acknowledged must be there in the
//! end, on each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{Rack, stage::PATIENCE};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ListParams, ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use store::check::Nanos;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;

/// The least time between two creations through one server.
const PACE: Duration = Duration::from_millis(40);

/// How long a creation may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Creators, and what was acknowledged to them.
pub struct Objects {
    kubeconfigs: Vec<PathBuf>,
    acknowledged: Acknowledged,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// Names, with what each was created with, and when that was acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, Nanos>>>;

impl Objects {
    /// Begins to create them, through each server.
    pub fn begin(rack: &Rack, clients: &Clients) -> Result<Self> {
        ::client::config::install_crypto();
        let kubeconfigs: Vec<_> = rack.machines().iter().map(e2e::rack::Machine::kubeconfig).collect();
        let (acknowledged, stop) = (Acknowledged::default(), CancellationToken::new());
        let mut tasks = Vec::new();
        for (at, kubeconfig) in kubeconfigs.iter().cloned().enumerate() {
            let client = clients.run(connect(kubeconfig))??;
            let creating = create(client, at, acknowledged.clone(), clients.clock());
            let stop = stop.clone();
            tasks.push(clients.spawn(async move { stop.run_until_cancelled(creating).await.unwrap_or_default() }));
        }
        Ok(Self { kubeconfigs, acknowledged, stop, tasks })
    }

    /// Ends it, and looks for all that was acknowledged on each server. When each was.
    pub fn end(self, clients: &Clients) -> Result<Vec<Nanos>> {
        self.stop.cancel();
        self.tasks.into_iter().try_for_each(|task| clients.join(task))?;
        let acknowledged = self.acknowledged.clone();
        let acknowledged = clients.run(async move { acknowledged.lock().await.clone() })?;
        ensure!(!acknowledged.is_empty(), "no object was created");
        for (at, kubeconfig) in self.kubeconfigs.into_iter().enumerate() {
            let found = clients.run(async move { timeout(PATIENCE, list(kubeconfig)).await })?;
            let found = found.with_context(|| format!("server {at} does not list in time"))??;
            let lost: Vec<_> = acknowledged.keys().filter(|name| !found.contains(*name)).collect();
            ensure!(lost.is_empty(), "server {at} does not have what was acknowledged: {lost:?}");
        }
        Ok(acknowledged.into_values().collect())
    }
}

/// To this server alone: a user's connection would go to another one while it is down.
async fn connect(kubeconfig: PathBuf) -> Result<Client> {
    ::client::config::install_crypto();
    let file = Kubeconfig::read_from(kubeconfig).context("read a kubeconfig")?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.context("use a kubeconfig")?).context("use a kubeconfig")
}

async fn create(client: Client, server: usize, acknowledged: Acknowledged, clock: store::check::Clock) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut pace = interval(PACE);
    for number in 0_u64.. {
        pace.tick().await;
        let name = format!("through-{server}-{number}");
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = ConfigMap { metadata, ..ConfigMap::default() };
        // What is not acknowledged may be there or not: nobody asks again under the same name.
        if let Ok(Ok(_)) = timeout(ANSWER, api.create(&PostParams::default(), &object)).await {
            acknowledged.lock().await.insert(name, clock());
        }
    }
}

/// The names of all there are; asked again until it is answered.
async fn list(kubeconfig: PathBuf) -> Result<BTreeSet<String>> {
    let api: Api<ConfigMap> = Api::default_namespaced(connect(kubeconfig).await?);
    let mut pace = interval(PACE);
    loop {
        pace.tick().await;
        if let Ok(Ok(found)) = timeout(ANSWER, api.list(&ListParams::default())).await {
            return Ok(found.items.into_iter().filter_map(|object| object.metadata.name).collect());
        }
    }
}
