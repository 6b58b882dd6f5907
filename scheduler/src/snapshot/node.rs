//! One node: what it is, what it has, and what is taken.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node as Object, Taint};

use super::GroupId;
use crate::{
    amounts::Amounts,
    shape::{HostPort, Shape},
};

/// What of a node changed, as far as it can let a waiting pod in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// It was not there before.
    pub appeared: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints, or whether it takes pods at all.
    pub taints: bool,
    /// What it has.
    pub allocatable: bool,
}

impl Difference {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self.appeared || self.labels || self.taints || self.allocatable
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// It exists; otherwise only pods that say they are on it do.
    pub known: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `kubectl cordon`.
    pub unschedulable: bool,
    /// What it has for pods.
    pub allocatable: Amounts,
    /// What its pods asked for.
    pub requested: Amounts,
    /// The same, with what pods count as that ask for nothing.
    pub weighed: Amounts,
    /// Ports in use. A port is listed once per pod.
    pub ports: Vec<HostPort>,
    /// How many of its pods have each set of labels.
    pub groups: Vec<(GroupId, u32)>,
    /// Pods that keep others away.
    pub repellers: Vec<Arc<Shape>>,
}

impl Node {
    pub(super) fn update(&mut self, object: &Object) -> Difference {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let spec = object.spec.clone().unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        let unschedulable = spec.unschedulable == Some(true);
        let allocatable = object.status.as_ref().and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let allocatable = allocatable.map(Amounts::of).unwrap_or_default();
        let difference = Difference {
            appeared: false,
            labels: self.labels != labels,
            taints: self.taints != taints || self.unschedulable != unschedulable,
            allocatable: self.allocatable != allocatable,
        };
        (self.labels, self.taints, self.unschedulable) = (labels, taints, unschedulable);
        self.allocatable = allocatable;
        difference
    }

    pub(super) fn forget(&mut self) {
        self.known = false;
        self.labels.clear();
        self.taints.clear();
        self.allocatable = Amounts::default();
    }

    pub(super) fn add(&mut self, shape: &Arc<Shape>, group: GroupId) {
        self.requested.add(&shape.requests);
        self.weighed.add(&shape.weighed);
        self.ports.extend(shape.ports.iter().cloned());
        match self.groups.iter_mut().find(|(id, _)| *id == group) {
            Some((_, pods)) => *pods += 1,
            None => self.groups.push((group, 1)),
        }
        if !shape.away.is_empty() {
            self.repellers.push(Arc::clone(shape));
        }
    }

    pub(super) fn remove(&mut self, shape: &Arc<Shape>, group: GroupId) {
        self.requested.subtract(&shape.requests);
        self.weighed.subtract(&shape.weighed);
        for port in &shape.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        if let Some(at) = self.groups.iter().position(|(id, _)| *id == group) {
            self.groups[at].1 -= 1;
            if self.groups[at].1 == 0 {
                self.groups.swap_remove(at);
            }
        }
        if !shape.away.is_empty()
            && let Some(at) = self.repellers.iter().position(|s| s.key == shape.key)
        {
            self.repellers.swap_remove(at);
        }
    }

    /// How many of its pods have this set of labels.
    pub fn count(&self, group: GroupId) -> u32 {
        self.groups.iter().find(|(id, _)| *id == group).map_or(0, |(_, pods)| *pods)
    }
}
