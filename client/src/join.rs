//! How a machine becomes a node: it makes its keys, proves with a token that it was invited, and gets certificates.
//!
//! # Protocol
//! 1. The token is `orlop1.<sha256 of the authority's certificate, hex>.<secret>`.
//! 2. TLS to the server: its chain must hold a certificate with that hash, and the leaf must be signed by it for the name
//!    dialled. So the token protects against a false server, as kubeadm's `--discovery-token-ca-cert-hash` does.
//! 3. `POST /join` with the secret and two certificate requests: one to speak as the node, one to serve as the node.
//! 4. Keys never leave the machine. What comes back is stored in one file, whole or not at all.

use std::{
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::{
    members::{JOIN, Welcome, Wish},
    validity::Validity,
};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    config::{self, Credentials, install_crypto},
    connector::dial,
};

/// The version that a token starts with.
pub const TOKEN_VERSION: &str = "orlop1";

/// The largest answer to a join, bytes: three certificates.
pub const MAX_ANSWER: usize = 64 << 10;

/// Where a node joins, and renews its certificates.
const JOIN_NODE: &str = "/join";

/// The file that holds a node's identity.
pub const FILE: &str = "credentials.json";

/// Why a machine could not join, or not remember that it had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token is not one.
    #[error("join token is malformed: expected {TOKEN_VERSION}.<64 hex digits>.<secret>")]
    Token,
    /// The address is not one.
    #[error("server address {0:?} is not an https URL")]
    Server(String),
    /// No connection, or not to the right server.
    #[error("cannot connect to {server} to join")]
    Connect {
        /// Where.
        server: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The request was lost.
    #[error("request to join {server} failed")]
    Request {
        /// Where.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no.
    #[error("{server} refused {node:?}: {status} {why}")]
    Refused {
        /// Where.
        server: String,
        /// Who.
        node: String,
        /// The HTTP status.
        status: u16,
        /// The server's message.
        why: String,
    },
    /// Keys or certificate requests could not be made.
    #[error("cannot make {what}")]
    Keys {
        /// Which.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// The answer or the stored file makes no sense.
    #[error("cannot understand {what}")]
    Json {
        /// Which.
        what: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The pinned certificate could not be checked.
    #[error("cannot set up TLS to join")]
    Tls(#[source] rustls::Error),
    /// The file could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Error {
    /// Another server may do better: this one is dead, or cannot serve now.
    fn is_of_one_server(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Request { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Token
            | Self::Server(_)
            | Self::Keys { .. }
            | Self::Json { .. }
            | Self::Tls(_)
            | Self::File { .. } => false,
        }
    }
}

/// A join token, taken apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate (DER).
    pub ca_hash: [u8; 32],
    /// What proves that this machine was invited.
    pub secret: String,
}

impl std::str::FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.trim().splitn(3, '.');
        let (Some(TOKEN_VERSION), Some(hash), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::Token);
        };
        let mut ca_hash = [0; 32];
        hex::decode_to_slice(hash, &mut ca_hash).map_err(|_| Error::Token)?;
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Token);
        }
        Ok(Self { ca_hash, secret: secret.to_owned() })
    }
}

/// A certificate and its key, PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// What a node holds after it has joined.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// To speak to the API server as the node.
    pub credentials: Credentials,
    /// To serve the node's own API.
    pub serving: Pair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ask<'a> {
    node: &'a str,
    csr: String,
    serving_csr: String,
    addresses: &'a [IpAddr],
}

/// Joins the control plane as a server whose store is reached at `peer_urls`, with a server's token, through the first of
/// its servers that can. Tried again, it is the same member.
///
/// # Errors
/// As [`join`].
pub async fn join_server(servers: &[String], token: &str, peer_urls: &[String]) -> Result<Welcome, Error> {
    let token: Token = token.parse()?;
    let wish = Wish { peer_urls: peer_urls.to_vec() };
    let ask = serde_json::to_vec(&wish).map_err(|source| Error::Json { what: "the request".into(), source })?;
    let who = peer_urls.first().map_or("", String::as_str);
    in_turn(servers, async |server, url| {
        let body = post(server, url, &token, JOIN, who, ask.clone()).await?;
        serde_json::from_slice(&body).map_err(|source| Error::Json { what: format!("the answer of {server}"), source })
    })
    .await
}

/// Asks one server after the other, until one answers for the cluster. All must be URLs before any is asked.
async fn in_turn<T>(servers: &[String], ask: impl AsyncFn(&str, &Uri) -> Result<T, Error>) -> Result<T, Error> {
    let urls = servers.iter().map(|server| https(server)).collect::<Result<Vec<_>, _>>()?;
    let mut answer = Err(Error::Server(String::new()));
    for (server, url) in servers.iter().zip(&urls) {
        answer = ask(server, url).await;
        if !answer.as_ref().is_err_and(Error::is_of_one_server) {
            break;
        }
    }
    answer
}

fn https(server: &str) -> Result<Uri, Error> {
    let url: Option<Uri> = server.parse().ok();
    url.filter(|url| url.scheme_str() == Some("https") && url.host().is_some())
        .ok_or_else(|| Error::Server(server.to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    ca: String,
    certificate: String,
    serving_certificate: String,
}

/// Joins the cluster as `node`, through the first of its servers that can; reachable at `addresses` (they become names of
/// its serving certificate).
///
/// # Errors
/// When the token or a URL is malformed, or the last server that was asked is not one that made the token, or refuses. Nothing
/// is stored.
pub async fn join(servers: &[String], token: &str, node: &str, addresses: &[IpAddr]) -> Result<Identity, Error> {
    let token: Token = token.parse()?;
    let mut identity =
        in_turn(servers, async |server, url| join_through(server, url, &token, node, addresses).await).await?;
    identity.credentials.servers = servers.to_vec();
    Ok(identity)
}

async fn join_through(
    server: &str,
    url: &Uri,
    token: &Token,
    node: &str,
    addresses: &[IpAddr],
) -> Result<Identity, Error> {
    let (ask, keys) = ask(node, addresses)?;
    let body = post(server, url, token, JOIN_NODE, node, ask).await?;
    let (ca, own, serving) = keys.with(&body, server)?;
    let (certificate, key) = (own.certificate, own.key);
    Ok(Identity { credentials: Credentials { servers: vec![server.to_owned()], ca, certificate, key }, serving })
}

/// New certificates for new keys of `node`, whom `client` speaks as: to ask, and to serve at `addresses`.
///
/// # Errors
/// When no server answers, or the one that does refuses.
pub async fn renew(client: &kube::Client, node: &str, addresses: &[IpAddr]) -> Result<(Pair, Pair), Error> {
    let server = "the cluster";
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Request { server: server.into(), source };
    let (ask, keys) = ask(node, addresses)?;
    let request = Request::post(JOIN_NODE).header(header::CONTENT_TYPE, "application/json").body(ask);
    let body = client.request_text(request.map_err(|error| failed(error.into()))?).await;
    let (_, own, serving) = keys.with(body.map_err(|error| failed(error.into()))?.as_bytes(), server)?;
    Ok((own, serving))
}

/// From when to when a certificate (the first of a PEM text) holds; none if it is none.
pub fn validity(certificate: &str) -> Option<Validity> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let validity = certificate.validity();
    Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
}

/// The keys of a node that asks for certificates, PEM.
struct Keys {
    own: String,
    serving: String,
}

/// Makes a node's keys, and the body that asks for certificates for them.
fn ask(node: &str, addresses: &[IpAddr]) -> Result<(Vec<u8>, Keys), Error> {
    let (own, csr) = request(node, &[], "the client key")?;
    let names: Vec<_> = std::iter::once(node.to_owned()).chain(addresses.iter().map(IpAddr::to_string)).collect();
    let (serving, serving_csr) = request(node, &names, "the serving key")?;
    let ask = serde_json::to_vec(&Ask { node, csr, serving_csr, addresses })
        .map_err(|source| Error::Json { what: "the request".into(), source })?;
    Ok((ask, Keys { own, serving }))
}

impl Keys {
    /// With the certificates of the answer: the authority's, one to ask with, and one to serve with.
    fn with(self, answer: &[u8], server: &str) -> Result<(String, Pair, Pair), Error> {
        let answer: Answer = serde_json::from_slice(answer)
            .map_err(|source| Error::Json { what: format!("the answer of {server}"), source })?;
        let own = Pair { certificate: answer.certificate, key: self.own };
        let serving = Pair { certificate: answer.serving_certificate, key: self.serving };
        Ok((answer.ca, own, serving))
    }
}

/// A fresh P-256 key and a certificate request for `system:node:NODE` of `system:nodes`, both PEM.
fn request(node: &str, names: &[String], what: &'static str) -> Result<(String, String), Error> {
    let made = |source| Error::Keys { what, source };
    let key = rcgen::KeyPair::generate().map_err(made)?;
    let mut params = rcgen::CertificateParams::new(names).map_err(made)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(made)?;
    Ok((key.serialize_pem(), csr))
}

async fn post(
    server: &str,
    url: &Uri,
    token: &Token,
    path: &str,
    node: &str,
    ask: Vec<u8>,
) -> Result<bytes::Bytes, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Request { server: server.into(), source };
    let tls = Arc::new(pinned(token.ca_hash)?);
    let stream = dial(tls, url, None).await.map_err(|source| Error::Connect { server: server.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.into()))?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header(header::HOST, url.authority().map_or("", |a| a.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", token.secret))
        .body(Full::new(bytes::Bytes::from(ask)))
        .map_err(|e| failed(e.into()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| failed(e.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(failed)?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let message = serde_json::from_slice::<kube::core::Status>(&body).map(|s| s.message);
        let why = message.unwrap_or_else(|_| String::from_utf8_lossy(&body).trim().to_owned());
        Err(Error::Refused { server: server.to_owned(), node: node.to_owned(), status: status.as_u16(), why })
    };
    let result = tokio::time::timeout(config::CONNECT, exchange).await;
    connection.abort();
    result.map_err(|elapsed| failed(elapsed.into()))?
}

fn pinned(ca_hash: [u8; 32]) -> Result<rustls::ClientConfig, Error> {
    install_crypto();
    let provider = rustls::crypto::ring::default_provider();
    let verifier = Pinned { ca_hash, algorithms: provider.signature_verification_algorithms };
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Trusts exactly the authority whose certificate has the token's hash.
#[derive(Debug)]
struct Pinned {
    ca_hash: [u8; 32],
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |c: &&CertificateDer<'_>| Sha256::digest(c.as_ref())[..] == self.ca_hash;
        let Some(authority) = chain.iter().find(is_pinned) else {
            return Err(rustls::Error::General("the server is not of the cluster that made the join token".into()));
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        verifier.verify_server_cert(leaf, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Remembers an identity in `folder`: readable by its owner alone, whole or not at all, also over a power cut.
///
/// # Errors
/// When the folder cannot be made or written.
pub fn store(folder: &Path, identity: &Identity) -> Result<(), Error> {
    let path = folder.join(FILE);
    let fresh = folder.join(format!(".{FILE}.new"));
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { operation, path, source }
    };
    let text = serde_json::to_vec_pretty(identity)
        .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    std::fs::create_dir_all(folder).map_err(failed("create", folder))?;
    // Left over from a crash it may have other permissions: a new file is made each time.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &fresh)(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(failed("create", &fresh))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &fresh))?;
    std::fs::rename(&fresh, &path).map_err(failed("rename", &fresh))?;
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync", folder))
}

/// The identity remembered in `folder`, if any.
///
/// # Errors
/// When the file is there but cannot be read or understood.
pub fn load(folder: &Path) -> Result<Option<Identity>, Error> {
    let path = folder.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { operation: "read", path, source }),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Json { what: path.display().to_string(), source })
}
