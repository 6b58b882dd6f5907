//! What containers ask for and may use, and the class of service that follows.

use std::collections::BTreeMap;

use api::{
    field::{Error, Errors, Path},
    quantity::Quantity,
};
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use crate::strategy::rules;

/// The resources that decide the class.
const CLASSED: [&str; 2] = ["cpu", "memory"];

/// Asks for what is limited, where nothing is asked for.
pub(super) fn requests_from_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, amount) in limits {
        requests.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

/// Writes amounts as upstream does when it stores them: `0.5` is `500m`, `1024Mi` is `1Gi`.
pub(super) fn canonical(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    for amount in [&mut resources.requests, &mut resources.limits].into_iter().flatten().flat_map(|m| m.values_mut()) {
        if let Ok(read) = Quantity::try_from(&*amount) {
            *amount = read.into();
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn qos(spec: &PodSpec) -> &'static str {
    let all: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let read = |map: &Option<BTreeMap<String, Text>>, name: &str| {
        map.as_ref()?.get(name).and_then(|q| Quantity::try_from(q).ok()).filter(|q| !q.is_zero())
    };
    let amounts = |container: &Container, name: &str| {
        let resources = container.resources.clone().unwrap_or_default();
        (read(&resources.requests, name), read(&resources.limits, name))
    };
    let pairs: Vec<_> = all.iter().flat_map(|c| CLASSED.map(|name| amounts(c, name))).collect();
    if pairs.iter().all(|(request, limit)| request.is_none() && limit.is_none()) {
        "BestEffort"
    } else if pairs.iter().all(|(request, limit)| limit.is_some() && request.is_none_or(|r| Some(r) == *limit)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What is wrong with a container's resources.
pub(super) fn validate(resources: &ResourceRequirements, path: &Path, errors: &mut Errors) {
    let read = |map: &Option<BTreeMap<String, Text>>, path: &Path, errors: &mut Errors| {
        let mut amounts = BTreeMap::new();
        for (name, text) in map.iter().flatten() {
            let path = path.key(name);
            resource_name(name, &path, errors);
            match Quantity::try_from(text) {
                Ok(amount) if amount.is_negative() => {
                    errors.push(Error::invalid(&path, &text.0, "must be greater than or equal to 0"));
                }
                Ok(amount) => drop(amounts.insert(name.clone(), amount)),
                Err(error) => errors.push(Error::invalid(&path, &text.0, error.to_string())),
            }
        }
        amounts
    };
    let limits = read(&resources.limits, &path.child("limits"), errors);
    let path = path.child("requests");
    let requests = read(&resources.requests, &path, errors);
    for (name, request) in &requests {
        if let Some(limit) = limits.get(name).filter(|limit| request > *limit) {
            let why = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(Error::invalid(&path, request.to_string(), why));
        }
    }
}

fn resource_name(name: &str, path: &Path, errors: &mut Errors) {
    const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    rules::qualified(errors, path, name);
    if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(amounts: &[(&str, &str, &str)]) -> PodSpec {
        let mut container = Container::default();
        let resources = container.resources.get_or_insert_default();
        for (name, request, limit) in amounts {
            if !request.is_empty() {
                resources.requests.get_or_insert_default().insert((*name).into(), Text((*request).into()));
            }
            if !limit.is_empty() {
                resources.limits.get_or_insert_default().insert((*name).into(), Text((*limit).into()));
            }
        }
        PodSpec { containers: vec![container], ..PodSpec::default() }
    }

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        assert_eq!(qos(&spec(&[])), "BestEffort");
        assert_eq!(qos(&spec(&[("ephemeral-storage", "1Gi", "")])), "BestEffort");
        assert_eq!(qos(&spec(&[("cpu", "100m", "")])), "Burstable");
        assert_eq!(qos(&spec(&[("cpu", "1", "1000m"), ("memory", "1Gi", "1024Mi")])), "Guaranteed");
        assert_eq!(qos(&spec(&[("cpu", "1", "2"), ("memory", "1Gi", "1Gi")])), "Burstable");
    }

    #[test]
    fn what_is_asked_for_may_not_exceed_what_is_allowed() {
        let spec = spec(&[("cpu", "2", "500m"), ("gpu", "1", ""), ("memory", "-1", "")]);
        let mut errors = Errors::new();
        validate(spec.containers[0].resources.as_ref().unwrap(), &Path::new("resources"), &mut errors);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                "resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 500m",
            ]
        );
    }
}
