//! What a pod's requests and limits mean to the kernel: quality of service, weights, quotas.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::runtime::Resources;

/// Upstream's classes of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Every container has CPU and memory limits, and requests equal to them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Class {
    /// As in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The value of a quantity in thousandths, rounded up; none when it is malformed or negative.
pub fn millis(quantity: &Quantity) -> Option<u128> {
    let amount = api::quantity::Quantity::try_from(quantity).ok()?;
    u128::try_from(amount.millis()).ok()
}

/// The value of a quantity, rounded up.
pub fn units(quantity: &Quantity) -> Option<u64> {
    u64::try_from(millis(quantity)?.div_ceil(1000)).ok()
}

type Amounts = BTreeMap<String, Quantity>;

fn amount(of: Option<&Amounts>, resource: &str) -> Option<u128> {
    of?.get(resource).and_then(millis).filter(|n| *n > 0)
}

fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<u128> {
    let resources = resources?;
    amount(resources.requests.as_ref(), name).or_else(|| amount(resources.limits.as_ref(), name))
}

fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<u128> {
    amount(resources?.limits.as_ref(), name)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The class of a pod (upstream's `ComputePodQOS`).
pub fn class(spec: &PodSpec) -> Class {
    let names = ["cpu", "memory"];
    let of = |c: &Container| c.resources.clone();
    let any = containers(spec).any(|c| names.iter().any(|n| request(of(c).as_ref(), n).is_some()));
    if !any {
        return Class::BestEffort;
    }
    let full = |c: &Container| {
        let resources = c.resources.as_ref();
        names.iter().all(|n| limit(resources, n).is_some() && limit(resources, n) == request(resources, n))
    };
    if containers(spec).all(full) { Class::Guaranteed } else { Class::Burstable }
}

/// Most processes and threads of a container, unless the node says otherwise.
pub const PIDS: u64 = 4096;

/// A container's limits.
pub fn resources(container: &Container) -> Resources {
    let wanted = container.resources.as_ref();
    let cpu = request(wanted, "cpu").unwrap_or(0);
    Resources {
        cpu_shares: Some(shares(cpu)),
        cpu_limit_millis: limit(wanted, "cpu").and_then(|m| u64::try_from(m).ok()),
        memory_limit: limit(wanted, "memory").and_then(|m| u64::try_from(m.div_ceil(1000)).ok()),
        pids_limit: Some(PIDS),
    }
}

/// The limits of a pod as a whole: a weight always, a limit where every container has one.
pub fn pod_resources(spec: &PodSpec) -> Resources {
    let all = |name: &str| spec.containers.iter().map(|c| limit(c.resources.as_ref(), name)).sum::<Option<u128>>();
    let requested: u128 = spec.containers.iter().filter_map(|c| request(c.resources.as_ref(), "cpu")).sum();
    let plain = spec.init_containers.as_ref().is_none_or(Vec::is_empty);
    Resources {
        cpu_shares: Some(shares(requested)),
        cpu_limit_millis: all("cpu").filter(|_| plain).and_then(|m| u64::try_from(m).ok()),
        memory_limit: all("memory").filter(|_| plain).and_then(|m| u64::try_from(m.div_ceil(1000)).ok()),
        pids_limit: None,
    }
}

fn shares(millis: u128) -> u64 {
    u64::try_from(millis * 1024 / 1000).unwrap_or(u64::MAX).clamp(2, 262_144)
}

/// How readily the kernel kills it for want of memory (upstream's `GetContainerOOMScoreAdjust`).
pub fn oom_score(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    match class(spec) {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let bytes = request(container.resources.as_ref(), "memory").unwrap_or(0) / 1000;
            let score = 1000 - i64::try_from(1000 * bytes / u128::from(node_memory.max(1))).unwrap_or(1000);
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What a pod takes from its node's capacity: the sum of its containers, or the largest moment of its initialization.
pub fn footprint(spec: &PodSpec, name: &str) -> u128 {
    let want = |c: &Container| request(c.resources.as_ref(), name).unwrap_or(0);
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += want(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + want(container));
        }
    }
    let overhead = spec.overhead.as_ref().and_then(|o| o.get(name)).and_then(millis).unwrap_or(0);
    peak.max(sidecars + spec.containers.iter().map(want).sum::<u128>()) + overhead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_as_upstream_computes_them() {
        let spec = |json| serde_json::from_value::<PodSpec>(json).unwrap();
        let none = spec(serde_json::json!({"containers": [{"name": "a"}]}));
        let some = spec(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        let full = spec(serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}));
        assert_eq!(
            [class(&none), class(&some), class(&full)],
            [Class::BestEffort, Class::Burstable, Class::Guaranteed]
        );
        assert_eq!(resources(&full.containers[0]).cpu_shares, Some(1024));
        assert_eq!(resources(&none.containers[0]).cpu_shares, Some(2));
        assert_eq!(resources(&full.containers[0]).memory_limit, Some(1 << 30));
        assert_eq!(oom_score(&full, &full.containers[0], 8 << 30), -997);
        assert_eq!(footprint(&full, "cpu"), 1000);
    }
}
