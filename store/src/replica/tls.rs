//! TLS between members: both sides show a certificate of the cluster's CA that carries the name of members.

use std::io;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::embedded::cluster::{MEMBER_NAME, PeerTls};

/// What HTTP/2 is called in TLS.
const H2: &[u8] = b"h2";

/// Opens a connection to a member. Whoever answers without being one is refused.
pub(crate) async fn connect(tls: &PeerTls, stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
    let (roots, chain, key) = parse(tls)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config =
        builder.with_root_certificates(roots).with_client_auth_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![H2.to_vec()];
    TlsConnector::from(Arc::new(config)).connect(name()?, stream).await
}

/// Takes a connection of a member. Whoever comes without being one is refused.
pub(crate) async fn accept(tls: &PeerTls, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
    let (roots, chain, key) = parse(tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(io::Error::other)?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_client_cert_verifier(verifier);
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![H2.to_vec()];
    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| io::Error::other("no certificate was shown"))?;
    let parsed = ParsedCertificate::try_from(certificate).map_err(io::Error::other)?;
    verify_server_name(&parsed, &name()?).map_err(io::Error::other)?;
    Ok(stream)
}

fn name() -> io::Result<ServerName<'static>> {
    ServerName::try_from(MEMBER_NAME).map_err(io::Error::other)
}

type Parsed = (RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parse(tls: &PeerTls) -> io::Result<Parsed> {
    let certificates =
        |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(io::Error::other);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.ca)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(io::Error::other)?;
    Ok((roots, certificates(&tls.cert)?, key))
}
