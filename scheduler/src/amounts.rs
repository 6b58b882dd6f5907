//! Amounts of resources: what a pod asks for, what a node has.

use std::{collections::BTreeMap, sync::Arc};

use api::quantity::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

/// What a container without a request counts as when nodes are compared; thousandths of a CPU (upstream's value).
const UNASKED_CPU: i64 = 100;
/// What a container without a request counts as when nodes are compared; bytes (upstream's value).
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

/// A vector of resources. The usual ones have a place of their own, so that adding and comparing costs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub storage: i64,
    /// Number of pods.
    pub pods: i64,
    /// All other resources, by name, in units.
    pub other: BTreeMap<Arc<str>, i64>,
}

impl Amounts {
    /// Reads a list of resources; what is no quantity counts as nothing (the API lets none through).
    pub fn of(map: &BTreeMap<String, Text>) -> Self {
        let mut amounts = Self::default();
        for (name, text) in map {
            let amount = Quantity::try_from(text).unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => amounts.cpu = amount.millis(),
                "memory" => amounts.memory = amount.units(),
                "ephemeral-storage" => amounts.storage = amount.units(),
                "pods" => amounts.pods = amount.units(),
                other => drop(amounts.other.insert(other.into(), amount.units())),
            }
        }
        amounts
    }

    /// Adds.
    pub fn add(&mut self, more: &Self) {
        self.change(more, 1);
    }

    /// Takes away.
    pub fn subtract(&mut self, less: &Self) {
        self.change(less, -1);
    }

    fn change(&mut self, by: &Self, sign: i64) {
        self.cpu += sign * by.cpu;
        self.memory += sign * by.memory;
        self.storage += sign * by.storage;
        self.pods += sign * by.pods;
        for (name, amount) in &by.other {
            let entry = self.other.entry(Arc::clone(name)).or_default();
            *entry += sign * amount;
            if *entry == 0 {
                self.other.remove(name);
            }
        }
    }

    /// The larger of both, resource by resource.
    fn larger(&mut self, than: &Self) {
        self.cpu = self.cpu.max(than.cpu);
        self.memory = self.memory.max(than.memory);
        self.storage = self.storage.max(than.storage);
        for (name, amount) in &than.other {
            let entry = self.other.entry(Arc::clone(name)).or_default();
            *entry = (*entry).max(*amount);
        }
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    resources.and_then(|r| r.requests.as_ref()).map(Amounts::of).unwrap_or_default()
}

/// As [`requests`], with what a container counts as that asks for nothing.
fn weighed(container: &Container) -> Amounts {
    let named = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let mut amounts = requests(container.resources.as_ref());
    if named.is_none_or(|n| !n.contains_key("cpu")) {
        amounts.cpu = UNASKED_CPU;
    }
    if named.is_none_or(|n| !n.contains_key("memory")) {
        amounts.memory = UNASKED_MEMORY;
    }
    amounts
}

/// What a whole pod needs at once: all its containers and sidecars, or its greediest init container (KEP-753).
pub fn of_pod(spec: &PodSpec) -> Amounts {
    let mut amounts = total(spec, |c| requests(c.resources.as_ref()));
    let whole = requests(spec.resources.as_ref());
    let named =
        |name: &str| spec.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key(name));
    if named("cpu") {
        amounts.cpu = whole.cpu;
    }
    if named("memory") {
        amounts.memory = whole.memory;
    }
    if let Some(overhead) = &spec.overhead {
        amounts.add(&Amounts::of(overhead));
    }
    amounts.pods = 1;
    amounts
}

/// The same with what containers count as that ask for nothing: for comparing nodes only.
pub fn weighed_pod(spec: &PodSpec) -> Amounts {
    total(spec, weighed)
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut running = Amounts::default();
    let mut most = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&now);
            most.larger(&running);
        } else {
            now.add(&running);
            most.larger(&now);
        }
    }
    for container in &spec.containers {
        running.add(&of(container));
    }
    running.larger(&most);
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: &str, sidecar: bool) -> Container {
        let mut container = Container::default();
        let requests = container.resources.get_or_insert_default().requests.get_or_insert_default();
        requests.insert("cpu".into(), Text(cpu.into()));
        container.restart_policy = sidecar.then(|| "Always".into());
        container
    }

    #[test]
    fn init_containers_run_one_after_the_other_and_sidecars_stay() {
        let spec = |init: Vec<Container>| PodSpec {
            containers: vec![container("1", false), container("500m", false)],
            init_containers: Some(init),
            ..PodSpec::default()
        };
        assert_eq!(of_pod(&spec(vec![])).cpu, 1500);
        assert_eq!(of_pod(&spec(vec![container("2", false), container("1", false)])).cpu, 2000);
        assert_eq!(of_pod(&spec(vec![container("200m", true)])).cpu, 1700);
        assert_eq!(of_pod(&spec(vec![container("200m", true), container("2", false)])).cpu, 2200);
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing() {
        let gpu = BTreeMap::from([("example.com/gpu".to_owned(), Text("2".into()))]);
        let mut amounts = Amounts::default();
        amounts.add(&Amounts::of(&gpu));
        assert_eq!(amounts.other.values().sum::<i64>(), 2);
        amounts.subtract(&Amounts::of(&gpu));
        assert_eq!(amounts, Amounts::default());
    }
}
