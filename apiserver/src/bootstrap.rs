//! The bootstrap: what is there from the first start. Namespaces, the Service that leads to the servers, and the policy.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    allocate,
    parts::Parts,
    policy,
    reply::{self, Response},
    service::Local,
    user::{MASTERS, User},
    write::OnLease,
};

/// Namespaces that always exist.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Pause before what could not be stored is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Who writes it.
const MANAGER: &str = "orlop-apiserver";

/// An object, and the path of its collection.
pub struct Wanted {
    /// The path of its collection.
    pub collection: String,
    /// Its name.
    pub name: String,
    /// As it is to be.
    pub object: Value,
    /// What to do when it exists.
    pub upkeep: Upkeep,
}

/// What becomes of an object that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// It is the user's now.
    Leave,
    /// Rules and subjects that are missing are put back, unless an annotation says not to.
    Complete,
    /// It is made what it should be.
    Replace,
}

/// The API as this server itself uses it.
pub fn own(parts: Arc<Parts>) -> Local {
    Local::new(parts, Some(Arc::new(User::new("system:apiserver", &[MASTERS]))))
}

/// Stores what is missing, until everything is stored; then the server is ready.
pub async fn run(parts: Arc<Parts>, advertise: Vec<SocketAddr>, shutdown: CancellationToken) {
    let service = own(Arc::clone(&parts));
    let mut missing = wanted(&advertise);
    while !missing.is_empty() {
        let mut left = Vec::new();
        for want in missing {
            if let Err(why) = ensure(&service, &want, None).await {
                tracing::debug!(name = %want.name, %why, "not stored yet");
                left.push(want);
            }
        }
        missing = left;
        if !missing.is_empty() && shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
    parts.bootstrapped.store(true, Ordering::Release);
}

fn wanted(advertise: &[SocketAddr]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        all.push(Wanted { collection: "/api/v1/namespaces".into(), name: name.into(), object, upkeep: Upkeep::Leave });
    }
    let roles = policy::cluster_roles().into_iter().map(document).chain(policy::roles().into_iter().map(document));
    let bindings = policy::cluster_role_bindings().into_iter().map(document);
    let bindings = bindings.chain(policy::role_bindings().into_iter().map(document));
    all.extend(roles.chain(bindings).flatten().filter_map(|object| grant(&object)));
    all.push(kubernetes(advertise));
    all
}

fn document(object: impl serde::Serialize) -> Option<Value> {
    serde_json::to_value(object).ok()
}

/// An object of the policy with the path that its own `apiVersion`, `kind` and namespace give.
fn grant(object: &Value) -> Option<Wanted> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str);
    let kind = api::Kind::by_manifest(text("/apiVersion")?, text("/kind")?)?;
    Some(Wanted {
        collection: kind.path(text("/metadata/namespace")),
        name: text("/metadata/name")?.to_owned(),
        object: object.clone(),
        upkeep: Upkeep::Complete,
    })
}

/// Service `default/kubernetes`. Where it leads is each server's own to say ([`crate::presence`]).
fn kubernetes(advertise: &[SocketAddr]) -> Wanted {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": allocate::KUBERNETES.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.first().map_or(6443, SocketAddr::port)}],
        },
    });
    let collection = "/api/v1/namespaces/default/services".into();
    Wanted { collection, name: "kubernetes".into(), object, upkeep: Upkeep::Leave }
}

/// Creates it, or keeps it up when it exists; on a lease, if one is given.
pub async fn ensure(service: &Local, want: &Wanted, lease: Option<OnLease>) -> Result<(), String> {
    let path = format!("{}/{}", want.collection, want.name);
    // looked at before it is written: a store that takes no writes has it all, where a server starts again
    let (found, text) = send(service, "GET", &path, &Value::Null, None).await?;
    let (method, at, body, done) = match (found, want.upkeep) {
        (StatusCode::NOT_FOUND, _) => ("POST", &want.collection, want.object.clone(), StatusCode::CREATED),
        (StatusCode::OK, Upkeep::Leave) => return Ok(()),
        (StatusCode::OK, Upkeep::Replace) => ("PUT", &path, want.object.clone(), StatusCode::OK),
        (StatusCode::OK, Upkeep::Complete) => {
            let is: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let Some(better) = completed(is, &want.object) else { return Ok(()) };
            ("PUT", &path, better, StatusCode::OK)
        }
        (code, _) => return Err(format!("{code}: {text}")),
    };
    match send(service, method, at, &body, lease).await? {
        (code, _) if code == done => Ok(()),
        (code, text) => Err(format!("{code}: {text}")),
    }
}

/// The object with the rules and subjects that it lacks; none when it lacks nothing or is not to be kept up.
fn completed(mut is: Value, wanted: &Value) -> Option<Value> {
    let annotations = is.pointer("/metadata/annotations");
    if annotations.and_then(|a| a.get(policy::AUTOUPDATE)).and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut changed = false;
    for field in ["rules", "subjects"] {
        let Some(wanted) = wanted.get(field).and_then(Value::as_array) else { continue };
        let has = is.as_object_mut()?.entry(field).or_insert_with(|| Value::Array(Vec::new()));
        let has = has.as_array_mut()?;
        for one in wanted {
            if !has.contains(one) {
                has.push(one.clone());
                changed = true;
            }
        }
    }
    changed.then_some(is)
}

async fn send(
    service: &Local,
    method: &str,
    path: &str,
    object: &Value,
    lease: Option<OnLease>,
) -> Result<(StatusCode, String), String> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, reply::JSON)
        .header(header::USER_AGENT, MANAGER)
        .body(Body::from(object.to_string()))
        .map_err(|error| error.to_string())?;
    if let Some(lease) = lease {
        request.extensions_mut().insert(lease);
    }
    let response = service.clone().oneshot(request).await.map_err(|never| never.to_string())?;
    let code = response.status();
    let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((code, String::from_utf8_lossy(&bytes).into_owned()))
}

/// `/metrics`: how many objects of each kind there are, and how far the cache is.
pub fn metrics(parts: &Parts) -> Response {
    let mut text = String::from("# TYPE apiserver_storage_objects gauge\n");
    for entry in parts.registry.entries() {
        let kind = entry.kind();
        let count = parts.cache.kind(kind).map_or(0, |cache| cache.snapshot(0).objects.len());
        text.push_str(&format!("apiserver_storage_objects{{resource=\"{}\"}} {count}\n", kind.qualified()));
    }
    text.push_str(&parts.backups.metrics());
    text.push_str("# TYPE orlop_watch_cache_revision gauge\n");
    text.push_str(&format!("orlop_watch_cache_revision {}\n", parts.cache.applied()));
    reply::typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}
