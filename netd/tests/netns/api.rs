//! Just enough of an API server for watch caches: lists, and watches that never skip.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use client::Caches;
use futures::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Client, Resource, ResourceExt, client::Body};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    /// By collection, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Every event ever, with its collection. The position is the resource version.
    log: Vec<(String, Value)>,
}

pub struct Api {
    state: Mutex<State>,
    version: watch::Sender<usize>,
}

impl Api {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), version: watch::Sender::new(0) })
    }

    /// Creates or changes an object.
    pub fn apply<K: Resource<DynamicType = ()> + Serialize>(&self, object: &K) {
        self.note("MODIFIED", object);
    }

    pub fn delete<K: Resource<DynamicType = ()> + Serialize>(&self, object: &K) {
        self.note("DELETED", object);
    }

    fn note<K: Resource<DynamicType = ()> + Serialize>(&self, kind: &str, object: &K) {
        let mut state = self.state.lock().unwrap();
        let collection = K::url_path(&(), None);
        let mut value = serde_json::to_value(object).unwrap();
        value["metadata"]["resourceVersion"] = json!((state.log.len() + 1).to_string());
        let key = (collection.clone(), object.namespace().unwrap_or_default(), object.name_any());
        if kind == "DELETED" {
            state.objects.remove(&key).unwrap();
        } else {
            state.objects.insert(key, value.clone());
        }
        state.log.push((collection, json!({ "type": kind, "object": value })));
        self.version.send_replace(state.log.len());
    }

    /// Caches that read from here. Must be called inside a runtime.
    pub fn caches(self: &Arc<Self>) -> Caches {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request| {
            let answer = api.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        Caches::new(Client::new(service, "default"))
    }

    fn answer(self: &Arc<Self>, request: &Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if value("watch").is_some() {
            let from: usize = value("resourceVersion").unwrap().parse().unwrap();
            return Response::new(self.watch(path, from));
        }
        let state = self.state.lock().unwrap();
        let items: Vec<_> = state.objects.iter().filter(|(key, _)| key.0 == path).map(|(_, object)| object).collect();
        let version = state.log.len().to_string();
        let list =
            json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": version }, "items": items });
        Response::new(Full::new(Bytes::from(list.to_string())).boxed_unsync())
    }

    fn watch(self: &Arc<Self>, path: String, from: usize) -> UnsyncBoxBody<Bytes, Infallible> {
        let start = (Arc::clone(self), self.version.subscribe(), path, from);
        let events = stream::unfold(start, async |(api, mut version, path, mut at)| {
            loop {
                version.wait_for(|now| *now > at).await.ok()?;
                let (collection, event) = api.state.lock().unwrap().log[at].clone();
                at += 1;
                if collection == path {
                    let frame = Frame::data(Bytes::from(format!("{event}\n")));
                    return Some((Ok(frame), (api, version, path, at)));
                }
            }
        });
        StreamBody::new(events).boxed_unsync()
    }
}

pub fn service(name: &str, address: &str, ports: &Value, more: &Value) -> Service {
    let mut spec = json!({ "clusterIP": address, "ports": ports });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec })).unwrap()
}

/// A slice whose endpoints are (address, node).
pub fn slice(name: &str, ports: &Value, endpoints: &[(Ipv4Addr, &str)]) -> EndpointSlice {
    let endpoint = |(address, node): &(Ipv4Addr, &str)| json!({ "addresses": [address], "nodeName": node });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}
