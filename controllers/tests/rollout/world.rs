//! One Deployment with its ReplicaSets and Pods, moved by the controllers' plans and by a pretended node.

use std::{collections::BTreeSet, sync::Arc};

use controllers::{
    deployment::{condition, plan as deployment, revision},
    replicaset,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
        core::v1::{Pod, PodCondition, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt,
    api::ObjectMeta,
    core::{Selector, SelectorExt},
};

pub struct World {
    pub deployment: Deployment,
    pub sets: Vec<ReplicaSet>,
    pub pods: Vec<Pod>,
    pub now: Timestamp,
    made: u32,
}

impl World {
    pub fn new() -> Self {
        let deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "web", "generation": 1},
            "spec": {
                "replicas": 3, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "v1"}]},
                },
            },
        }));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self { deployment: deployment.unwrap(), sets: Vec::new(), pods: Vec::new(), now, made: 0 }
    }

    /// A user changes the Deployment.
    pub fn edit(&mut self, change: impl FnOnce(&mut Deployment)) {
        let before = self.deployment.spec.clone();
        change(&mut self.deployment);
        if self.deployment.spec != before {
            *self.deployment.metadata.generation.as_mut().unwrap() += 1;
        }
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Stamps a new object as an API server does.
    fn stamp(&mut self, meta: &mut ObjectMeta) {
        self.made += 1;
        self.now += SignedDuration::from_millis(1);
        let n = self.made;
        meta.uid = Some(format!("uid-{n}"));
        meta.creation_timestamp = Some(Time(self.now));
        meta.generation = Some(1);
        let prefix = meta.generate_name.take();
        meta.name = meta.name.take().or(prefix.map(|p| format!("{p}{n}")));
    }

    /// The Deployment controller looks once.
    pub fn deployment(&mut self) -> deployment::Plan {
        let selector: Selector = self.deployment.spec.selector.clone().try_into().unwrap();
        let busy: BTreeSet<String> = self.pods.iter().map(|p| p.owner_references()[0].uid.clone()).collect();
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let plan = deployment::plan(&deployment::Observed {
            deployment: &self.deployment,
            selector: &selector,
            sets: &sets,
            busy: &busy,
            now: self.now,
        });
        assert!(plan.adopt.is_empty() && plan.release.is_empty());
        if let Some(mut set) = plan.create.clone() {
            self.stamp(&mut set.metadata);
            self.sets.push(set);
        }
        for new in &plan.update {
            let old = self.sets.iter_mut().find(|s| s.name_any() == new.name_any()).unwrap();
            let changed = old.spec != new.spec;
            *old = new.clone();
            if changed {
                *old.metadata.generation.as_mut().unwrap() += 1;
            }
        }
        self.sets.retain(|s| !plan.delete.iter().any(|k| k.name == s.name_any()));
        self.deployment.status = Some(plan.status.clone());
        if let Some(revision) = &plan.revision {
            self.deployment.annotations_mut().insert(revision::REVISION.into(), revision.clone());
        }
        plan
    }

    /// The ReplicaSet controller looks at one of them; whether anything changed.
    pub fn set(&mut self, index: usize) -> bool {
        let Some(set) = self.sets.get(index).cloned() else { return false };
        let selector: Selector = set.spec.selector.clone().try_into().unwrap();
        let mine = |p: &&Pod| p.owner_references()[0].uid == *set.metadata.uid.as_ref().unwrap();
        let pods: Vec<_> = self.pods.iter().filter(mine).cloned().map(Arc::new).collect();
        assert!(pods.iter().all(|p| selector.matches(p.labels())));
        let plan = replicaset::plan(&replicaset::Observed {
            set: &set,
            selector: &selector,
            pods: &pods,
            neighbours: &replicaset::rank::Neighbours::default(),
            now: self.now,
        });
        for _ in 0..plan.create {
            let mut pod = replicaset::from_template(&set);
            self.stamp(&mut pod.metadata);
            self.pods.push(pod);
        }
        for key in &plan.delete {
            let pod = self.pods.iter_mut().find(|p| p.name_any() == key.name).unwrap();
            pod.metadata.deletion_timestamp = Some(Time(self.now));
        }
        let changed = set.status.as_ref() != Some(&plan.status) || plan.create > 0 || !plan.delete.is_empty();
        self.sets[index].status = Some(plan.status);
        changed
    }

    /// The node makes one Pod ready (unless its image is `bad`), or ends one that was deleted; whether there was one.
    pub fn node(&mut self, index: usize) -> bool {
        if self.pods.is_empty() {
            return false;
        }
        let index = index % self.pods.len();
        if self.pods[index].metadata.deletion_timestamp.is_some() {
            self.pods.remove(index);
            return true;
        }
        let pod = &mut self.pods[index];
        let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
        if image == "bad" || is_ready(pod) {
            return false;
        }
        let ready = PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(self.now)),
            ..PodCondition::default()
        };
        let (phase, conditions) = (Some("Running".into()), Some(vec![ready]));
        pod.status = Some(PodStatus { phase, conditions, ..PodStatus::default() });
        true
    }

    /// All ReplicaSets and the node, until nothing changes; the Deployment controller does not look.
    pub fn workloads(&mut self) {
        loop {
            let mut changed = false;
            for index in 0..self.sets.len() {
                changed |= self.set(index);
            }
            for index in (0..self.pods.len()).rev() {
                changed |= self.node(index);
            }
            if !changed {
                return;
            }
        }
    }

    /// Everybody, until nothing changes.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            self.workloads();
            let before = (self.deployment.status.clone(), self.sets.clone());
            self.deployment();
            if before == (self.deployment.status.clone(), self.sets.clone()) {
                return;
            }
        }
        panic!("the rollout does not settle:\n{}", self.show());
    }

    pub fn active(&self) -> usize {
        self.pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).count()
    }

    pub fn available(&self) -> usize {
        self.pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none() && is_ready(p)).count()
    }

    /// The name of a ReplicaSet as a reader knows it: by its image.
    pub fn label(&self, name: &str) -> String {
        let set = self.sets.iter().find(|s| s.name_any() == name);
        set.map_or_else(|| "(deleted)".into(), |s| image(s).to_owned())
    }

    pub fn show(&self) -> String {
        let mut lines: Vec<String> = self
            .sets
            .iter()
            .map(|s| {
                let status = s.status.clone().unwrap_or_default();
                format!(
                    "{:<4} revision {} wants {} has {} available {}\n",
                    image(s),
                    s.annotations().get(revision::REVISION).map_or("-", String::as_str),
                    s.spec.replicas.unwrap_or(1),
                    status.replicas,
                    status.available_replicas.unwrap_or_default(),
                )
            })
            .collect();
        lines.push(show_status(self.deployment.status.as_ref().unwrap()));
        lines.concat()
    }
}

pub fn image(set: &ReplicaSet) -> &str {
    let spec = set.spec.template.as_ref().unwrap().spec.as_ref().unwrap();
    spec.containers[0].image.as_deref().unwrap()
}

pub fn show_status(status: &DeploymentStatus) -> String {
    let n = |n: Option<i32>| n.unwrap_or_default();
    let mut text = format!(
        "status replicas={} updated={} ready={} available={} unavailable={}\n",
        n(status.replicas),
        n(status.updated_replicas),
        n(status.ready_replicas),
        n(status.available_replicas),
        n(status.unavailable_replicas),
    );
    for kind in [condition::AVAILABLE, condition::PROGRESSING, condition::FAILURE] {
        if let Some(c) = condition::get(status, kind) {
            text += &format!("       {kind}={} {}\n", c.status.as_deref().unwrap(), c.reason.as_deref().unwrap());
        }
    }
    text
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
