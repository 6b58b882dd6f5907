//! The presence: this server as an endpoint of Service `default/kubernetes`, for as long as it is there.
//!
//! Each server tells of itself alone, in an EndpointSlice of its own that hangs on a lease of the store. The server renews
//! the lease while it serves and gives it back when it ends; the slice of one that dies goes with the lease. So nobody has to
//! judge who is dead, it works on every backend, and nothing expires while there is no majority: whoever knows the servers
//! that were there last knows one of any majority that comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::{Backend, LeaseId};
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap::{self, Upkeep, Wanted},
    item::Item,
    kubeconfig,
    parts::Parts,
    registry::downcast,
    service::Local,
    storage,
    write::OnLease,
};

/// How long a dead server stays an endpoint, seconds. As long as a node's death takes to be seen.
const LIFE: i64 = 10;

/// Between two renewals: three may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Pause before what could not be renewed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How long a server that ends tries to say so.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The collection of the slices.
const COLLECTION: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// What the ids of the slices begin with.
const PREFIX: &str = "default/kubernetes-";

/// What this server tells of itself.
struct Presence {
    slice: Wanted,
    /// The same at every start: what a crash left is taken over.
    lease: LeaseId,
}

impl Presence {
    /// Of a server at these addresses, all with one port; none without any. `member` is its store's, hexadecimal.
    fn new(advertise: &[SocketAddr], member: Option<&str>) -> Option<Self> {
        let first = advertise.first()?;
        let name = format!("kubernetes-{first}").replace(['.', ':', '[', ']'], "-");
        let addresses: Vec<_> = advertise.iter().map(|a| a.ip().to_string()).collect();
        let mut labels = json!({"kubernetes.io/service-name": "kubernetes"});
        if let (Some(labels), Some(member)) = (labels.as_object_mut(), member) {
            labels.insert(api::members::LABEL.into(), Value::from(member));
        }
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "addressType": if first.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": first.port(), "protocol": "TCP"}],
        });
        let digest = Sha256::digest(&name);
        let lease = digest.iter().take(8).fold(0_i64, |id, byte| (id << 8) | i64::from(*byte)) & i64::MAX;
        Some(Self { slice: Wanted { collection: COLLECTION.into(), name, object, upkeep: Upkeep::Replace }, lease })
    }

    /// The slice is there, and on the lease.
    fn is_known(&self, parts: &Parts) -> bool {
        own(parts).iter().any(|item| item.name() == self.slice.name && item.lease == self.lease)
    }

    async fn renew(&self, parts: &Parts, service: &Local) -> Result<(), String> {
        match parts.backend.keep_alive(self.lease).await {
            Ok(_) if self.is_known(parts) => return Ok(()),
            Ok(_) => {}
            Err(store::Error::LeaseNotFound(_)) => match parts.backend.grant_as(self.lease, LIFE).await {
                Ok(_) | Err(store::Error::LeaseExists(_)) => {}
                Err(error) => return Err(error.to_string()),
            },
            Err(error) => return Err(error.to_string()),
        }
        bootstrap::ensure(service, &self.slice, Some(OnLease(self.lease))).await
    }

    async fn leave(&self, backend: &dyn Backend) {
        match tokio::time::timeout(LEAVE_WITHIN, backend.revoke(self.lease)).await {
            Ok(Ok(())) => {}
            // it goes by itself
            Ok(Err(error)) => tracing::debug!(%error, "the others were not told that this server ends"),
            Err(_) => tracing::debug!("the others were not told in time that this server ends"),
        }
    }
}

/// Keeps this server known to the others, and the others to the administrator's kubeconfig, until the shutdown.
pub async fn run(
    parts: Arc<Parts>,
    advertise: &[SocketAddr],
    kubeconfig: &kubeconfig::File,
    shutdown: CancellationToken,
) {
    let member = parts.members.as_ref().map(|store| format!("{:x}", store.standing().member));
    let Some(presence) = Presence::new(advertise, member.as_deref()) else { return };
    let service = bootstrap::own(Arc::clone(&parts));
    let mut pause = Duration::ZERO;
    while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let Some(renewed) = shutdown.run_until_cancelled(presence.renew(&parts, &service)).await else { break };
        pause = match renewed {
            Ok(()) => RENEW_EVERY,
            Err(why) => {
                tracing::debug!(%why, "this server is not known to the others yet");
                RETRY
            }
        };
        sweep(&parts).await;
        if let Err(error) = kubeconfig.keep(&parts.pki, &servers(&parts)) {
            tracing::warn!(%error, "the administrator's kubeconfig does not name the servers that there are now");
        }
    }
    presence.leave(&*parts.backend).await;
}

/// The slices of all servers.
fn own(parts: &Parts) -> Vec<Arc<Item>> {
    let cache = api::Kind::of::<EndpointSlice>().and_then(|kind| parts.cache.kind(kind));
    let Some(cache) = cache else { return Vec::new() };
    let snapshot = cache.snapshot(0);
    snapshot.after(PREFIX).take_while(|item| item.id.starts_with(PREFIX)).cloned().collect()
}

fn decoded(parts: &Parts) -> Vec<EndpointSlice> {
    let entry = api::Kind::of::<EndpointSlice>().and_then(|kind| parts.registry.of(kind));
    let Some(entry) = entry else { return Vec::new() };
    let objects = own(parts).into_iter().filter_map(|item| item.decode(&**entry).ok());
    objects.filter_map(|object| downcast::<EndpointSlice>(&*object).cloned()).collect()
}

/// The URLs of all servers that serve, in an order that does not change.
pub fn servers(parts: &Parts) -> Vec<String> {
    let mut found = BTreeSet::new();
    for slice in decoded(parts) {
        let Some(port) = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok()) else { continue };
        let endpoints = slice.endpoints.iter().flatten();
        let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok());
        found.extend(addresses.map(|ip| SocketAddr::new(ip, port)));
    }
    found.into_iter().map(|address| format!("https://{address}")).collect()
}

/// The members, hexadecimal, whose servers serve.
pub fn members(parts: &Parts) -> BTreeSet<String> {
    let labels = decoded(parts).into_iter().filter_map(|slice| slice.metadata.labels);
    labels.filter_map(|mut labels| labels.remove(api::members::LABEL)).collect()
}

/// A member was removed: its server is no endpoint any more. What fails here the lease does a little later.
pub async fn end(parts: &Parts, member: &str) {
    remove(parts, |item, labels| item.lease != 0 && labels.get(api::members::LABEL).is_some_and(|id| id == member))
        .await;
}

/// What tells of a server and hangs on no lease would stay for ever: somebody has put back what was of the past.
async fn sweep(parts: &Parts) {
    remove(parts, |item, labels| {
        item.lease == 0 && labels.get("kubernetes.io/service-name").is_some_and(|name| name == "kubernetes")
    })
    .await;
}

async fn remove(parts: &Parts, is_meant: impl Fn(&Item, &BTreeMap<String, String>) -> bool) {
    let entry = api::Kind::of::<EndpointSlice>().and_then(|kind| parts.registry.of(kind));
    let Some(entry) = entry else { return };
    for item in own(parts).into_iter().filter(|item| is_meant(item, &item.facts(&**entry).labels)) {
        let key = storage::key(entry.kind(), &item.id);
        if let Err(error) = storage::delete(&*parts.backend, key, item.revision).await {
            tracing::debug!(%error, slice = item.name(), "an endpoint that is none any more stays a little longer");
        }
    }
}
