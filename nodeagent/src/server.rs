//! The node API that upstream's kubelet serves on 10250: logs, exec, pods, stats, metrics. Over TLS, to the API server alone:
//! who has no certificate of the cluster's is told 401, who has another's 403.

mod answers;
mod caller;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{config::Serving, host::Host, launch::chain};

/// For the handshake of a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something is no certificate or key.
    #[error("cannot read the {what} of the kubelet API")]
    Pem {
        /// `client CA`.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// They do not fit together.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("cannot use the client CA")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    /// The port is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A server that listens already.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl Server {
    /// Listens.
    pub async fn bind(serving: &Serving) -> Result<Self, Error> {
        let tls = TlsAcceptor::from(Arc::new(tls(serving)?));
        let address = SocketAddr::new(serving.address, serving.port);
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        Ok(Self { listener, tls, port })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until shutdown.
    pub async fn run(self, host: Arc<Host>, shutdown: CancellationToken) {
        let router = routes(host);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (tls, router, shutdown) = (self.tls.clone(), router.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = connection(stream, tls, router) => {}
                            () = shutdown.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    // out of file descriptors, say: it passes
                    tracing::warn!(%error, "connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

fn tls(serving: &Serving) -> Result<ServerConfig, Error> {
    let pem = |what| move |source| Error::Pem { what, source };
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(serving.client_ca.as_bytes()) {
        roots.add(ca.map_err(pem("client CA"))?)?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(serving.certificate.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, router: Router) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection is slow");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(error = chain(&error), "handshake failed"),
        Err(_) => return tracing::debug!("handshake took too long"),
    };
    let caller = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let router = match caller {
        Some(certificate) if caller::is_api_server(certificate) => router,
        Some(_) => refusing(http::StatusCode::FORBIDDEN, "only the API server may ask this node"),
        None => refusing(http::StatusCode::UNAUTHORIZED, "a client certificate is needed"),
    };
    let server = auto::Builder::new(TokioExecutor::new());
    let served = server.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router)).await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// For those who may ask nothing.
fn refusing(code: http::StatusCode, why: &'static str) -> Router {
    Router::new().fallback(async move || (code, why))
}

fn routes(host: Arc<Host>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(answers::pods))
        .route("/stats/summary", get(answers::summary))
        .route("/metrics", get(answers::metrics))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(answers::logs))
        .route("/exec/{namespace}/{pod}/{container}", get(answers::exec).post(answers::exec))
        .with_state(host)
}

#[cfg(test)]
mod tests;
