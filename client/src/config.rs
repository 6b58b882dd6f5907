//! Connections to an API server on another machine.
//!
//! Components use one HTTP/2 connection for all requests and watches, whose pings notice within [`PING`] + [`PONG`] that the
//! other side is gone. Users' tools (a kubeconfig) use HTTP/1.1, because exec and attach upgrade their connection.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::Uri;
use hyper_util::{
    client::legacy::{
        Client as HttpClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::{
    Client,
    client::{Body, ConfigExt},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::{Layer, Service};

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

/// A client for a user: what the kubeconfig at `path` names, or one of its other contexts.
///
/// # Errors
/// When the file cannot be read, or names what is not there.
pub async fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<Client, Error> {
    install_crypto();
    let named = |source| Error::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
    let file = Kubeconfig::read_from(path).map_err(named)?;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(named)?;
    config.connect_timeout = Some(CONNECT);
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| Error::Client { server, source: Box::new(source) })
}

/// A client for a component. No connection is made before the first request.
///
/// # Errors
/// When the credentials cannot be read.
pub fn connect(credentials: &Credentials) -> Result<Client, Error> {
    let parse =
        |server: &String| server.parse().ok().filter(is_https).ok_or_else(|| Error::Server { server: server.clone() });
    let servers = credentials.servers.iter().map(parse).collect::<Result<Arc<[Uri]>, _>>()?;
    let url = servers.first().cloned().ok_or_else(|| Error::Server { server: String::new() })?;
    let connector = Connector { tls: Arc::new(tls(credentials)?), servers, chosen: Arc::default() };
    let http = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);
    let base = kube::Config::new(url).base_uri_layer();
    Ok(Client::new(base.layer(http), "default"))
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https") && url.host().is_some()
}

fn tls(credentials: &Credentials) -> Result<rustls::ClientConfig, Error> {
    install_crypto();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&credentials.ca, "the authority's certificate")? {
        roots.add(certificate).map_err(|source| Error::Tls { what: "the authority's certificate", source })?;
    }
    let chain = certificates(&credentials.certificate, "the client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes())
        .map_err(|source| Error::Pem { what: "the client key", source })?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|source| Error::Tls { what: "the client certificate and key", source })?;
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

/// Opens TCP with Nagle's delay off, then TLS.
///
/// # Errors
/// When either fails or takes longer than [`CONNECT`].
pub(crate) async fn dial(tls: Arc<rustls::ClientConfig>, url: &Uri) -> std::io::Result<TlsStream<TcpStream>> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_u16().unwrap_or(443);
    let opened = tokio::time::timeout(CONNECT, async {
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
        TlsConnector::from(tls).connect(name, tcp).await
    });
    opened
        .await
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer from {host}:{port}")))?
}

/// Connects to one of the servers: the one that answered last, or else the first after it that does.
#[derive(Clone)]
struct Connector {
    tls: Arc<rustls::ClientConfig>,
    servers: Arc<[Uri]>,
    chosen: Arc<AtomicUsize>,
}

impl Connector {
    async fn dial(self) -> std::io::Result<TlsStream<TcpStream>> {
        let count = self.servers.len();
        let first = self.chosen.load(Ordering::Relaxed);
        let mut failed = std::io::Error::from(std::io::ErrorKind::NotConnected);
        for at in (first..first + count).map(|at| at % count) {
            match dial(Arc::clone(&self.tls), &self.servers[at]).await {
                Ok(stream) => {
                    self.chosen.store(at, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Stream, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        self.clone().dial().map(|stream| Ok(Stream(TokioIo::new(stream?)))).boxed()
    }
}

/// A TLS stream that tells hyper which protocol was agreed on.
struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let h2 = self.0.inner().get_ref().1.alpn_protocol() == Some(b"h2");
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }
}
