//! Connections and joining, against a real TLS server.

#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc};

use client::{Credentials, config, join};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};

const SECRET: &str = "let-me-in";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Arc<Self> {
        config::install_crypto();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Arc::new(Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()))
    }

    fn token(&self) -> String {
        format!("orlop1.{}.{SECRET}", hex::encode(Sha256::digest(self.0.der())))
    }

    fn sign(&self, csr: &str) -> String {
        rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap().signed_by(&self.0).unwrap().pem()
    }

    /// Serves `/join`, and a ConfigMap to those who show a certificate; says which protocol was spoken.
    async fn serve(self: Arc<Self>) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut tls = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der().clone(), self.0.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, this) = (acceptor.clone(), Arc::clone(&self));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let known = tls.get_ref().1.peer_certificates().is_some();
                    let service = hyper::service::service_fn(move |request| {
                        let this = Arc::clone(&this);
                        async move { Ok::<_, std::convert::Infallible>(this.answer(known, request).await) }
                    });
                    auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service).await.ok();
                });
            }
        });
        address
    }

    async fn answer(&self, known: bool, request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
        let status = |code: u16, text: String| Response::builder().status(code).body(Full::new(text.into())).unwrap();
        let (parts, body) = request.into_parts();
        if parts.uri.path() != "/join" {
            let map = serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("{:?}", parts.version), "labels": {"known": known.to_string()}},
            });
            return status(200, map.to_string());
        }
        if parts.headers["authorization"] != format!("Bearer {SECRET}") {
            return status(401, r#"{"kind":"Status","message":"the join token is not valid","code":401}"#.into());
        }
        let ask: serde_json::Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(ask.get("node").unwrap(), "a");
        let part = |name| self.sign(ask.get(name).unwrap().as_str().unwrap());
        let answer = serde_json::json!({
            "ca": self.0.pem(), "certificate": part("csr"), "servingCertificate": part("servingCsr"),
        });
        status(200, answer.to_string())
    }
}

#[tokio::test]
async fn a_machine_joins_and_then_speaks_http2_with_its_certificate() {
    let authority = Authority::new();
    let server = format!("https://{}", Arc::clone(&authority).serve().await);
    let node = join::join(std::slice::from_ref(&server), &authority.token(), "a", &["10.0.0.5".parse().unwrap()])
        .await
        .unwrap();
    assert!(node.serving.certificate.contains("BEGIN CERTIFICATE"));

    let folder = tempfile::tempdir().unwrap();
    assert_eq!(join::load(folder.path()).unwrap(), None);
    join::store(folder.path(), &node).unwrap();
    join::store(folder.path(), &node).unwrap();
    let file = std::fs::metadata(folder.path().join(join::FILE)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
    let node = join::load(folder.path()).unwrap().unwrap();

    let api: Api<ConfigMap> = Api::namespaced(config::connect(&node.credentials).unwrap().0.client, "web");
    let seen = api.get("x").await.unwrap().metadata;
    assert_eq!(seen.name.as_deref(), Some("HTTP/2.0"));
    assert_eq!(seen.labels.unwrap()["known"], "true");
}

#[tokio::test]
async fn a_server_that_is_gone_is_passed_over() {
    let authority = Authority::new();
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = [format!("https://{gone}"), format!("https://{}", Arc::clone(&authority).serve().await)];
    let node = join::join(&servers, &authority.token(), "a", &["10.0.0.5".parse().unwrap()]).await.unwrap();
    assert_eq!(node.credentials.servers, servers);
    let api: Api<ConfigMap> = Api::namespaced(config::connect(&node.credentials).unwrap().0.client, "web");
    assert!(api.get("x").await.is_ok());
}

#[tokio::test]
async fn a_wrong_server_or_secret_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = format!("https://{}", Arc::clone(&authority).serve().await);
    let error = join::join(std::slice::from_ref(&server), &other.token(), "a", &[]).await.unwrap_err();
    assert!(matches!(error, join::Error::Connect { .. }));
    assert!(client::error::chain(&error).contains("not of the cluster that made the join token"), "{error:?}");

    let token = authority.token().replace(SECRET, "guess");
    let error = join::join(std::slice::from_ref(&server), &token, "a", &[]).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{server} refused \"a\": 401 the join token is not valid"),);
    for token in ["", "orlop1", "orlop1.abc.x", "orlop2.00.x"] {
        assert!(
            matches!(join::join(std::slice::from_ref(&server), token, "a", &[]).await, Err(join::Error::Token)),
            "{token}"
        );
    }
}

#[test]
fn secrets_are_not_shown_by_debug() {
    let credentials = Credentials {
        servers: vec!["https://a".into()],
        ca: "CA".into(),
        certificate: "CERT".into(),
        key: "KEY".into(),
    };
    assert_eq!(format!("{credentials:?}"), r#"Credentials { servers: ["https://a"], .. }"#);
    assert!(config::connect(&credentials).err().unwrap().to_string().starts_with("cannot read the"));
}
