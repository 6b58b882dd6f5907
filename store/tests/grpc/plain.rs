//! What etcd says over plain HTTP, beside gRPC on the same port.

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::served::Served;

async fn get(served: &Served, path: &str) -> String {
    let tcp = tokio::net::TcpStream::connect(served.url.trim_start_matches("https://")).await.unwrap();
    let connector = served.connector();
    let protocols = connector.with_alpn(vec![b"http/1.1".to_vec()]);
    let mut stream = protocols.connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_prometheus_are_answered() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.put("k", "", None).await.unwrap();
    client.get("k", None).await.unwrap();
    client.get("", None).await.expect_err("no key");
    let healthy = get(&served, "/health").await;
    assert!(healthy.starts_with("HTTP/1.0 200") && healthy.ends_with(r#"{"health":"true"}"#), "{healthy}");
    let version = get(&served, "/version").await;
    assert!(version.contains(r#""etcdserver":"3.6.0""#), "{version}");
    let metrics = get(&served, "/metrics").await;
    for line in [
        "etcd_server_has_leader 1",
        "etcd_debugging_mvcc_current_revision 2",
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV"} 1"#,
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Range",grpc_service="etcdserverpb.KV"} 1"#,
        r#"grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Range",grpc_service="etcdserverpb.KV"} 1"#,
    ] {
        assert!(metrics.lines().any(|said| said == line), "{line} is not in\n{metrics}");
    }
    let nothing = get(&served, "/none").await;
    assert!(!nothing.contains("health") && !nothing.contains("etcd_"), "{nothing}");
    served.stop().await;
}
