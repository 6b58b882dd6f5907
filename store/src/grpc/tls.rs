//! Connections: TCP with TLS, each let in by a client certificate. A handshake holds up nobody else's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use rustls::RootCertStore;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::cork::Corked;

/// Longest TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Most handshakes at once; beyond it connections wait in the listener's queue.
const MAX_HANDSHAKES: usize = 256;

/// Pause after the system could not accept (out of file descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Who the server is, and who is let in.
#[derive(Clone)]
pub struct Tls {
    /// The server's certificate, asked for at each handshake: so it can be renewed meanwhile.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Who signs clients' certificates. Whoever has one of theirs may read and write everything.
    pub clients: Arc<RootCertStore>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// Clients' certificates cannot be verified.
    #[error("client certificates cannot be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// No version of the protocol is possible.
    #[error("no version of TLS is supported")]
    Versions(#[from] rustls::Error),
}

/// Connections that have got through their handshake, until closing.
pub(super) fn accept(
    listener: TcpListener,
    tls: &Tls,
    closing: watch::Receiver<bool>,
) -> Result<impl Stream<Item = io::Result<Connection>> + use<>, SetUpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(tls.clients.clone(), provider.clone()).build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(tls.certificate.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = super::closed(closing) => {}
            () = listen(&listener, &acceptor, &ready) => {}
        }
    });
    Ok(ReceiverStream::new(connections))
}

type Connection = Corked<TlsStream<TcpStream>>;

type Ready = mpsc::Sender<io::Result<Connection>>;

async fn listen(listener: &TcpListener, acceptor: &TlsAcceptor, ready: &Ready) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let place = room.clone().acquire_owned().await.expect("invariant: it is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(shake_hands(stream, acceptor.clone(), ready.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to etcd's API");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn shake_hands(stream: TcpStream, acceptor: TlsAcceptor, ready: Ready, _place: OwnedSemaphorePermit) {
    // Answers are small and somebody waits for each.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended at once");
        return;
    }
    match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(connection)) => {
            if ready.send(Ok(Corked::new(connection))).await.is_err() {
                tracing::debug!("a connection came when the server was closing");
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client of etcd's API was not let in"),
        Err(_) => tracing::debug!("a client of etcd's API did not finish its handshake"),
    }
}
