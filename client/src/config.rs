//! Connections to an API server on another machine.
//!
//! Components use one HTTP/2 connection for all requests and watches, whose pings notice within [`PING`] + [`PONG`] that the
//! other side is gone. Users' tools ([`crate::kubeconfig`]) use HTTP/1.1, because exec and attach upgrade their connection.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client,
    client::{Body, ConfigExt},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tower::Layer;

use crate::{
    connector::{Connector, Noting},
    servers::Servers,
    shown::Shown,
};

/// How long a connection may take to be made, TLS included.
pub const CONNECT: Duration = Duration::from_secs(5);

/// How often a connection is pinged.
pub const PING: Duration = Duration::from_secs(5);

/// How long the answer to a ping may take before the connection counts as dead.
pub const PONG: Duration = Duration::from_secs(5);

/// Idle connections kept for reuse; HTTP/2 needs one.
pub const IDLE: usize = 2;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or lacks something.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The server's address makes no sense.
    #[error("server address {server:?} is not an https URL")]
    Server {
        /// The address.
        server: String,
    },
    /// A PEM text holds no certificate or key, or a broken one.
    #[error("cannot read {what}")]
    Pem {
        /// Which.
        what: &'static str,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificates and keys do not fit together.
    #[error("cannot use {what} for TLS")]
    Tls {
        /// Which.
        what: &'static str,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The client could not be set up.
    #[error("cannot set up a client for {server}")]
    Client {
        /// The address.
        server: String,
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// With what a component proves to an API server who it is, and knows that it speaks to the right one. All PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// `https://10.0.0.1:6443`: each of them serves the cluster. Whichever answers is used.
    pub servers: Vec<String>,
    /// The certificate of the cluster's authority.
    pub ca: String,
    /// The client certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Makes `ring` the process's TLS back end. Every constructor here does it; calling it again does nothing.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails when somebody installed one before: then there is one.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// A way to the API.
pub struct Link {
    /// What requests are sent with.
    pub client: Client,
    /// Where they go.
    pub servers: Servers,
}

/// A client for a component, whose certificate can be [exchanged](Shown::exchange). No connection is made before the first
/// request.
///
/// # Errors
/// When the credentials cannot be read.
pub fn connect(credentials: &Credentials) -> Result<(Link, Shown), Error> {
    let servers = Servers::new(&credentials.servers)?;
    install_crypto();
    let shown = Shown::new(&credentials.certificate, &credentials.key)?;
    let connector = Connector { tls: Arc::new(tls(credentials, &shown)?), servers: servers.clone(), name: None };
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);
    let base = kube::Config::new(servers.first()).base_uri_layer();
    let service = base.layer(Noting { inner: http, servers: servers.clone() });
    Ok((Link { client: Client::new(service, "default"), servers }, shown))
}

pub(crate) fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https") && url.host().is_some()
}

fn tls(credentials: &Credentials, shown: &Shown) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&credentials.ca, "the authority's certificate")? {
        roots.add(certificate).map_err(|source| Error::Tls { what: "the authority's certificate", source })?;
    }
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shown.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// All certificates of a PEM text, at least one.
pub(crate) fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|source| Error::Pem { what, source })?;
    if all.is_empty() {
        return Err(Error::Pem { what, source: rustls::pki_types::pem::Error::NoItemsFound });
    }
    Ok(all)
}
