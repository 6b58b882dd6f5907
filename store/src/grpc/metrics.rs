//! What etcd says over plain HTTP on the port of its API: `/metrics` for Prometheus, `/health` for probes, `/version`.
//!
//! Of etcd's many metrics there are the counts of calls answered, under their name of gRPC's middleware, and the few that
//! alerts about etcd look at and that mean something here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, StatusCode, header};
use parking_lot::RwLock;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{API_VERSION, Api};

/// How gRPC counts its codes: from 0 to this.
const CODES: usize = 17;

/// Calls answered, by their path (`/service/method`) and code.
#[derive(Default)]
pub(super) struct Calls(RwLock<HashMap<String, [AtomicU64; CODES]>>);

impl Calls {
    /// Counts an answer. A stream's is counted when it begins.
    fn count(&self, path: &str, code: Code) {
        // Of what is not here there is no end.
        if code == Code::Unimplemented {
            return;
        }
        let code = code as usize;
        if let Some(codes) = self.0.read().get(path) {
            codes[code].fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.0.write().entry(path.to_owned()).or_default()[code].fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, text: &mut String) {
        *text += "# TYPE grpc_server_handled_total counter\n";
        let calls = self.0.read();
        let mut paths: Vec<_> = calls.iter().collect();
        paths.sort_by_key(|(path, _)| *path);
        for (path, codes) in paths {
            let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
            let counts = codes.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
            for (code, count) in counts.filter(|(_, count)| *count > 0) {
                let code = format!("{:?}", Code::from_i32(i32::try_from(code).unwrap_or_default()));
                let code = if code == "Ok" { "OK" } else { &code };
                let labels = format!("grpc_code=\"{code}\",grpc_method=\"{method}\",grpc_service=\"{service}\"");
                writeln!(text, "grpc_server_handled_total{{{labels}}} {count}")
                    .expect("invariant: a string takes text");
            }
        }
    }
}

impl Api {
    /// The answer to a request that is none of gRPC's; none when it is nothing that etcd answers.
    async fn plain(&self, path: &str) -> Option<http::Response<Body>> {
        let healthy = self.members.standing().leader != 0;
        let (status, kind, text) = match path {
            "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", self.metrics().await),
            "/health" if healthy => (StatusCode::OK, "application/json", r#"{"health":"true"}"#.to_owned()),
            "/health" => {
                let text = r#"{"health":"false","reason":"RAFT NO LEADER"}"#.to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, "application/json", text)
            }
            "/version" => {
                let text = format!(r#"{{"etcdserver":"{API_VERSION}","etcdcluster":"{API_VERSION}"}}"#);
                (StatusCode::OK, "application/json", text)
            }
            _ => return None,
        };
        let body = Body::new(http_body_util::Full::new(bytes::Bytes::from(text)));
        let answer = http::Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(body);
        Some(answer.expect("invariant: its parts are well formed"))
    }

    async fn metrics(&self) -> String {
        let mut text = String::new();
        let standing = self.members.standing();
        let (leads, led) = (u8::from(standing.leader == standing.member), u8::from(standing.leader != 0));
        let mut gauges = vec![("etcd_server_has_leader", u64::from(led)), ("etcd_server_is_leader", u64::from(leads))];
        if let Ok(status) = self.backend.status().await {
            gauges.push(("etcd_mvcc_db_total_size_in_bytes", status.disk_bytes));
            gauges.push(("etcd_mvcc_db_total_size_in_use_in_bytes", status.live_bytes));
            gauges.push(("etcd_debugging_mvcc_current_revision", status.revision));
            gauges.push(("etcd_debugging_mvcc_compact_revision", status.compacted));
        }
        for (name, value) in gauges {
            writeln!(text, "# TYPE {name} gauge\n{name} {value}").expect("invariant: a string takes text");
        }
        self.calls.tell(&mut text);
        text
    }
}

/// Counts calls, and answers what is none.
#[derive(Clone)]
pub(super) struct Counting(pub(super) Arc<Api>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, api: self.0.clone() }
    }
}

/// See [`Counting`].
#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    api: Arc<Api>,
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (api, path) = (self.api.clone(), request.uri().clone());
        let plain = request.method() == Method::GET;
        let answer = self.inner.call(request);
        Box::pin(async move {
            if plain && let Some(answer) = api.plain(path.path()).await {
                return Ok(answer);
            }
            let answer = answer.await?;
            // Whoever fails says so at once; whoever succeeds, or fails in the middle of a stream, at the end.
            let code = answer.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
            api.calls.count(path.path(), code);
            Ok(answer)
        })
    }
}
