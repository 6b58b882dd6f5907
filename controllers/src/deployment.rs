//! Deployments: from one template to the next, never with too few replicas nor too many.
//!
//! A ReplicaSet per template; a rollout moves replicas from the old ones to the new one, a rollback is a rollout to a
//! template that has one already. Follows upstream's `pkg/controller/deployment`.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use client::{
    Caches, Controller, During, Error, Expectations, Key, Next, OrGone, Reader, Reconcile, Recorder, events::Type,
    owner,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
    core::{Selector, SelectorExt},
};
use tokio_util::sync::CancellationToken;

pub mod condition;
pub mod plan;
pub mod revision;
pub mod rollout;

use self::plan::{Observed, Plan, plan};
use crate::pod;

struct Deployments {
    client: kube::Client,
    deployments: Reader<Deployment>,
    sets: Reader<ReplicaSet>,
    pods: Reader<Pod>,
    expectations: Expectations,
    recorder: Recorder,
}

/// Runs the controller until `shutdown`.
pub async fn run(caches: Caches, shutdown: CancellationToken) {
    let controller = Deployments {
        client: caches.client().clone(),
        deployments: caches.reader(),
        sets: caches.reader(),
        pods: caches.reader(),
        expectations: Expectations::default(),
        recorder: Recorder::new(caches.client(), "deployment-controller", ""),
    };
    let (all, sets, deployments) = (caches.reader(), caches.reader(), caches.reader());
    Controller::new("deployment", &caches, controller)
        .owns::<ReplicaSet>()
        .watches::<ReplicaSet>(move |set| adopters(&all, set))
        .watches::<Pod>(move |pod| waiting_for(&sets, &deployments, pod))
        .run(shutdown)
        .await;
}

/// The Deployments that may adopt a ReplicaSet of nobody.
fn adopters(deployments: &Reader<Deployment>, set: &ReplicaSet) -> Vec<Key> {
    if owner::controller_of(&set.metadata).is_some() || set.metadata.labels.is_none() {
        return Vec::new();
    }
    let all = deployments.list_in(set.metadata.namespace.as_deref().unwrap_or_default());
    let matching = all.iter().filter(|d| selector_of(d).is_ok_and(|s| s.matches(set.labels())));
    matching.map(|d| Key::of(d.as_ref())).collect()
}

/// The Deployment that may wait for this Pod to end before it goes on: one that recreates.
fn waiting_for(sets: &Reader<ReplicaSet>, deployments: &Reader<Deployment>, pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let above =
        |meta: &kube::api::ObjectMeta| owner::controller_of(meta).map(|o| Key::new(namespace.clone(), o.name.clone()));
    let set = above(&pod.metadata).and_then(|key| sets.get(&key));
    let key = set.and_then(|set| above(&set.metadata));
    let recreates = |key: &Key| {
        let strategy = deployments.get(key).and_then(|d| d.spec.strategy.clone());
        strategy.and_then(|s| s.type_).as_deref() == Some("Recreate")
    };
    key.filter(recreates).into_iter().collect()
}

fn selector_of(deployment: &Deployment) -> Result<Selector, Error> {
    let selector = deployment.spec.clone().selector;
    let key = Key::of(deployment);
    let parsed = Selector::try_from(selector)
        .map_err(|error| Error::object::<Deployment>(&key, format_args!("its selector: {error}")))?;
    if parsed.selects_all() {
        return Err(Error::object::<Deployment>(&key, "its selector selects every pod"));
    }
    Ok(parsed)
}

impl Reconcile for Deployments {
    type Object = Deployment;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::AwaitChange);
        };
        if let Some(missing) = self.expectations.missing(key, &self.sets, Instant::now()) {
            return Ok(Next::After(missing));
        }
        let selector = selector_of(&deployment)?;
        let sets = self.sets_of(&deployment, &selector);
        let busy: BTreeSet<String> = sets
            .iter()
            .filter_map(|s| s.metadata.uid.clone())
            .filter(|uid| self.pods.by_owner(uid).iter().any(|p| !pod::is_terminated(p)))
            .collect();
        let now = Timestamp::now();
        let plan = plan(&Observed { deployment: &deployment, selector: &selector, sets: &sets, busy: &busy, now });
        let again = plan.again;
        self.apply(&deployment, key, plan).await?;
        Ok(again.map_or(Next::AwaitChange, Next::After))
    }
}

impl Deployments {
    fn sets_of(&self, deployment: &Deployment, selector: &Selector) -> Vec<Arc<ReplicaSet>> {
        let mut sets = self.sets.by_owner(deployment.metadata.uid.as_deref().unwrap_or_default());
        let orphans = self.sets.select(deployment.metadata.namespace.as_deref().unwrap_or_default(), selector);
        sets.extend(orphans.into_iter().filter(|s| owner::controller_of(&s.metadata).is_none()));
        sets
    }

    fn api(&self, key: &Key) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Writes what was planned: ReplicaSets first, then what the status says of them.
    async fn apply(&self, deployment: &Deployment, key: &Key, plan: Plan) -> Result<(), Error> {
        if !plan.adopt.is_empty() || !plan.release.is_empty() {
            // Their next change brings us back, with all of them as they then are.
            return self.claim(deployment, key, &plan).await;
        }
        if let Some(set) = &plan.create
            && let Err(error) = self.create(deployment, key, set).await
        {
            if error.is_namespace_terminating() {
                return Ok(());
            }
            let why = error.status().map_or_else(|| error.chain(), |s| s.message.clone());
            let message = format!("Failed to create new replica set {:?}: {why}", set.name_any());
            self.recorder.event(deployment, Type::Warning, "ReplicaSetCreateError", &message);
            let mut status = plan.status;
            let (kind, now) = (condition::PROGRESSING, Timestamp::now());
            condition::set(&mut status, condition::new(kind, "False", "ReplicaSetCreateError", message, now));
            self.write_status(deployment, key, status).await?;
            return Err(error);
        }
        for set in &plan.update {
            let name = set.name_any();
            let answer = self.api(key).replace(&name, &PostParams::default(), set).await;
            let written = answer.during::<ReplicaSet>("update", &Key::of(set))?;
            self.expectations.wrote(key, &written, Instant::now());
        }
        for scaled in &plan.scaled {
            let direction = if scaled.to > scaled.from { "up" } else { "down" };
            let plan::Scaled { name, from, to } = scaled;
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            self.recorder.event(deployment, Type::Normal, "ScalingReplicaSet", message);
        }
        for set in plan.delete.iter().filter_map(|key| self.sets.get(key)) {
            self.delete(key, &set).await?;
        }
        self.write_status(deployment, key, plan.status).await?;
        if let Some(revision) = plan.revision {
            let patch = serde_json::json!({"metadata": {"annotations": {revision::REVISION: revision}}});
            let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
            // as upstream, where the note comes with a status: it is no change of what is wanted, and raises no generation
            let answer = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            answer.during::<Deployment>("annotate", key).or_gone()?;
        }
        Ok(())
    }

    async fn claim(&self, deployment: &Deployment, key: &Key, plan: &Plan) -> Result<(), Error> {
        let Some(reference) = owner::controller_reference(deployment) else { return Ok(()) };
        let adopted = plan.adopt.iter().filter_map(|k| self.sets.get(k));
        let adopted = adopted.map(|s| (s.name_any(), owner::adopt_patch(&s.metadata, &reference)));
        let released = plan.release.iter().filter_map(|k| self.sets.get(k));
        let released = released.map(|s| (s.name_any(), owner::release_patch(&s.metadata, &reference.uid)));
        for (name, patch) in adopted.chain(released) {
            let answer = self.api(key).patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
            let key_of_set = Key::new(key.namespace.clone(), name);
            if let Some(meta) = answer.during::<ReplicaSet>("change the owner of", &key_of_set).or_gone()? {
                self.expectations.wrote(key, &meta, Instant::now());
            }
        }
        Ok(())
    }

    /// Creates the ReplicaSet. Where its name is taken it may be our own from a moment ago; if not, its hash collides, and
    /// counting the collision gives the next try another name.
    async fn create(&self, deployment: &Deployment, key: &Key, set: &ReplicaSet) -> Result<(), Error> {
        let name = set.name_any();
        let made =
            self.api(key).create(&PostParams::default(), set).await.during::<ReplicaSet>("create", &Key::of(set));
        let made = match made {
            Err(error) if error.is_already_exists() => {
                let found = self.api(key).get(&name).await.during::<ReplicaSet>("get", &Key::of(set))?;
                let template = |s: &ReplicaSet| s.spec.template.clone().unwrap_or_default();
                let ours = owner::controller_of(&found.metadata).map(|o| &o.uid) == deployment.metadata.uid.as_ref();
                if !ours || !revision::same_template(&template(&found), &template(set)) {
                    let mut status = deployment.status.clone().unwrap_or_default();
                    status.collision_count = Some(status.collision_count.unwrap_or_default().saturating_add(1));
                    self.write_status(deployment, key, status).await?;
                    return Err(error);
                }
                found
            }
            other => other?,
        };
        self.expectations.wrote(key, &made, Instant::now());
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet) -> Result<(), Error> {
        // The resource version guards against one that was scaled up meanwhile.
        let preconditions =
            Preconditions { uid: set.metadata.uid.clone(), resource_version: set.metadata.resource_version.clone() };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let answer = self.api(key).delete(&set.name_any(), &params).await;
        answer.during::<ReplicaSet>("delete", &Key::of(set)).or_gone()?;
        self.expectations.deleted(key, set, Instant::now());
        Ok(())
    }

    async fn write_status(&self, deployment: &Deployment, key: &Key, status: DeploymentStatus) -> Result<(), Error> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
        let new = Deployment { status: Some(status), ..deployment.clone() };
        let answer = api.replace_status(&key.name, &PostParams::default(), &new).await;
        answer.during::<Deployment>("update the status of", key).or_gone().map(drop)
    }
}
