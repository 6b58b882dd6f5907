//! Who may what: certificates, tokens, nodes, and those who have neither.

use std::sync::Arc;

use apiserver::User;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};

use super::cluster::{Cluster, ask};

pub const CORE: &str = "/api/v1/namespaces/default";

type Sending = http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>;

/// A TLS connection that trusts the cluster's authority, with a certificate or without.
pub async fn connect(
    cluster: &Cluster,
    identity: Option<(&str, &str)>,
) -> hyper::client::conn::http1::SendRequest<Sending> {
    let ca = std::fs::read_to_string(cluster.dir().join("pki/ca.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    let tcp = tokio::net::TcpStream::connect(cluster.address).await.unwrap();
    let name = ServerName::from(cluster.address.ip());
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// A request over TLS with a certificate, a token, or neither.
pub async fn remote(
    cluster: &Cluster,
    identity: Option<(&str, &str)>,
    token: &str,
    request: (&str, &str, Value),
) -> (StatusCode, Value) {
    let mut sender = connect(cluster, identity).await;
    let (method, path, body) = request;
    let mut head = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "x")
        .header("content-type", "application/json");
    if !token.is_empty() {
        head = head.header("authorization", format!("Bearer {token}"));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = sender.send_request(head.body(Full::new(bytes::Bytes::from(body)).boxed()).unwrap()).await.unwrap();
    let code = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

pub fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

pub fn get(path: &str) -> (&str, &str, Value) {
    ("GET", path, Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_more_than_health() {
    let cluster = Cluster::start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(remote(&cluster, None, "", get(path)).await.0, StatusCode::OK, "{path}");
    }
    let (code, status) = remote(&cluster, None, "", get("/api/v1/pods")).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        text(&status, "/message"),
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
    );
    assert_eq!(remote(&cluster, None, "forged", get("/version")).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_with_the_token_and_speaks_as_its_node() {
    let cluster = Cluster::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let wish = json!({"node": "n1", "csr": csr, "servingCsr": csr, "addresses": ["127.0.0.1"]});
    let (code, _) = remote(&cluster, None, "wrong", ("POST", "/join", wish.clone())).await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    let token = cluster.server.join_token();
    let secret = token.rsplit('.').next().unwrap();
    let mut bad = wish.clone();
    bad.as_object_mut().unwrap().insert("node".into(), json!("../n1"));
    assert_eq!(remote(&cluster, None, secret, ("POST", "/join", bad)).await.0, StatusCode::BAD_REQUEST);
    let (code, welcome) = remote(&cluster, None, secret, ("POST", "/join", wish)).await;
    assert_eq!(code, StatusCode::OK, "{welcome}");
    let pem = key.serialize_pem();
    let identity = Some((text(&welcome, "/certificate"), pem.as_str()));
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let (code, status) = remote(&cluster, identity, "", ("POST", "/api/v1/nodes", node("n1"))).await;
    assert_eq!(code, StatusCode::CREATED, "{status}");
    let patch = ("PUT", "/api/v1/nodes/n2", node("n2"));
    let (code, status) = remote(&cluster, identity, "", patch).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(text(&status, "/message").contains("node \"n1\" is not allowed to modify node \"n2\""), "{status}");
    assert_eq!(remote(&cluster, identity, "", get("/api/v1/secrets")).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = Cluster::start().await;
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let api = "rbac.authorization.k8s.io/v1";
    let rule = json!({"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]});
    let role = json!({"apiVersion": api, "kind": "Role", "metadata": {"name": "maker"}, "rules": [rule]});
    cluster.create(&format!("{group}/roles"), role).await;
    let binding = json!({
        "apiVersion": api,
        "kind": "RoleBinding",
        "metadata": {"name": "maker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maker"},
        "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    cluster.create(&format!("{group}/rolebindings"), binding).await;
    let make = |name: &str, rule: Value| {
        let service = cluster.server.local(User::new("ann", &[]));
        let role = json!({"apiVersion": api, "kind": "Role", "metadata": {"name": name}, "rules": [rule]});
        let path = format!("{group}/roles");
        async move { ask(service, "POST", &path, "application/json", role).await }
    };
    let (code, status) = make("same", rule).await;
    assert_eq!(code, StatusCode::CREATED, "{status}");
    let more = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]});
    let (code, status) = make("more", more).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(text(&status, "/message").contains("attempting to grant RBAC permissions not currently held"), "{status}");
}
