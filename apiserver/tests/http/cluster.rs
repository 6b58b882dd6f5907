//! The cluster of a test: a real server on a store in memory, on loopback TLS, with a kubeconfig for kubectl.

use std::{process::Stdio, sync::Arc, time::Duration};

use apiserver::{Config, Local, Server, User};
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Longest wait for anything.
pub const SOON: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub server: Arc<Server>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What a program said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::on(Arc::new(store::Memory::new())).await
    }

    pub async fn on(store: Arc<dyn store::Backend>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            data_dir: dir.path().into(),
            store,
            members: None,
            history: None,
            advertise: vec![address],
            names: Vec::new(),
            signing_duration: apiserver::pki::NODE_LIFE,
            url: format!("https://{address}"),
        };
        let server = Arc::new(Server::open(config).unwrap());
        let shutdown = CancellationToken::new();
        let (serving, ended) = (Arc::clone(&server), shutdown.clone());
        tokio::spawn(async move { serving.serve(vec![listener], ended).await });
        let cluster = Self { server, address, dir, shutdown };
        cluster.until("/readyz", |code, _| code == StatusCode::OK).await;
        // it says of itself where it is found, apart from the bootstrap
        let name = format!("kubernetes-{address}").replace(['.', ':'], "-");
        let slice = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}");
        cluster.until(&slice, |code, _| code == StatusCode::OK).await;
        cluster
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("kubeconfig")
    }

    pub fn admin(&self) -> Local {
        self.server.local(User::new("admin", &["system:masters"]))
    }

    /// A request of the administrator's.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        ask(self.admin(), method, path, "application/json", body).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let (code, value) = self.ask("GET", path, Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{path}: {value}");
        value
    }

    pub async fn create(&self, path: &str, body: Value) -> Value {
        let (code, value) = self.ask("POST", path, body).await;
        assert_eq!(code, StatusCode::CREATED, "{path}: {value}");
        value
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> (StatusCode, Value) {
        ask(self.admin(), "PATCH", path, kind, body).await
    }

    /// Asks until the answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let (code, value) = self.ask("GET", path, Value::Null).await;
            if wanted(code, &value) {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} stays {code} {value}");
            tokio::task::yield_now().await;
        }
    }

    /// Runs kubectl with these words; `input` goes to its standard input.
    pub async fn kubectl(&self, words: &str, input: &str) -> Said {
        let mut child = Command::new("kubectl")
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .args(words.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl (Debian package kubernetes-client) runs");
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("kubectl ends").unwrap();
        Said {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// One request to a service.
pub async fn ask(service: Local, method: &str, path: &str, media_type: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media_type)
        .header("user-agent", "test/1")
        .body(Body::from(body))
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
    )
}
