//! The listener: TLS connections, within limits, each with the user of its client certificate.

use std::{sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{authn, parts::Parts, pki::Pki, service::Local};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 16_384;

/// Longest TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Longest wait for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Most streams of one HTTP/2 connection (upstream's default is 100).
const MAX_STREAMS: u32 = 1_000;

/// Between HTTP/2 pings to a silent client.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long open requests may take to end at a shutdown.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Pause after the system could not accept (out of file descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates cannot be used.
    #[error("serving certificate is unusable")]
    Certificate(#[from] rustls_pki_types::pem::Error),
    /// They do not fit together.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The authority cannot verify clients.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS with the server's certificate; clients may show one of the cluster's, or none.
pub fn tls(pki: &Pki) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca.as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&pki.serving) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves connections until the shutdown, then lets open requests end.
pub async fn serve(parts: Arc<Parts>, tls: TlsAcceptor, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for listener in listeners {
        let accepting =
            accept(Arc::clone(&parts), tls.clone(), listener, Arc::clone(&free), connections.clone(), shutdown.clone());
        connections.spawn(accepting);
    }
    connections.close();
    shutdown.cancelled().await;
    if tokio::time::timeout(DRAIN_WITHIN, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "connections still open at the end");
    }
}

async fn accept(
    parts: Arc<Parts>,
    tls: TlsAcceptor,
    listener: TcpListener,
    free: Arc<Semaphore>,
    connections: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        // invariant: nobody closes the semaphore
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => return,
        };
        let (parts, tls, shutdown) = (Arc::clone(&parts), tls.clone(), shutdown.clone());
        connections.spawn(async move {
            connection(parts, tls, stream, shutdown).await;
            drop(permit);
        });
    }
}

async fn connection(parts: Arc<Parts>, tls: TlsAcceptor, stream: TcpStream, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay refused");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = certificate.and_then(|der| authn::certificate_user(der)).map(Arc::new);
    let service =
        Local::new(parts, user).map_request(|r: http::Request<hyper::body::Incoming>| r.map(axum::body::Body::new));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(MAX_HEAD.max(64 << 10));
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .adaptive_window(true);
    let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
