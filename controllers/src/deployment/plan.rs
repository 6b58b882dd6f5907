//! What to do about one Deployment. Pure.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use client::{Key, owner};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    ResourceExt,
    api::ObjectMeta,
    core::{Selector, SelectorExt},
};

use super::{
    condition, revision,
    rollout::{self, Bounds, replicas},
};

/// What is seen of one Deployment.
pub struct Observed<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// Its selector.
    pub selector: &'a Selector,
    /// ReplicaSets that it owns or that match its selector.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Uids of ReplicaSets of which a Pod may still run, also one that is being deleted.
    pub busy: &'a BTreeSet<String>,
    /// The time.
    pub now: Timestamp,
}

/// One change of a ReplicaSet's size, to be told as an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Scaled {
    /// The ReplicaSet.
    pub name: String,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
}

/// What to do about one Deployment.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// ReplicaSets to become its own.
    pub adopt: Vec<Key>,
    /// ReplicaSets to let go.
    pub release: Vec<Key>,
    /// The ReplicaSet of a new template.
    pub create: Option<ReplicaSet>,
    /// ReplicaSets as they should be.
    pub update: Vec<ReplicaSet>,
    /// ReplicaSets that are only history, and too much of it.
    pub delete: Vec<Key>,
    /// What was scaled, for events.
    pub scaled: Vec<Scaled>,
    /// The status.
    pub status: DeploymentStatus,
    /// The revision that the Deployment should carry, when it does not.
    pub revision: Option<String>,
    /// When the progress deadline runs out.
    pub again: Option<Duration>,
}

/// Decides. Pure.
pub fn plan(seen: &Observed<'_>) -> Plan {
    let mut draft = Draft::of(seen);
    let spec = seen.deployment.spec.clone();
    if seen.deployment.metadata.deletion_timestamp.is_some() {
        return draft.finish(false);
    }
    condition::pause(seen.deployment, &mut draft.status, seen.now);
    let paused = spec.paused.unwrap_or_default();
    if paused || draft.is_resized() {
        draft.annotate();
        draft.resize();
        if paused {
            draft.trim();
        }
        return draft.finish(false);
    }
    if draft.recreate {
        draft.recreate();
    } else {
        draft.roll();
    }
    draft.finish(true)
}

/// The ReplicaSets as they are being changed. What differs from what was seen at the end is written.
struct Draft<'a> {
    seen: &'a Observed<'a>,
    spec: DeploymentSpec,
    bounds: Bounds,
    recreate: bool,
    old: Vec<ReplicaSet>,
    new: Option<ReplicaSet>,
    status: DeploymentStatus,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn of(seen: &'a Observed<'a>) -> Self {
        let mut plan = Plan::default();
        let mut sets = Vec::new();
        for set in seen.sets {
            match owner::claim(&seen.deployment.metadata, &set.metadata, seen.selector.matches(set.labels())) {
                owner::Claim::Mine => sets.push(set.as_ref().clone()),
                owner::Claim::Adopt => {
                    plan.adopt.push(Key::of(set.as_ref()));
                    sets.push(set.as_ref().clone());
                }
                owner::Claim::Release => plan.release.push(Key::of(set.as_ref())),
                owner::Claim::Foreign => {}
            }
        }
        sets.sort_by_key(|s| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.name_any()));
        let spec = seen.deployment.spec.clone();
        let template_of = |s: &ReplicaSet| s.spec.template.clone().unwrap_or_default();
        let new = sets.iter().position(|s| revision::same_template(&template_of(s), &spec.template));
        let new = new.map(|i| sets.remove(i));
        let recreate = spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate");
        let status = seen.deployment.status.clone().unwrap_or_default();
        Self { seen, spec, bounds: Bounds::of(seen.deployment), recreate, old: sets, new, status, plan }
    }

    fn all(&self) -> Vec<&ReplicaSet> {
        self.new.iter().chain(&self.old).collect()
    }

    /// To how many replicas the new ReplicaSet may grow from `current`. While an old one has yet to delete Pods there is
    /// no room that could be relied on.
    fn grown(&self, current: i32) -> i32 {
        if !self.old.iter().all(rollout::has_acted) {
            return current;
        }
        let total = self.all().iter().map(|s| replicas(s)).sum();
        rollout::grown(self.bounds, self.recreate, current, total)
    }

    /// The wanted number changed since a ReplicaSet was last scaled.
    fn is_resized(&self) -> bool {
        let wanted = |s: &ReplicaSet| revision::number::<i32>(s.annotations(), revision::DESIRED);
        self.all().iter().any(|s| replicas(s) > 0 && wanted(s).is_some_and(|n| n != self.bounds.wanted))
    }

    /// Changes the size of one ReplicaSet, chosen by `pick`.
    fn scale(&mut self, pick: impl FnOnce(&mut Self) -> Option<&mut ReplicaSet>, to: i32) {
        let bounds = self.bounds;
        let Some(set) = pick(self) else { return };
        revision::annotate_scale(set, bounds.wanted, bounds.most());
        let (name, from) = (set.name_any(), replicas(set));
        if from != to {
            set.spec.replicas = Some(to);
            self.plan.scaled.push(Scaled { name, from, to });
        }
    }

    /// Gives the new ReplicaSet, if it is there, what it takes over from the Deployment, and the newest revision.
    fn annotate(&mut self) {
        let revision = self.old.iter().map(|s| revision::of(s.annotations())).max().unwrap_or_default() + 1;
        let Some(set) = &mut self.new else { return };
        revision::annotate(set, self.seen.deployment, revision);
        set.spec.min_ready_seconds = self.spec.min_ready_seconds;
        let name = set.name_any();
        if condition::get(&self.status, condition::PROGRESSING).is_none() {
            self.say_found("FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
    }

    fn say_found(&mut self, reason: &str, message: String) {
        if condition::deadline(self.seen.deployment).is_some() {
            let condition = condition::new(condition::PROGRESSING, "True", reason, message, self.seen.now);
            condition::set(&mut self.status, condition);
        }
    }

    /// Makes sure that there is a ReplicaSet of the present template.
    fn ensure_new(&mut self) {
        if self.new.is_none() {
            let size = self.grown(0);
            let mut set = fresh(self.seen.deployment, &self.spec, size);
            revision::annotate_scale(&mut set, self.bounds.wanted, self.bounds.most());
            let name = set.name_any();
            self.say_found("NewReplicaSetCreated", format!("Created new replica set {name:?}"));
            if size > 0 {
                self.plan.scaled.push(Scaled { name, from: 0, to: size });
            }
            self.new = Some(set);
        }
        self.annotate();
    }

    /// A step of a rolling update: grow the new, else shrink the old, else clean up.
    fn roll(&mut self) {
        self.ensure_new();
        let current = self.new.as_ref().map_or(0, replicas);
        let size = if current > self.bounds.wanted { self.bounds.wanted } else { self.grown(current) };
        if size != current {
            self.scale(|d| d.new.as_mut(), size);
            return;
        }
        let sizes = rollout::shrunk(self.bounds, self.new.as_ref(), &self.old.iter().collect::<Vec<_>>());
        if self.set_sizes(&sizes) {
            return;
        }
        self.trim_when_complete();
    }

    /// A step of a replacement: all old Pods end before the first new one starts.
    fn recreate(&mut self) {
        let sizes = vec![0; self.old.len()];
        self.annotate();
        if self.set_sizes(&sizes) {
            return;
        }
        let uid = |s: &ReplicaSet| s.metadata.uid.clone().unwrap_or_default();
        if self.old.iter().any(|s| rollout::existing(s) > 0 || self.seen.busy.contains(&uid(s))) {
            return;
        }
        self.ensure_new();
        if self.new.as_ref().map_or(0, replicas) != self.bounds.wanted {
            let wanted = self.bounds.wanted;
            self.scale(|d| d.new.as_mut(), wanted);
        }
        self.trim_when_complete();
    }

    fn set_sizes(&mut self, sizes: &[i32]) -> bool {
        let mut changed = false;
        for (i, &size) in sizes.iter().enumerate() {
            if replicas(&self.old[i]) != size {
                self.scale(|d| d.old.get_mut(i), size);
                changed = true;
            }
        }
        changed
    }

    /// Brings the wanted number to ReplicaSets that do not roll now (upstream's `scale`).
    fn resize(&mut self) {
        let wanted = self.bounds.wanted;
        let active: Vec<usize> = (0..self.old.len()).filter(|&i| replicas(&self.old[i]) > 0).collect();
        let new_active = self.new.as_ref().is_some_and(|s| replicas(s) > 0);
        match (new_active, active.as_slice()) {
            (true, []) => return self.scale(|d| d.new.as_mut(), wanted),
            (false, []) if self.new.is_some() => return self.scale(|d| d.new.as_mut(), wanted),
            (false, []) => return self.scale(|d| d.old.last_mut(), wanted),
            (false, &[only]) => return self.scale(|d| d.old.get_mut(only), wanted),
            _ => {}
        }
        if self.is_saturated() {
            self.set_sizes(&vec![0; self.old.len()]);
            return;
        }
        if self.recreate {
            return;
        }
        let sets: Vec<&ReplicaSet> =
            self.new.iter().filter(|_| new_active).chain(active.iter().map(|&i| &self.old[i])).collect();
        let mut sizes = rollout::spread(self.seen.deployment, self.bounds, &sets).into_iter();
        if new_active && let Some(size) = sizes.next() {
            self.scale(|d| d.new.as_mut(), size);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.scale(|d| d.old.get_mut(i), size);
        }
    }

    fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|s| {
            replicas(s) == self.bounds.wanted
                && rollout::available(s) == self.bounds.wanted
                && revision::number::<i32>(s.annotations(), revision::DESIRED) == Some(self.bounds.wanted)
        })
    }

    fn trim_when_complete(&mut self) {
        let before = self.seen.deployment.status.clone().unwrap_or_default();
        if condition::is_complete(self.seen.deployment, self.bounds.wanted, &before) {
            self.trim();
        }
    }

    /// Deletes the oldest ReplicaSets without Pods, beyond the history limit.
    fn trim(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.and_then(|l| usize::try_from(l).ok()) else { return };
        let mut history: Vec<_> = self.old.iter().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
        history.sort_by_key(|s| revision::of(s.annotations()));
        let surplus = history.len().saturating_sub(limit);
        let idle = |s: &&&ReplicaSet| {
            let observed = s.status.as_ref().and_then(|s| s.observed_generation);
            replicas(s) == 0 && rollout::existing(s) == 0 && observed >= s.metadata.generation
        };
        self.plan.delete = history.iter().take(surplus).filter(idle).map(|s| Key::of(*s)).collect();
    }

    fn finish(mut self, rolling: bool) -> Plan {
        let sets = self.all();
        let conditions = self.status.conditions.clone();
        let (deployment, new, now) = (self.seen.deployment, self.new.as_ref(), self.seen.now);
        let mut status = condition::counted(deployment, self.bounds, &sets, new, conditions, now);
        if rolling {
            condition::progress(deployment, self.bounds.wanted, new, &mut status, now);
            condition::failure(&mut status, &sets);
            self.plan.again = condition::times_out_in(deployment, self.bounds.wanted, &status, now);
        }
        let revision = self.new.as_ref().and_then(|s| s.annotations().get(revision::REVISION)).cloned();
        self.plan.revision = revision.filter(|r| deployment.annotations().get(revision::REVISION) != Some(r));
        self.plan.status = status;
        for set in self.new.into_iter().chain(self.old) {
            match self.seen.sets.iter().find(|s| s.metadata.name == set.metadata.name) {
                None => self.plan.create = Some(set),
                Some(seen) if **seen != set => self.plan.update.push(set),
                Some(_) => {}
            }
        }
        self.plan
    }
}

/// The ReplicaSet of the Deployment's present template.
fn fresh(deployment: &Deployment, spec: &DeploymentSpec, size: i32) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = revision::hash(&spec.template, collisions);
    let mut meta = spec.template.metadata.clone().unwrap_or_default();
    meta.labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(revision::HASH_LABEL.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: owner::controller_reference(deployment).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(PodTemplateSpec { metadata: Some(meta), spec: spec.template.spec.clone() }),
        },
        status: None,
    }
}
