//! Fields of a pod that it may read itself: the downward API.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::qos;

/// What only the node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// Thousandths of CPUs that pods of this node may use: what a container without a limit is told.
    pub cpu_millis: u64,
    /// Bytes that pods of this node may use.
    pub memory: u64,
}

/// The text of a field; `None` when there is no such field.
pub fn field(pod: &Pod, path: &str, place: &Place) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
        "status.hostIP" => place.host_ips.first().cloned(),
        "status.hostIPs" => Some(place.host_ips.join(",")),
        "status.podIP" => place.pod_ips.first().cloned(),
        "status.podIPs" => Some(place.pod_ips.join(",")),
        other => return subscript(pod, other),
    };
    Some(text.unwrap_or_default())
}

/// `metadata.labels['app']`.
fn subscript(pod: &Pod, path: &str) -> Option<String> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    let map = match map {
        "metadata.labels" => pod.metadata.labels.as_ref(),
        "metadata.annotations" => pod.metadata.annotations.as_ref(),
        _ => return None,
    };
    Some(map.and_then(|m| m.get(key)).cloned().unwrap_or_default())
}

/// `key="value"` lines, sorted, with Go's quoting.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let quoted = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", serde_json::Value::from(v.as_str())));
    quoted.collect::<Vec<_>>().join("\n")
}

/// The text of a container's request or limit, in units of the divisor, rounded up; `None` when there is no such resource.
pub fn resource(container: &Container, selector: &ResourceFieldSelector, place: &Place) -> Option<String> {
    let (which, name) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()?.get(name)).and_then(qos::millis);
    let request = resources.and_then(|r| r.requests.as_ref()?.get(name)).and_then(qos::millis);
    let node = match name {
        "cpu" => u128::from(place.cpu_millis),
        "memory" => u128::from(place.memory) * 1000,
        _ => 0,
    };
    let value = match which {
        "limits" => limit.unwrap_or(node),
        "requests" => request.or(limit).unwrap_or(0),
        _ => return None,
    };
    let one = Quantity("1".into());
    let divisor = qos::millis(selector.divisor.as_ref().unwrap_or(&one)).filter(|d| *d > 0).unwrap_or(1000);
    Some(value.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "labels": {"app": "a\"b", "tier": "x"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let place = Place { pod_ips: vec!["10.42.0.5".into()], cpu_millis: 4000, ..Place::default() };
        assert_eq!(field(&pod, "metadata.labels", &place).unwrap(), "app=\"a\\\"b\"\ntier=\"x\"");
        assert_eq!(field(&pod, "metadata.labels['tier']", &place).unwrap(), "x");
        assert_eq!(field(&pod, "status.podIP", &place).unwrap(), "10.42.0.5");
        assert_eq!(field(&pod, "spec.containers", &place), None);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let of = |resource: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                resource: resource.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
                ..ResourceFieldSelector::default()
            };
            super::resource(container, &selector, &place)
        };
        assert_eq!(of("limits.cpu", None).unwrap(), "2");
        assert_eq!(of("limits.cpu", Some("1m")).unwrap(), "1500");
        assert_eq!(of("requests.memory", Some("1Mi")).unwrap(), "64");
        assert_eq!(of("size.cpu", None), None);
    }
}
