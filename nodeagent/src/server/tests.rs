//! Who may ask a node: over real TLS, with certificates made here.

use std::sync::Arc;

use client::{Caches, events::Recorder};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::Server;
use crate::{
    Config,
    agent::{self, Parts},
    config::Serving,
    hollow::Unconnected,
    images::fake::Fake as Images,
    runtime::fake::Fake as Runtime,
    sources::Sources,
    storage::Nowhere,
};

/// A certificate and its key, PEM.
#[derive(Clone)]
struct Signed {
    certificate: String,
    key: String,
}

/// Signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, name: &str, organization: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

/// A node whose API server is nobody: enough to be asked.
fn node(serving: &Serving) -> Arc<crate::host::Host> {
    let nobody = tower::service_fn(async |_: http::Request<kube::client::Body>| {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("no API here"))
    });
    let client = kube::Client::new(nobody, "default");
    let caches = Caches::new(client.clone());
    let config = Config { serving: Some(serving.clone()), ..Config::new("n", "/nonexistent") };
    let parts = Parts {
        runtime: Arc::new(Runtime::new()),
        network: Arc::new(Unconnected::default()),
        images: Arc::new(Images::default()),
        storage: Arc::new(Nowhere),
        sources: Arc::new(Sources::new(client.clone())),
        services: caches.reader(),
        recorder: Recorder::new(&client, "kubelet", "n"),
    };
    let place = agent::place(&config);
    agent::host(config, &client, place, parts)
}

/// The first line of what the node answers, or why there is none.
async fn ask(port: u16, ca: &str, caller: Option<&Signed>, path: &str) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match caller {
        Some(Signed { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn only_the_api_server_may_ask() {
    let (ours, foreign) = (Authority::new(), Authority::new());
    let own = ours.sign("system:node:n", "system:nodes");
    let serving = Serving {
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        port: 0,
        certificate: client::shown::Shown::new(&own.certificate, &own.key).unwrap(),
        client_ca: ours.certificate.clone(),
    };
    let server = Server::bind(&serving).await.unwrap();
    let (port, shutdown) = (server.port(), CancellationToken::new());
    let running = tokio::spawn(server.run(node(&serving), shutdown.clone()));
    let paths = ["/healthz", "/pods", "/containerLogs/ns/pod/c", "/exec/ns/pod/c?command=id", "/metrics"];

    for (name, organization) in
        [("orlop-apiserver", ""), ("kube-apiserver-kubelet-client", ""), ("me", "system:masters")]
    {
        let caller = ours.sign(name, organization);
        assert_eq!(ask(port, &ours.certificate, Some(&caller), "/healthz").await.unwrap(), "HTTP/1.1 200 OK", "{name}");
        let none = ask(port, &ours.certificate, Some(&caller), "/containerLogs/ns/pod/c").await.unwrap();
        assert_eq!(none, "HTTP/1.1 404 Not Found", "{name} hears of pods");
    }
    let others =
        [ours.sign("system:node:other", "system:nodes"), ours.sign("orlop-apiserver-not", "system:master"), own];
    for path in paths {
        for caller in &others {
            let answer = ask(port, &ours.certificate, Some(caller), path).await.unwrap();
            assert_eq!(answer, "HTTP/1.1 403 Forbidden", "{path}");
        }
        assert_eq!(ask(port, &ours.certificate, None, path).await.unwrap(), "HTTP/1.1 401 Unauthorized", "{path}");
    }
    let forged = foreign.sign("orlop-apiserver", "system:masters");
    let answer = ask(port, &ours.certificate, Some(&forged), "/healthz").await;
    assert!(answer.as_ref().is_err(), "a certificate of another authority was let in: {answer:?}");
    let impostor = ask(port, &foreign.certificate, None, "/healthz").await;
    assert!(impostor.is_err(), "the node shows a certificate of its own authority");

    shutdown.cancel();
    running.await.unwrap();
}
