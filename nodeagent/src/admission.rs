//! Whether the node can take one more pod. The scheduler has asked itself the same; here nobody slips by.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodSpec};

use crate::qos::footprint;

/// What the node offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory: u64,
    /// Pods.
    pub pods: u32,
}

/// Why a pod is refused, in upstream's words: reason and message of its status. `others` are the pods already taken.
pub fn refuse(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Option<(String, String)> {
    let spec = pod.spec.as_ref()?;
    let lacking = |resource: &str, requested: u128, used: u128, capacity: u128| {
        let message = format!(
            "Pod was rejected: Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        );
        (requested > 0 && used + requested > capacity).then(|| (format!("OutOf{resource}"), message))
    };
    let used = |name: &str| others.iter().filter_map(|p| p.spec.as_ref()).map(|s| footprint(s, name)).sum::<u128>();
    let count = u128::try_from(others.len()).unwrap_or(u128::MAX);
    lacking("pods", 1, count, offer.pods.into())
        .or_else(|| lacking("cpu", footprint(spec, "cpu"), used("cpu"), offer.cpu_millis.into()))
        .or_else(|| {
            let bytes = |n: u128| n / 1000;
            lacking("memory", bytes(footprint(spec, "memory")), bytes(used("memory")), offer.memory.into())
        })
        .or_else(|| {
            let taken: HashSet<_> = others.iter().filter_map(|p| p.spec.as_ref()).flat_map(host_ports).collect();
            host_ports(spec).into_iter().any(|p| taken.contains(&p)).then(|| {
                let message = "Pod was rejected: Node didn't have free ports for the requested pod ports";
                ("NodePorts".to_owned(), message.to_owned())
            })
        })
}

fn host_ports(spec: &PodSpec) -> Vec<(String, i32)> {
    let own_network = spec.host_network != Some(true);
    let port = |p: &ContainerPort| {
        let host_port = p.host_port.filter(|n| *n > 0).or((!own_network).then_some(p.container_port))?;
        Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), host_port))
    };
    spec.containers.iter().flat_map(|c| c.ports.iter().flatten()).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    fn pod(cpu: &str, port: i32) -> Arc<Pod> {
        Arc::new(
            from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}},
                "ports": [{"containerPort": 80, "hostPort": port}]}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let offer = Offer { cpu_millis: 2000, memory: 1 << 30, pods: 2 };
        let reason = |pod: &Pod, others: &[Arc<Pod>]| refuse(pod, others, &offer).map(|(reason, _)| reason);
        assert_eq!(reason(&pod("1", 1), &[pod("1", 2)]), None);
        assert_eq!(reason(&pod("1", 2), &[pod("1", 2)]).as_deref(), Some("NodePorts"));
        assert_eq!(reason(&pod("0", 3), &[pod("0", 1), pod("0", 2)]).as_deref(), Some("OutOfpods"));
        let (reason, message) = refuse(&pod("1500m", 1), &[pod("1", 2)], &offer).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert!(message.ends_with("resource: cpu, requested: 1500, used: 1000, capacity: 2000"), "{message}");
    }
}
