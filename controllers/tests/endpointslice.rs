//! Whatever Pods a Service has and had: its slices hold exactly the endpoints that there are, within their limit, and a
//! second look finds nothing to do.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::Arc};

use controllers::endpointslice::{PER_SLICE, plan::plan};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::json;

/// A Pod on a port of its own choice behind the name `http`.
fn pod(n: u16, port: u16, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let pod = json!({
        "metadata": {"name": format!("pod-{n:03}"), "namespace": "web", "uid": format!("uid-{n}")},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "phase": "Running", "podIP": format!("10.42.{}.{}", n / 200, n % 200 + 1),
            "conditions": [{"type": "Ready", "status": status}],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn service() -> Service {
    let service = json!({
        "metadata": {"name": "web", "namespace": "web", "uid": "service"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    serde_json::from_value(service).unwrap()
}

/// Does what is planned; how many writes that took.
fn apply(slices: &mut Vec<Arc<EndpointSlice>>, pods: &[Arc<Pod>], made: &mut u32) -> usize {
    let plan = plan(&service(), pods, slices);
    slices.retain(|s| !plan.delete.iter().any(|k| k.name == s.name_any()));
    for new in &plan.update {
        let old = slices.iter_mut().find(|s| s.name_any() == new.name_any()).unwrap();
        *old = Arc::new(new.clone());
    }
    for new in &plan.create {
        *made += 1;
        let mut new = new.clone();
        new.metadata.name = Some(format!("web-{made}"));
        slices.push(Arc::new(new));
    }
    plan.create.len() + plan.update.len() + plan.delete.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn slices_follow_the_pods(
        rounds in prop::collection::vec(prop::collection::btree_map(0u16..300, (0u16..10, any::<bool>()), 0..280), 1..5),
    ) {
        let (mut slices, mut made) = (Vec::new(), 0);
        for round in rounds {
            // One Pod in ten listens elsewhere.
            let pods: Vec<_> = round.iter().map(|(n, (p, ready))| pod(*n, if *p == 0 { 81 } else { 80 }, *ready)).collect();
            apply(&mut slices, &pods, &mut made);
            let mut held = BTreeSet::new();
            for slice in &slices {
                let endpoints = slice.endpoints.clone().unwrap_or_default();
                prop_assert!(endpoints.len() <= PER_SLICE);
                let port = slice.ports.as_ref().unwrap().first().and_then(|p| p.port).unwrap_or_default();
                for endpoint in endpoints {
                    let ready = endpoint.conditions.unwrap().ready.unwrap();
                    prop_assert!(held.insert((endpoint.addresses[0].clone(), port, ready)), "an endpoint is held twice");
                }
            }
            let wanted: BTreeSet<_> = round
                .iter()
                .map(|(n, (p, ready))| (format!("10.42.{}.{}", n / 200, n % 200 + 1), if *p == 0 { 81 } else { 80 }, *ready))
                .collect();
            prop_assert_eq!(held, wanted);
            prop_assert_eq!(apply(&mut slices, &pods, &mut made), 0, "a second look must find nothing to do");
        }
    }
}

#[test]
fn one_pod_that_comes_costs_one_write() {
    let mut pods: Vec<_> = (0..250).map(|n| pod(n, 80, true)).collect();
    let (mut slices, mut made) = (Vec::new(), 0);
    assert_eq!(apply(&mut slices, &pods, &mut made), 3);
    pods.push(pod(299, 80, false));
    assert_eq!(apply(&mut slices, &pods, &mut made), 1);
    pods.remove(0);
    assert_eq!(apply(&mut slices, &pods, &mut made), 1);
    assert_eq!(apply(&mut slices, &[], &mut made), 4, "all go, and one empty slice comes");
    assert_eq!(slices.len(), 1);
}
