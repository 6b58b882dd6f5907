//! Connections with a user's kubeconfig, to the server that it names, or to another of that cluster.
//!
//! Of the others a kubeconfig tells in an extension of its cluster ([`api::members::EXTENSION`]); whoever knows of more says
//! so. An address that is wrong does no harm: a server must show a certificate of the cluster's authority.

use std::{path::Path, sync::Arc};

use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt, retry::RetryPolicy},
    config::{Cluster, KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

use crate::{
    config::{CONNECT, Error, Link, install_crypto, is_https},
    connector::{Connector, Noting},
    servers::Servers,
};

/// What a kubeconfig says of one cluster and one of its users.
pub struct Access {
    config: Config,
    told: Vec<String>,
}

/// A client for what the kubeconfig at `path` names, or one of its other contexts.
///
/// # Errors
/// When the file cannot be read, or names what is not there.
pub async fn client(path: &Path, context: Option<&str>) -> Result<Client, Error> {
    Ok(Access::read(path, context).await?.connect(&[])?.0)
}

impl Access {
    /// Reads the kubeconfig at `path`, in its current context or another.
    ///
    /// # Errors
    /// When the file cannot be read, or names what is not there.
    pub async fn read(path: &Path, context: Option<&str>) -> Result<Self, Error> {
        install_crypto();
        let named = |source| Error::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
        let file = Kubeconfig::read_from(path).map_err(named)?;
        let told = told(&file, context);
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(named)?;
        config.connect_timeout = Some(CONNECT);
        Ok(Self { config, told })
    }

    /// What tells this cluster from all others: the SHA-256 of its authority's certificates. None where the system's are
    /// trusted.
    pub fn authority(&self) -> Option<[u8; 32]> {
        let certificates = self.config.root_cert.as_ref().filter(|all| !all.is_empty())?;
        Some(certificates.iter().fold(Sha256::new(), |digest, der| digest.chain_update(der)).finalize().into())
    }

    /// Connects. `others` are servers of the cluster that the file may not know of. No connection is made before the first
    /// request. Through a proxy, or without TLS, only the server that is named is gone to, and no servers are told.
    ///
    /// # Errors
    /// When the credentials cannot be used.
    pub fn connect(self, others: &[String]) -> Result<(Client, Option<Servers>), Error> {
        let Self { config, told } = self;
        let server = config.cluster_url.to_string();
        let failed = |source: kube::Error| Error::Client { server: server.clone(), source: Box::new(source) };
        if config.proxy_url.is_some() || !is_https(&config.cluster_url) {
            return Ok((Client::try_from(config).map_err(failed)?, None));
        }
        let Link { client, servers } = link(&config, &server).map_err(failed)?;
        let mut all = told;
        all.extend_from_slice(others);
        servers.tell(&all);
        Ok((client, Some(servers)))
    }
}

/// The stack of [`kube::Client`]'s own, on a connector that knows several servers.
fn link(config: &Config, server: &str) -> Result<Link, kube::Error> {
    let name = config.tls_server_name.clone().map(ServerName::try_from).transpose();
    let name = name.map_err(|error| kube::Error::Service(Box::new(error)))?;
    let servers = Servers::new(&[server.to_owned()]).map_err(|error| kube::Error::Service(Box::new(error)))?;
    let connector = Connector { tls: Arc::new(config.rustls_client_config()?), servers: servers.clone(), name };
    let http = HttpClient::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Noting { inner: http, servers: servers.clone() });
    Ok(Link { client: Client::new(service, config.default_namespace.clone()), servers })
}

/// The servers that the cluster's extension tells of.
fn told(file: &Kubeconfig, context: Option<&str>) -> Vec<String> {
    let context = context.or(file.current_context.as_deref()).unwrap_or_default();
    let context = file.contexts.iter().find(|c| c.name == context).and_then(|c| c.context.as_ref());
    let cluster: Option<&Cluster> = context.and_then(|context| {
        file.clusters
            .iter()
            .find(|cluster| cluster.name == context.cluster)
            .and_then(|cluster| cluster.cluster.as_ref())
    });
    let mut extensions = cluster.iter().flat_map(|cluster| cluster.extensions.iter().flatten());
    let ours = extensions.find(|extension| extension.name == api::members::EXTENSION);
    let servers = ours.and_then(|ours| ours.extension.get("servers")).cloned();
    servers.and_then(|servers| serde_json::from_value(servers).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_of_the_contexts_own_cluster_tells() {
        let file = Kubeconfig::from_yaml(
            "
current-context: one
contexts: [{name: one, context: {cluster: a, user: u}}, {name: two, context: {cluster: b, user: u}}]
clusters:
- {name: b, cluster: {server: 'https://b:6443'}}
- name: a
  cluster:
    server: https://a:6443
    extensions:
    - {name: other, extension: {servers: ['https://x:1']}}
    - {name: orlop.dev/servers, extension: {servers: ['https://a:6443', 'https://c:6443']}}
",
        )
        .unwrap();
        assert_eq!(told(&file, None), ["https://a:6443", "https://c:6443"]);
        assert!(told(&file, Some("two")).is_empty() && told(&file, Some("three")).is_empty());
    }
}
