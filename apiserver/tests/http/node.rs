//! Logs and exec, passed through to a node agent: here a TLS server with a node's certificate, as joining gives it.

use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{access, cluster::Cluster};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Joins as node `n1` and serves: GET echoes the path, but there is no previous container; an upgrade echoes every byte.
async fn node(cluster: &Cluster) -> u16 {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let wish = json!({"node": "n1", "csr": csr, "servingCsr": csr, "addresses": ["127.0.0.1"]});
    let token = cluster.server.join_token();
    let secret = token.rsplit('.').next().unwrap();
    let (code, welcome) = access::remote(cluster, None, secret, ("POST", "/join", wish)).await;
    assert_eq!(code, StatusCode::OK, "{welcome}");
    let pem = |at: &str| welcome.pointer(at).and_then(Value::as_str).unwrap().as_bytes().to_vec();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("/ca")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&pem("/servingCertificate")).unwrap()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = tls.accept(stream).await.unwrap();
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), hyper::service::service_fn(agent))
                .with_upgrades();
            tokio::spawn(serving);
        }
    });
    port
}

async fn agent(mut request: Request<Incoming>) -> Result<http::Response<Full<bytes::Bytes>>, std::convert::Infallible> {
    if request.headers().get("upgrade").is_none() {
        let text = request.uri().to_string();
        let mut response = http::Response::new(Full::new(text.clone().into()));
        if text.contains("previous=true") {
            *response.body_mut() = Full::new("previous terminated container \"a\" in pod \"p\" not found".into());
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        return Ok(response);
    }
    let path = request.uri().to_string();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(path.as_bytes()).await.unwrap();
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    });
    let response = http::Response::builder().status(101).header("connection", "upgrade").header("upgrade", "SPDY/3.1");
    Ok(response.body(Full::default()).unwrap())
}

async fn cluster_with_pod() -> Cluster {
    let cluster = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    let port = node(&cluster).await;
    cluster.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let (code, said) = cluster.patch("/api/v1/nodes/n1/status", "application/merge-patch+json", status).await;
    assert_eq!(code, StatusCode::OK, "{said}");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]},
    });
    cluster.create(PODS, pod).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_renews_its_own_certificates_and_no_others() {
    let cluster = Cluster::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let wish = |node: &str| json!({"node": node, "csr": csr, "servingCsr": csr, "addresses": ["127.0.0.1"]});
    let token = cluster.server.join_token();
    let secret = token.rsplit('.').next().unwrap();
    let (_, welcome) = access::remote(&cluster, None, secret, ("POST", "/join", wish("n1"))).await;
    let certificate = welcome.pointer("/certificate").and_then(Value::as_str).unwrap().to_owned();
    let pem = key.serialize_pem();
    let own = Some((certificate.as_str(), pem.as_str()));
    let (code, renewed) = access::remote(&cluster, own, "", ("POST", "/join", wish("n1"))).await;
    assert_eq!(code, StatusCode::OK, "{renewed}");
    assert_ne!(renewed.pointer("/certificate").and_then(Value::as_str), Some(certificate.as_str()));
    let (code, status) = access::remote(&cluster, own, "", ("POST", "/join", wish("n2"))).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    let (code, _) = access::remote(&cluster, None, "", ("POST", "/join", wish("n1"))).await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    let admin =
        ["admin.crt", "admin.key"].map(|name| std::fs::read_to_string(cluster.dir().join("pki").join(name)).unwrap());
    let (code, _) = access::remote(&cluster, Some((&admin[0], &admin[1])), "", ("POST", "/join", wish("n1"))).await;
    assert_eq!(code, StatusCode::UNAUTHORIZED, "only nodes renew nodes' certificates");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_node() {
    let cluster = cluster_with_pod().await;
    let (_, text) = cluster.ask("GET", &format!("{PODS}/p/log?container=a&tailLines=3&follow=true"), Value::Null).await;
    assert_eq!(text, json!("/containerLogs/default/p/a?follow=true&tailLines=3"));
    let (code, status) = cluster.ask("GET", &format!("{PODS}/p/log"), Value::Null).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let message = status.pointer("/message").and_then(Value::as_str).unwrap();
    assert_eq!(message, "a container name must be specified for pod p, choose one of: [a b]");
    let (code, status) = cluster.ask("GET", &format!("{PODS}/p/log?container=c"), Value::Null).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(status.pointer("/message"), Some(&json!("container c is not valid for pod p")));
    let (code, status) = cluster.ask("GET", &format!("{PODS}/p/log?container=a&previous=true"), Value::Null).await;
    assert_eq!((code, status.pointer("/reason")), (StatusCode::BAD_REQUEST, Some(&json!("BadRequest"))));
    let message = "previous terminated container \"a\" in pod \"p\" not found";
    assert_eq!(status.pointer("/message"), Some(&json!(message)));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_passed_through_byte_for_byte() {
    let cluster = cluster_with_pod().await;
    let pki = cluster.dir().join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let (certificate, key) = (read("admin.crt"), read("admin.key"));
    let mut sender = access::connect(&cluster, Some((&certificate, &key))).await;
    let uri = format!("{PODS}/p/exec?container=b&command=sh&command=-c&stdin=true&stdout=true&tty=false");
    let request = Request::post(uri)
        .header("host", "x")
        .header("connection", "upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(Empty::<bytes::Bytes>::new().map_err(|never| match never {}).boxed())
        .unwrap();
    let mut answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers().get("upgrade").unwrap(), "SPDY/3.1");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let expected = "/exec/default/p/b?command=sh&command=-c&input=1&output=1";
    let mut said = vec![0; expected.len()];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), expected);
    let sent: Vec<u8> = (0..=255).collect();
    stream.write_all(&sent).await.unwrap();
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, sent);
}
