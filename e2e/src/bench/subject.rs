//! What is measured: a cluster of our own, or whatever API server a kubeconfig names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};

use super::cost::{family, words};
use crate::Stage;

/// The namespace that benchmarks work in.
pub const NAMESPACE: &str = "bench";

/// What is measured.
pub struct Subject {
    /// Our own cluster, when it is one.
    pub stage: Option<Stage>,
    kubeconfig: PathBuf,
}

impl Subject {
    /// A cluster of our own.
    pub fn own(nodes: usize) -> Result<Self> {
        let stage = Stage::raise(nodes, &[])?;
        Ok(Self { kubeconfig: stage.cluster.kubeconfig(), stage: Some(stage) })
    }

    /// Somebody's API server.
    pub fn of(kubeconfig: &Path) -> Self {
        Self { stage: None, kubeconfig: kubeconfig.to_owned() }
    }

    /// The credentials.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A connection of its own.
    pub async fn client(&self) -> Result<Client> {
        client::kubeconfig::client(&self.kubeconfig, None).await.context("use the kubeconfig")
    }

    /// Makes the namespace that benchmarks work in.
    pub async fn prepare(&self) -> Result<Client> {
        let client = self.client().await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.into());
        match namespaces.create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("make the namespace"),
        }
        Ok(client)
    }

    /// Removes the namespace and all in it.
    pub async fn tidy(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        namespaces.delete(NAMESPACE, &DeleteParams::background()).await.context("remove the namespace")?;
        kube::runtime::wait::await_condition(namespaces, NAMESPACE, |n: Option<&Namespace>| n.is_none())
            .await
            .context("wait until the namespace is gone")?;
        Ok(())
    }

    /// The server's process, when it is ours.
    pub fn server_pids(&self) -> Vec<u32> {
        self.stage.iter().filter_map(|s| s.cluster.pids().0).collect()
    }

    /// Agents and supervisors, when they are ours.
    pub fn node_pids(&self, word: &str) -> Vec<u32> {
        let inits: Vec<u32> = self.stage.iter().flat_map(|s| s.cluster.pids().1).flatten().collect();
        family(&inits).into_iter().filter(|pid| words(*pid).get(1).is_some_and(|w| w == word)).collect()
    }
}
