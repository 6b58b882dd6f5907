//! EndpointSlices: where the Pods behind a Service are, and whether they are ready.
//!
//! Follows upstream's `pkg/controller/endpointslice` and KEP-752: at most [`PER_SLICE`] endpoints a slice, an endpoint
//! stays in the slice in which it is, and a slice is written only when something in it changed.
//!
//! # Absent
//! Topology hints and zones. The `Endpoints` kind, which EndpointSlices replace.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use client::{Caches, Controller, During, Error, Expectations, Key, Next, OrGone, Reader, Reconcile};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use tokio_util::sync::CancellationToken;

pub mod endpoint;
pub mod plan;

use self::plan::{Plan, plan};

/// Most endpoints in one slice.
pub const PER_SLICE: usize = 100;

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label that names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// This controller, in [`MANAGED_BY`].
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Pods that become ready within this time are written at once.
const SETTLE: Duration = Duration::from_millis(20);

struct EndpointSlices {
    client: kube::Client,
    services: Reader<Service>,
    pods: Reader<Pod>,
    slices: Reader<EndpointSlice>,
    expectations: Expectations,
}

/// Runs the controller until `shutdown`.
pub async fn run(caches: Caches, shutdown: CancellationToken) {
    let controller = EndpointSlices {
        client: caches.client().clone(),
        services: caches.reader(),
        pods: caches.reader(),
        slices: caches.reader(),
        expectations: Expectations::default(),
    };
    let services = caches.reader::<Service>();
    Controller::new("endpointslice", &caches, controller)
        .watches::<Pod>(move |pod| selecting(&services, pod))
        .watches::<EndpointSlice>(|slice| service_of(slice).into_iter().collect())
        .settle(SETTLE)
        .run(shutdown)
        .await;
}

/// The Services that select a Pod.
fn selecting(services: &Reader<Service>, pod: &Pod) -> Vec<Key> {
    if pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let services = services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
    let selects = |s: &&Arc<Service>| selector_of(s).is_some_and(|wanted| chooses(wanted, pod));
    services.iter().filter(selects).map(|s| Key::of(s.as_ref())).collect()
}

/// The Service of a slice that this controller manages.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.labels().get(SERVICE_NAME)?;
    let ours = slice.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGER);
    ours.then(|| Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// The selector of a Service whose endpoints are its Pods; none when somebody else says where it leads.
fn selector_of(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|s| !s.is_empty() && !external)
}

fn chooses(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(name, value)| pod.labels().get(name) == Some(value))
}

impl Reconcile for EndpointSlices {
    type Object = Service;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(service) = self.services.get(key) else {
            // Its slices name it as their owner and go with it.
            self.expectations.forget(key);
            return Ok(Next::AwaitChange);
        };
        let Some(selector) = selector_of(&service).filter(|_| service.metadata.deletion_timestamp.is_none()) else {
            return Ok(Next::AwaitChange);
        };
        if let Some(missing) = self.expectations.missing(key, &self.slices, Instant::now()) {
            return Ok(Next::After(missing));
        }
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| chooses(selector, pod));
        let mut slices = self.slices.list_in(&key.namespace);
        slices.retain(|slice| service_of(slice).as_ref() == Some(key));
        match self.apply(key, plan(&service, &pods, &slices)).await {
            Err(error) if error.is_namespace_terminating() => Ok(Next::AwaitChange),
            done => done.map(|()| Next::AwaitChange),
        }
    }
}

impl EndpointSlices {
    async fn apply(&self, key: &Key, plan: Plan) -> Result<(), Error> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        for slice in &plan.create {
            let made = api.create(&PostParams::default(), slice).await.during::<EndpointSlice>("create", key)?;
            self.expectations.wrote(key, &made, Instant::now());
        }
        for slice in &plan.update {
            let answer = api.replace(&slice.name_any(), &PostParams::default(), slice).await;
            let written = answer.during::<EndpointSlice>("update", &Key::of(slice))?;
            self.expectations.wrote(key, &written, Instant::now());
        }
        for slice in &plan.delete {
            let answer = api.delete(&slice.name, &DeleteParams::default()).await;
            answer.during::<EndpointSlice>("delete", slice).or_gone()?;
            if let Some(seen) = self.slices.get(slice) {
                self.expectations.deleted(key, seen.as_ref(), Instant::now());
            }
        }
        Ok(())
    }
}
