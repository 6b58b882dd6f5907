//! Namespaces that are being deleted: all that is in them goes first.
//!
//! Follows upstream's `pkg/controller/namespace/deletion`. What remains, and why, is in the namespace's conditions.

use std::time::Duration;

use api::{Kind, kinds::KINDS};
use client::{Caches, Controller, During, Error, Key, Next, OrGone, Reader, Reconcile};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
};
use tokio_util::sync::CancellationToken;

use crate::kind::resource;

/// The finalizer in a namespace's spec that this controller removes when the namespace is empty.
pub const FINALIZER: &str = "kubernetes";

/// Requests in flight for one namespace.
pub const PARALLEL: usize = 32;

/// How soon a namespace that is not empty yet is looked at again. Pods that end are noticed at once.
pub const AGAIN: Duration = Duration::from_secs(1);

/// What is left of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The kind as in RBAC: `pods`, `deployments.apps`.
    pub kind: String,
    /// How many objects.
    pub count: usize,
    /// Their finalizers, one entry per object and finalizer.
    pub finalizers: Vec<String>,
}

/// What the namespace's conditions say about what is left. Pure. A condition that says the same keeps its time.
pub fn conditions(
    before: &[NamespaceCondition],
    left: &[Left],
    failures: &[String],
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let mut remaining: Vec<_> = left.iter().map(|l| format!("{} has {} resource instances", l.kind, l.count)).collect();
    remaining.sort();
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for finalizer in left.iter().flat_map(|l| &l.finalizers) {
        *counts.entry(finalizer).or_default() += 1;
    }
    let finalizers: Vec<_> = counts.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let rows = [
        (
            "NamespaceDeletionContentFailure",
            failures.join(", "),
            ["ContentDeletionFailed", "ContentDeleted"],
            [
                "Failed to delete all resource types, ",
                "All content successfully deleted, may be waiting on finalization",
            ],
        ),
        (
            "NamespaceContentRemaining",
            remaining.join(", "),
            ["SomeResourcesRemain", "ContentRemoved"],
            ["Some resources are remaining: ", "All content successfully removed"],
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers.join(", "),
            ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
            ["Some content in the namespace has finalizers remaining: ", "All content-preserving finalizers finished"],
        ),
    ];
    let condition = |(kind, what, reasons, messages): (&str, String, [&str; 2], [&str; 2])| {
        let quiet = usize::from(what.is_empty());
        let status = if quiet == 0 { "True" } else { "False" };
        let old = before.iter().find(|c| c.type_ == kind);
        let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reasons[quiet].into()),
            message: Some(format!("{}{what}", messages[quiet])),
            last_transition_time: since.or(Some(Time(now))),
        }
    };
    rows.map(condition).to_vec()
}

struct Namespaces {
    client: kube::Client,
    namespaces: Reader<Namespace>,
}

/// Runs the controller until `shutdown`.
pub async fn run(caches: Caches, shutdown: CancellationToken) {
    let controller = Namespaces { client: caches.client().clone(), namespaces: caches.reader() };
    let namespaces = caches.reader::<Namespace>();
    Controller::new("namespace", &caches, controller)
        .watches::<Pod>(move |pod| {
            let key = Key::new("", pod.metadata.namespace.clone().unwrap_or_default());
            let dying = namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
            dying.then_some(key).into_iter().collect()
        })
        .settle(Duration::from_millis(5))
        .run(shutdown)
        .await;
}

impl Reconcile for Namespaces {
    type Object = Namespace;

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.get(key).filter(|n| n.metadata.deletion_timestamp.is_some()) else {
            return Ok(Next::AwaitChange);
        };
        let finalizers = namespace.spec.clone().unwrap_or_default().finalizers.unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            if finalizers.is_empty() {
                self.remove(key, &namespace).await?;
            }
            return Ok(Next::AwaitChange);
        }
        let sweeps: Vec<_> = KINDS.iter().filter(|k| k.namespaced()).map(|k| self.sweep(k, &key.name)).collect();
        let swept: Vec<_> = stream::iter(sweeps).buffer_unordered(4).collect().await;
        let mut left = Vec::new();
        let mut failures = Vec::new();
        for result in swept {
            match result {
                Ok(one) if one.count > 0 => left.push(one),
                Ok(_) => {}
                Err(error) => failures.push(error.chain()),
            }
        }
        if left.is_empty() && failures.is_empty() {
            self.finalize(key, &namespace).await?;
            return Ok(Next::AwaitChange);
        }
        self.report(key, &namespace, &left, &failures).await?;
        Ok(Next::After(AGAIN))
    }
}

impl Namespaces {
    /// Deletes all objects of one kind; what is left of them afterwards.
    async fn sweep(&self, kind: &'static Kind, namespace: &str) -> Result<Left, Error> {
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource(kind));
        let subject = |operation, key: Key| {
            move |source| Error::Api { operation, kind: kind.kind.to_owned(), key, source: Box::new(source) }
        };
        let list = || async {
            let all = api.list_metadata(&ListParams::default()).await;
            all.map(|l| l.items).map_err(subject("list", Key::new(namespace, "*")))
        };
        let found = list().await?;
        if found.is_empty() {
            return Ok(Left { kind: kind.qualified(), count: 0, finalizers: Vec::new() });
        }
        let doomed = found.into_iter().filter(|o| o.metadata.deletion_timestamp.is_none());
        let deletions: Vec<_> = doomed
            .map(|object| {
                let (api, key) = (&api, Key::of_meta(&object.metadata));
                async move {
                    let answer = api.delete(&key.name, &DeleteParams::background()).await;
                    answer.map_err(subject("delete", key)).or_gone().map(drop)
                }
            })
            .collect();
        stream::iter(deletions).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        let left = list().await?;
        let finalizers = left.iter().flat_map(|o| o.finalizers().to_vec()).collect();
        Ok(Left { kind: kind.qualified(), count: left.len(), finalizers })
    }

    async fn finalize(&self, key: &Key, namespace: &Namespace) -> Result<(), Error> {
        let mut done = namespace.clone();
        if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let answer = api.replace_subresource("finalize", &key.name, &PostParams::default(), &done).await;
        answer.during::<Namespace>("finalize", key).or_gone().map(drop)
    }

    /// The last step, for a server that leaves it to us.
    async fn remove(&self, key: &Key, namespace: &Namespace) -> Result<(), Error> {
        if !namespace.finalizers().is_empty() {
            return Ok(());
        }
        let api = Api::<Namespace>::all(self.client.clone());
        let answer = api.delete(&key.name, &DeleteParams::default()).await;
        answer.map(drop).during::<Namespace>("delete", key).or_gone().map(drop)
    }

    async fn report(&self, key: &Key, namespace: &Namespace, left: &[Left], failures: &[String]) -> Result<(), Error> {
        let before = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let after = conditions(&before, left, failures, Timestamp::now());
        if after == before {
            return Ok(());
        }
        let mut new = namespace.clone();
        new.status.get_or_insert_default().conditions = Some(after);
        let api = Api::<Namespace>::all(self.client.clone());
        let answer = api.replace_status(&key.name, &PostParams::default(), &new).await;
        answer.during::<Namespace>("update the status of", key).or_gone().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conditions_say_what_is_left_and_keep_their_time() {
        let left = |kind: &str, count, finalizers: &[&str]| Left {
            kind: kind.into(),
            count,
            finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
        };
        let early = Timestamp::UNIX_EPOCH;
        let late = early + jiff::SignedDuration::from_secs(9);
        let first = conditions(&[], &[left("pods", 2, &[]), left("configmaps", 1, &["a/b"])], &[], early);
        let told: Vec<_> = first.iter().map(|c| format!("{}: {}", c.status, c.message.as_deref().unwrap())).collect();
        assert_eq!(
            told,
            [
                "False: All content successfully deleted, may be waiting on finalization",
                "True: Some resources are remaining: configmaps has 1 resource instances, pods has 2 resource instances",
                "True: Some content in the namespace has finalizers remaining: a/b in 1 resource instances",
            ]
        );
        let second = conditions(&first, &[left("pods", 1, &[])], &[], late);
        let times: Vec<_> = second.iter().map(|c| c.last_transition_time.as_ref().unwrap().0).collect();
        assert_eq!(times, [early, early, late]);
    }
}
