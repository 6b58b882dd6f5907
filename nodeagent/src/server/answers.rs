//! One function a question.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::{
    exec,
    host::{Guest, Host},
    logs::{self, Options},
    machine,
    observed::Seen,
    stream::{Wanted, spdy, websocket},
};

type Pairs = Query<Vec<(String, String)>>;
type Names = Path<(String, String, String)>;
/// Boxed: an answer is larger than what it is an error of.
type Refusal = Box<Response>;

/// Chunks of a log under way.
const CHUNKS: usize = 8;

fn refuse(code: StatusCode, why: impl Into<String>) -> Refusal {
    Box::new((code, why.into()).into_response())
}

fn guest(host: &Host, namespace: &str, pod: &str) -> Result<Guest, Refusal> {
    let missing = || refuse(StatusCode::NOT_FOUND, format!("pod {pod:?} is not on this node"));
    host.guests.get(namespace, pod).ok_or_else(missing)
}

fn defined(pod: &Pod, container: &str) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|s| s.init_containers.iter().flatten().chain(&s.containers).any(|c| c.name == container))
}

/// A container's log.
pub(super) async fn logs(State(host): State<Arc<Host>>, names: Names, query: Pairs) -> Response {
    log(&host, names.0, &query.0).await.unwrap_or_else(|refusal| *refusal)
}

async fn log(
    host: &Arc<Host>,
    (namespace, pod, container): (String, String, String),
    pairs: &[(String, String)],
) -> Result<Response, Refusal> {
    let bad = |why: String| refuse(StatusCode::BAD_REQUEST, why);
    let options = Options::parse(pairs, Timestamp::now()).map_err(|e| bad(e.to_string()))?;
    let guest = guest(host, &namespace, &pod)?;
    if !defined(&guest.pod, &container) {
        return Err(bad(format!("container {container} is not valid for pod {pod}")));
    }
    let seen = guest.members.borrow().get(&container).cloned().unwrap_or_default();
    let attempt = if options.previous { seen.previous.as_ref().or(ended(&seen)) } else { seen.current.as_ref() };
    let Some(attempt) = attempt.map(|a| a.number) else {
        return Err(bad(if options.previous {
            format!("previous terminated container {container:?} in pod {pod:?} not found")
        } else {
            format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating")
        }));
    };
    let path = host.storage.log(&guest.pod, &container, attempt).map_err(|e| bad(e.to_string()))?;
    let (out, chunks) = mpsc::channel(CHUNKS);
    let request = logs::Request { path, options, ended: watch_end(guest.members, container, attempt), out };
    tokio::spawn(async move {
        if let Err(error) = logs::copy(request).await {
            tracing::debug!(%error, "log was not copied to its end");
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(chunks).map(Ok::<_, std::convert::Infallible>);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response())
}

/// The current start counts as the previous one while the next has not begun.
fn ended(seen: &Seen) -> Option<&crate::observed::Attempt> {
    seen.current.as_ref().filter(|a| a.exit.is_some() && a.number > 0)
}

/// True once that start of the container has ended, or the pod is gone.
fn watch_end(
    mut members: watch::Receiver<Arc<BTreeMap<String, Seen>>>,
    container: String,
    attempt: u32,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let over = |all: &Arc<BTreeMap<String, Seen>>| {
            let current = all.get(&container).and_then(|s| s.current.as_ref());
            current.is_none_or(|a| a.number != attempt || a.exit.is_some())
        };
        tokio::select! {
            // an error says that the pod is gone: its log is complete too
            done = members.wait_for(over) => drop(done),
            () = sender.closed() => return,
        }
        sender.send_replace(true);
    });
    receiver
}

/// A command in a container.
pub(super) async fn exec(
    State(host): State<Arc<Host>>,
    names: Names,
    query: Pairs,
    request: Request<Body>,
) -> Response {
    execute(&host, names.0, &query.0, request).await.unwrap_or_else(|refusal| *refusal)
}

async fn execute(
    host: &Arc<Host>,
    (namespace, pod, container): (String, String, String),
    pairs: &[(String, String)],
    request: Request<Body>,
) -> Result<Response, Refusal> {
    let guest = guest(host, &namespace, &pod)?;
    let id = guest.members.borrow().get(&container).and_then(|s| s.running()).map(|a| a.id.clone());
    let id = id.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, format!("container {container:?} is not running")))?;
    let all = |name: &str| pairs.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let flag = |names: [&str; 2]| names.iter().any(|n| all(n).iter().any(|v| v == "1" || v == "true"));
    let tty = flag(["tty", "tty"]);
    let wanted = Wanted {
        stdin: flag(["input", "stdin"]),
        stdout: flag(["output", "stdout"]),
        stderr: flag(["error", "stderr"]) && !tty,
        tty,
    };
    let command = all("command");
    if command.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container"));
    }
    let job = Job { host: Arc::clone(host), id, command, wanted };
    let upgrade = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match upgrade.to_ascii_lowercase().as_str() {
        "websocket" => over_websocket(job, request),
        "spdy/3.1" => over_spdy(job, request),
        _ => Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: expected websocket or SPDY/3.1")),
    }
}

struct Job {
    host: Arc<Host>,
    id: String,
    command: Vec<String>,
    wanted: Wanted,
}

fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

fn over_websocket(job: Job, mut request: Request<Body>) -> Result<Response, Refusal> {
    let offered = list(request.headers(), "sec-websocket-protocol");
    let dialect = websocket::Dialect::choose(offered.iter().copied())
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, format!("none of {offered:?} is spoken here")))?;
    let key = request.headers().get("sec-websocket-key");
    let key = key.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))?;
    let accept = websocket::accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => {
                let client = websocket::serve(TokioIo::new(stream), dialect, job.wanted).await;
                exec::run(job.host.runtime.as_ref(), &job.id, job.command, job.wanted, client).await;
            }
            Err(error) => tracing::debug!(%error, "upgrade did not come about"),
        }
    });
    let mut answer = switching("websocket");
    if let Ok(value) = accept.parse() {
        answer.headers_mut().insert("sec-websocket-accept", value);
    }
    if !dialect.name().is_empty() {
        answer.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(dialect.name()));
    }
    Ok(answer)
}

fn over_spdy(job: Job, mut request: Request<Body>) -> Result<Response, Refusal> {
    let offered = list(request.headers(), "x-stream-protocol-version");
    let (name, version) = spdy::choose(offered.iter().copied())
        .ok_or_else(|| refuse(StatusCode::FORBIDDEN, format!("none of {offered:?} is spoken here")))?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let stream = match upgrade.await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "upgrade did not come about"),
        };
        match spdy::serve(TokioIo::new(stream), version, job.wanted).await {
            Ok(client) => exec::run(job.host.runtime.as_ref(), &job.id, job.command, job.wanted, client).await,
            Err(error) => tracing::debug!(%error, "exec did not begin"),
        }
    });
    let mut answer = switching("SPDY/3.1");
    if !name.is_empty() {
        answer.headers_mut().insert("x-stream-protocol-version", HeaderValue::from_static(name));
    }
    Ok(answer)
}

fn switching(protocol: &'static str) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer
}

/// The pods of this node, as it knows them.
pub(super) async fn pods(State(host): State<Arc<Host>>) -> Response {
    let items: Vec<_> = host.guests.list().into_iter().map(|g| g.pod).collect();
    let items: Vec<_> = items.iter().map(AsRef::as_ref).collect::<Vec<&Pod>>();
    Json(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})).into_response()
}

struct Sample {
    pod: Arc<Pod>,
    container: String,
    usage: crate::runtime::Usage,
}

async fn samples(host: &Host) -> Vec<Sample> {
    let mut all = Vec::new();
    for guest in host.guests.list() {
        let running: Vec<_> = {
            let members = guest.members.borrow();
            members.iter().filter_map(|(name, s)| Some((name.clone(), s.running()?.id.clone()))).collect()
        };
        for (container, id) in running {
            // one that ended meanwhile uses nothing
            if let Ok(usage) = host.runtime.usage(&id).await {
                all.push(Sample { pod: Arc::clone(&guest.pod), container, usage });
            }
        }
    }
    all
}

/// What containers use (upstream's stats/v1alpha1 Summary, the part that is known).
pub(super) async fn summary(State(host): State<Arc<Host>>) -> Response {
    let now = Timestamp::now().to_string();
    let mut pods: BTreeMap<String, (Arc<Pod>, Vec<_>)> = BTreeMap::new();
    for sample in samples(&host).await {
        let container = json!({
            "name": sample.container,
            "cpu": {"time": now, "usageCoreNanoSeconds": sample.usage.cpu_nanos},
            "memory": {"time": now, "workingSetBytes": sample.usage.memory_bytes},
        });
        let uid = sample.pod.metadata.uid.clone().unwrap_or_default();
        pods.entry(uid).or_insert_with(|| (sample.pod, Vec::new())).1.push(container);
    }
    let pods: Vec<_> = pods
        .into_values()
        .map(|(pod, containers)| {
            let meta = &pod.metadata;
            let reference = json!({"name": meta.name, "namespace": meta.namespace, "uid": meta.uid});
            json!({"podRef": reference, "startTime": pod.status.as_ref().and_then(|s| s.start_time.clone()),
                "containers": containers})
        })
        .collect();
    let (available, total) = machine::memory_available();
    let memory = json!({"time": now, "availableBytes": available, "workingSetBytes": total.saturating_sub(available)});
    Json(json!({"node": {"nodeName": host.config.node, "memory": memory}, "pods": pods})).into_response()
}

/// The same for Prometheus.
pub(super) async fn metrics(State(host): State<Arc<Host>>) -> Response {
    let samples = samples(&host).await;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, value: &dyn Fn(&Sample) -> String| -> std::fmt::Result {
        writeln!(text, "# TYPE {name} {kind}")?;
        for sample in &samples {
            let meta = &sample.pod.metadata;
            writeln!(
                text,
                "{name}{{container={:?},namespace={:?},pod={:?}}} {}",
                sample.container,
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
                value(sample)
            )?;
        }
        Ok(())
    };
    let seconds =
        |s: &Sample| format!("{}.{:09}", s.usage.cpu_nanos / 1_000_000_000, s.usage.cpu_nanos % 1_000_000_000);
    let written = family("container_cpu_usage_seconds_total", "counter", &seconds)
        .and_then(|()| family("container_memory_working_set_bytes", "gauge", &|s| s.usage.memory_bytes.to_string()))
        .and_then(|()| family("container_processes", "gauge", &|s| s.usage.pids.to_string()));
    match written {
        Ok(()) => text.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
