//! Which slices a Service should have, with the fewest writes. Pure.

use std::{collections::BTreeMap, sync::Arc};

use client::{Key, owner};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};
use kube::{ResourceExt, api::ObjectMeta};

use super::{
    PER_SLICE,
    endpoint::{endpoint, families, identity, labels, name, ports},
};

/// What to do about the slices of one Service.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// New slices; the API server names them.
    pub create: Vec<EndpointSlice>,
    /// Slices as they should be.
    pub update: Vec<EndpointSlice>,
    /// Slices that hold nothing any more.
    pub delete: Vec<Key>,
}

/// Endpoints by identity.
type Wanted = BTreeMap<(String, String), Endpoint>;

/// Decides. Pods of one Service may have different ports behind the same name: each set of ports has slices of its own.
pub fn plan(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let families = families(service);
    let mut unused: Vec<&Arc<EndpointSlice>> = slices.iter().collect();
    for family in &families {
        let mut groups: Vec<(Vec<EndpointPort>, Wanted)> = Vec::new();
        for pod in pods {
            let Some(endpoint) = endpoint(service, pod, family) else { continue };
            let ports = ports(service, pod);
            let group = match groups.iter().position(|(p, _)| *p == ports) {
                Some(i) => &mut groups[i].1,
                None => {
                    groups.push((ports, Wanted::new()));
                    &mut groups.last_mut().expect("invariant: a group was just pushed").1
                }
            };
            group.insert(identity(&endpoint), endpoint);
        }
        if groups.is_empty() {
            // One empty slice says that the Service is known and has nobody.
            groups.push((Vec::new(), Wanted::new()));
        }
        for (ports, wanted) in groups {
            let (mine, rest): (Vec<_>, Vec<_>) = unused
                .into_iter()
                .partition(|s| s.address_type == *family && s.ports.clone().unwrap_or_default() == ports);
            unused = rest;
            fill(service, family, &ports, wanted, &mine, &mut plan);
        }
    }
    plan.delete.extend(unused.into_iter().map(|s| Key::of(s.as_ref())));
    plan
}

/// Puts the wanted endpoints into the slices of one group.
fn fill(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    mut wanted: Wanted,
    slices: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let empty = wanted.is_empty();
    // What is wanted and is there stays where it is, as it is now.
    let mut drafts: Vec<EndpointSlice> = slices
        .iter()
        .map(|slice| {
            let mut draft = slice.as_ref().clone();
            let kept = draft.endpoints.iter().flatten().filter_map(|e| wanted.remove(&identity(e))).collect();
            draft.endpoints = Some(kept);
            draft.metadata.labels = Some(labels(service));
            draft
        })
        .collect();
    let size = |s: &EndpointSlice| s.endpoints.as_ref().map_or(0, Vec::len);
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    fresh.sort_by_key(name);
    let mut fresh = fresh.into_iter().peekable();
    // New ones go first into slices that are written anyway, then into the fullest that has room.
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|&i| (same(&drafts[i], slices[i]), std::cmp::Reverse(size(&drafts[i]))));
    for i in order {
        while size(&drafts[i]) < PER_SLICE
            && let Some(endpoint) = fresh.next()
        {
            drafts[i].endpoints.get_or_insert_default().push(endpoint);
        }
    }
    while fresh.peek().is_some() {
        plan.create.push(slice(service, family, ports, fresh.by_ref().take(PER_SLICE).collect()));
    }
    if empty && slices.is_empty() {
        plan.create.push(slice(service, family, ports, Vec::new()));
    }
    let mut kept = 0;
    for (draft, seen) in drafts.into_iter().zip(slices) {
        if size(&draft) == 0 && !(empty && kept == 0) {
            plan.delete.push(Key::of(&draft));
            continue;
        }
        kept += 1;
        if !same(&draft, seen) {
            plan.update.push(draft);
        }
    }
}

/// Whether there is nothing to write. No endpoints and an empty list of them are the same.
fn same(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    a.metadata.labels == b.metadata.labels
        && a.endpoints.as_deref().unwrap_or_default() == b.endpoints.as_deref().unwrap_or_default()
}

fn slice(service: &Service, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: owner::controller_reference(service).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}
