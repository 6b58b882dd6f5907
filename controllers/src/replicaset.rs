//! ReplicaSets: as many Pods of one template as asked for.
//!
//! Follows upstream's `pkg/controller/replicaset`: a Pod that is being deleted no longer counts, so that its replacement
//! does not wait for it.

use std::{sync::Arc, time::Duration};

use client::{
    Caches, Controller, During, Error, Expectations, Key, Next, OrGone, Reader, Reconcile, Recorder, events::Type,
    owner,
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    core::{Selector, SelectorExt},
};
use tokio_util::sync::CancellationToken;

pub mod rank;
pub mod status;

use crate::pod;

/// Most Pods created or deleted in one look.
pub const BURST: usize = 500;

/// The first batch of creations. Each batch that succeeds doubles the next, so that a quota or a broken template is met by
/// few requests, not by hundreds.
pub const FIRST_BATCH: usize = 1;

/// Requests in flight for one ReplicaSet.
pub const PARALLEL: usize = 64;

/// Several Pods that change within this time are looked at once.
const SETTLE: Duration = Duration::from_millis(5);

/// What is seen of one ReplicaSet.
pub struct Observed<'a> {
    /// The ReplicaSet.
    pub set: &'a ReplicaSet,
    /// Its selector.
    pub selector: &'a Selector,
    /// Pods that it owns or that match its selector.
    pub pods: &'a [Arc<Pod>],
    /// Active Pods per node of all ReplicaSets that share this one's owner.
    pub neighbours: &'a rank::Neighbours,
    /// The time.
    pub now: Timestamp,
}

/// What to do about one ReplicaSet.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Pods to become its own.
    pub adopt: Vec<Key>,
    /// Pods to let go.
    pub release: Vec<Key>,
    /// Pods to create.
    pub create: usize,
    /// Pods to delete, those first whose loss costs least.
    pub delete: Vec<Key>,
    /// The status, without the failure condition.
    pub status: ReplicaSetStatus,
    /// When a Pod becomes available without any change.
    pub again: Option<Duration>,
}

/// Decides. Pure.
pub fn plan(seen: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut mine = Vec::new();
    for pod in seen.pods {
        let matches = seen.selector.matches(pod.labels());
        match owner::claim(&seen.set.metadata, &pod.metadata, matches) {
            owner::Claim::Mine => mine.push(pod.as_ref()),
            // What has ended is not worth adopting: it would be counted by nobody.
            owner::Claim::Adopt if pod::is_active(pod) => {
                plan.adopt.push(Key::of(pod.as_ref()));
                mine.push(pod.as_ref());
            }
            owner::Claim::Release => plan.release.push(Key::of(pod.as_ref())),
            owner::Claim::Adopt | owner::Claim::Foreign => {}
        }
    }
    let terminating = mine.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !pod::is_terminated(p)).count();
    mine.retain(|p| pod::is_active(p));
    let spec = seen.set.spec.clone();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if seen.set.metadata.deletion_timestamp.is_none() {
        plan.create = wanted.saturating_sub(mine.len()).min(BURST);
        let surplus = mine.len().saturating_sub(wanted).min(BURST);
        plan.delete = rank::cheapest(&mine, surplus, seen.neighbours);
    }
    // The status tells the Deployment what it may count on: not on what is being deleted now.
    mine.retain(|p| !plan.delete.contains(&Key::of(*p)));
    (plan.status, plan.again) = status::of(seen.set, &mine, terminating, seen.now);
    plan
}

struct ReplicaSets {
    client: kube::Client,
    sets: Reader<ReplicaSet>,
    pods: Reader<Pod>,
    expectations: Expectations,
    recorder: Recorder,
}

/// Runs the controller until `shutdown`.
pub async fn run(caches: Caches, shutdown: CancellationToken) {
    let sets = ReplicaSets {
        client: caches.client().clone(),
        sets: caches.reader(),
        pods: caches.reader(),
        expectations: Expectations::default(),
        recorder: Recorder::new(caches.client(), "replicaset-controller", ""),
    };
    let all = caches.reader::<ReplicaSet>();
    Controller::new("replicaset", &caches, sets)
        .owns::<Pod>()
        .watches::<Pod>(move |pod| orphans_sets(&all, pod))
        .settle(SETTLE)
        .run(shutdown)
        .await;
}

/// The ReplicaSets that may adopt a Pod of nobody.
fn orphans_sets(sets: &Reader<ReplicaSet>, pod: &Pod) -> Vec<Key> {
    if owner::controller_of(&pod.metadata).is_some() || pod.metadata.labels.is_none() {
        return Vec::new();
    }
    let sets = sets.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
    let matching = sets.iter().filter(|s| selector_of(s).is_ok_and(|s| s.matches(pod.labels())));
    matching.map(|s| Key::of(s.as_ref())).collect()
}

fn selector_of(set: &ReplicaSet) -> Result<Selector, Error> {
    let selector = set.spec.clone().selector;
    let parsed = Selector::try_from(selector)
        .map_err(|error| Error::object::<ReplicaSet>(&Key::of(set), format_args!("its selector: {error}")))?;
    if parsed.selects_all() {
        return Err(Error::object::<ReplicaSet>(&Key::of(set), "its selector selects every pod"));
    }
    Ok(parsed)
}

impl Reconcile for ReplicaSets {
    type Object = ReplicaSet;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Next::AwaitChange);
        };
        if let Some(missing) = self.expectations.missing(key, &self.pods, std::time::Instant::now()) {
            return Ok(Next::After(missing));
        }
        let selector = selector_of(&set)?;
        let pods = self.pods_of(&set, &selector);
        let plan = plan(&Observed {
            set: &set,
            selector: &selector,
            pods: &pods,
            neighbours: &self.neighbours(&set),
            now: Timestamp::now(),
        });
        let done = self.apply(&set, key, &plan).await;
        let failure = done.as_ref().err().filter(|e| !e.is_conflict() && !e.is_namespace_terminating());
        let status = status::with_failure(&set, plan.status, failure, Timestamp::now());
        self.write_status(&set, key, status).await?;
        match done {
            Err(error) if !error.is_namespace_terminating() => Err(error),
            _ => Ok(plan.again.map_or(Next::AwaitChange, Next::After)),
        }
    }
}

impl ReplicaSets {
    fn pods_of(&self, set: &ReplicaSet, selector: &Selector) -> Vec<Arc<Pod>> {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut pods = self.pods.by_owner(uid);
        let orphans = self.pods.select(set.metadata.namespace.as_deref().unwrap_or_default(), selector);
        pods.extend(orphans.into_iter().filter(|p| owner::controller_of(&p.metadata).is_none()));
        pods.sort_by_key(|p| Key::of(p.as_ref()));
        pods
    }

    fn neighbours(&self, set: &ReplicaSet) -> rank::Neighbours {
        let mut owners = vec![set.metadata.uid.clone().unwrap_or_default()];
        if let Some(above) = owner::controller_of(&set.metadata) {
            owners = self.sets.by_owner(&above.uid).iter().filter_map(|s| s.metadata.uid.clone()).collect();
        }
        rank::neighbours(owners.iter().flat_map(|uid| self.pods.by_owner(uid)))
    }

    async fn apply(&self, set: &ReplicaSet, key: &Key, plan: &Plan) -> Result<(), Error> {
        self.claim(set, key, plan).await?;
        self.create(set, key, plan.create).await?;
        self.delete(set, key, &plan.delete).await
    }

    async fn claim(&self, set: &ReplicaSet, key: &Key, plan: &Plan) -> Result<(), Error> {
        let Some(reference) = owner::controller_reference(set) else { return Ok(()) };
        for pod in plan.adopt.iter().filter_map(|k| self.pods.get(k)) {
            self.patch_owners(&pod, key, &owner::adopt_patch(&pod.metadata, &reference)).await?;
        }
        for pod in plan.release.iter().filter_map(|k| self.pods.get(k)) {
            self.patch_owners(&pod, key, &owner::release_patch(&pod.metadata, &reference.uid)).await?;
        }
        Ok(())
    }

    async fn patch_owners(&self, pod: &Pod, key: &Key, patch: &serde_json::Value) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let answer = api.patch_metadata(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Some(meta) = answer.during::<Pod>("change the owner of", &Key::of(pod)).or_gone()? {
            self.expectations.wrote(key, &meta, std::time::Instant::now());
        }
        Ok(())
    }

    async fn create(&self, set: &ReplicaSet, key: &Key, mut count: usize) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let pod = from_template(set);
        let mut batch = FIRST_BATCH;
        while count > 0 {
            let now = count.min(batch);
            let params = PostParams::default();
            let answers: Vec<_> =
                stream::iter(0..now).map(|_| api.create(&params, &pod)).buffer_unordered(PARALLEL).collect().await;
            let mut failed = None;
            for answer in answers {
                match answer.during::<Pod>("create", key) {
                    Ok(made) => {
                        self.expectations.wrote(key, &made, std::time::Instant::now());
                        let message = format!("Created pod: {}", made.name_any());
                        self.recorder.event(set, Type::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                if !error.is_namespace_terminating() {
                    let why = error.status().map_or_else(|| error.chain(), |s| s.message.clone());
                    self.recorder.event(set, Type::Warning, "FailedCreate", format!("Error creating: {why}"));
                }
                return Err(error);
            }
            count -= now;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet, key: &Key, pods: &[Key]) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let pods: Vec<_> = pods.iter().filter_map(|key| self.pods.get(key)).collect();
        let delete = |pod: Arc<Pod>| {
            let api = &api;
            async move {
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let answer = api.delete(&pod.name_any(), &params).await;
                (answer.during::<Pod>("delete", &Key::of(pod.as_ref())), pod)
            }
        };
        let answers: Vec<_> = stream::iter(pods).map(delete).buffer_unordered(PARALLEL).collect().await;
        let mut failed = None;
        for (answer, pod) in answers {
            match answer.or_gone() {
                Ok(_) => {
                    self.expectations.deleted(key, pod.as_ref(), std::time::Instant::now());
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.event(set, Type::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    let message = format!("Error deleting: {}", error.chain());
                    self.recorder.event(set, Type::Warning, "FailedDelete", message);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn write_status(&self, set: &ReplicaSet, key: &Key, status: ReplicaSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        let new = ReplicaSet { status: Some(status), ..set.clone() };
        let answer = api.replace_status(&key.name, &PostParams::default(), &new).await;
        answer.during::<ReplicaSet>("update the status of", key).or_gone().map(drop)
    }
}

/// The Pod that a ReplicaSet's template describes. Its name is the API server's choice.
pub fn from_template(set: &ReplicaSet) -> Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: owner::controller_reference(set).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
