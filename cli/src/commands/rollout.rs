//! `orlop rollout`: follows, lists, undoes and restarts the rollouts of Deployments.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::PodTemplateSpec,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    args::{Rollout, RolloutAction},
    follow::Patience,
    output::Columns,
    rest::Rest,
    subject,
};

/// Where Deployments note the revision of a ReplicaSet.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Where users note why a revision was made.
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// The label that tells ReplicaSets of one Deployment apart.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Runs the verb.
pub async fn run(rest: &Rest, args: &Rollout, out: &mut impl Write) -> Result<()> {
    let (RolloutAction::Status { what, .. }
    | RolloutAction::History { what }
    | RolloutAction::Undo { what, .. }
    | RolloutAction::Restart { what }
    | RolloutAction::Pause { what }
    | RolloutAction::Resume { what }) = &args.action;
    let api: Api<Deployment> = Api::namespaced(rest.client(), &rest.namespace);
    for (kind, name) in subject::parse_named(what)? {
        if kind.kind != "Deployment" {
            bail!("{} have no rollouts", kind.plural);
        }
        match &args.action {
            RolloutAction::Status { timeout, .. } => {
                let path = subject::path(kind, &rest.namespace, &name);
                follow(rest, &path, &name, *timeout, out).await?;
            }
            RolloutAction::History { .. } => history(rest, &api, &name, out).await?,
            RolloutAction::Undo { to_revision, .. } => undo(rest, &api, &name, *to_revision, out).await?,
            RolloutAction::Restart { .. } => restart(&api, &name, out).await?,
            RolloutAction::Pause { .. } => pause(&api, &name, true, out).await?,
            RolloutAction::Resume { .. } => pause(&api, &name, false, out).await?,
        }
    }
    Ok(())
}

/// How far a rollout is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// What it waits for.
    Waiting(String),
    /// It will not get there.
    Failed(String),
    /// It is there.
    Done,
}

/// How far it is, as upstream's `kubectl/pkg/polymorphichelpers/rollout_status.go` words it.
pub fn progress(deployment: &Deployment) -> Progress {
    let name = deployment.name_any();
    let status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.generation > status.observed_generation {
        return Progress::Waiting("Waiting for deployment spec update to be observed...".into());
    }
    let conditions = status.conditions.iter().flatten();
    if conditions
        .into_iter()
        .any(|c| c.type_.as_deref() == Some("Progressing") && c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
    {
        return Progress::Failed(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let (total, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    let waiting =
        |why: String| Progress::Waiting(format!("Waiting for deployment {name:?} rollout to finish: {why}..."));
    if updated < wanted {
        waiting(format!("{updated} out of {wanted} new replicas have been updated"))
    } else if total > updated {
        waiting(format!("{} old replicas are pending termination", total - updated))
    } else if available < updated {
        waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        Progress::Done
    }
}

async fn follow(rest: &Rest, path: &str, name: &str, timeout: Duration, out: &mut impl Write) -> Result<()> {
    let mut said = String::new();
    let mut patience = Patience::until(Instant::now() + timeout);
    let done = patience.look(async || {
        let deployment: Deployment = rest.get(path).await?;
        match progress(&deployment) {
            Progress::Done => return Ok(Some(())),
            Progress::Failed(why) => bail!("{why}"),
            Progress::Waiting(why) if why != said => {
                writeln!(out, "{why}").context("print")?;
                said = why;
            }
            Progress::Waiting(_) => {}
        }
        Ok(None)
    });
    done.await?.with_context(|| format!("timed out waiting for the rollout of {name:?}"))?;
    writeln!(out, "deployment {name:?} successfully rolled out").context("print")
}

/// The ReplicaSets of a Deployment by revision.
async fn revisions(rest: &Rest, deployment: &Deployment) -> Result<BTreeMap<i64, ReplicaSet>> {
    let api: Api<ReplicaSet> = Api::namespaced(rest.client(), &rest.namespace);
    let uid = deployment.uid().unwrap_or_default();
    let sets = api.list(&kube::api::ListParams::default()).await.map_err(refused)?.items;
    let owned = sets.into_iter().filter(|s| s.owner_references().iter().any(|o| o.uid == uid));
    Ok(owned.filter_map(|s| Some((s.annotations().get(REVISION)?.parse().ok()?, s))).collect())
}

async fn history(rest: &Rest, api: &Api<Deployment>, name: &str, out: &mut impl Write) -> Result<()> {
    let deployment = api.get(name).await.map_err(refused)?;
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for (revision, set) in revisions(rest, &deployment).await? {
        let cause = set.annotations().get(CHANGE_CAUSE).cloned().unwrap_or_else(|| "<none>".into());
        rows.push(vec![revision.to_string(), cause]);
    }
    writeln!(out, "deployment.apps/{name}").context("print")?;
    Columns::default().print(out, &rows).context("print")
}

async fn undo(rest: &Rest, api: &Api<Deployment>, name: &str, to: Option<i64>, out: &mut impl Write) -> Result<()> {
    let deployment = api.get(name).await.map_err(refused)?;
    if deployment.spec.paused == Some(true) {
        bail!("cannot roll back a paused deployment: resume it first with `orlop rollout resume deployment/{name}`");
    }
    let revisions = revisions(rest, &deployment).await?;
    let revision = match to.filter(|r| *r > 0) {
        Some(revision) => Some(revision),
        None => revisions.keys().rev().nth(1).copied(),
    };
    let Some(revision) = revision else { bail!("no rollout history found for deployment {name:?}") };
    let Some(set) = revisions.get(&revision) else { bail!("unable to find specified revision {revision} in history") };
    let mut template: PodTemplateSpec =
        set.spec.template.clone().with_context(|| format!("revision {revision} has no pods"))?;
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(TEMPLATE_HASH);
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let patch = serde_json::from_value(patch).context("write a patch")?;
    api.patch(name, &PatchParams::default(), &Patch::<Deployment>::Json(patch)).await.map_err(refused)?;
    writeln!(out, "deployment.apps/{name} rolled back").context("print")
}

async fn pause(api: &Api<Deployment>, name: &str, paused: bool, out: &mut impl Write) -> Result<()> {
    let done = if paused { "paused" } else { "resumed" };
    if api.get(name).await.map_err(refused)?.spec.paused.unwrap_or(false) == paused {
        bail!("deployment {name:?} is {}", if paused { "paused already" } else { "not paused" });
    }
    let patch = json!({"spec": {"paused": paused}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map_err(refused)?;
    writeln!(out, "deployment.apps/{name} {done}").context("print")
}

async fn restart(api: &Api<Deployment>, name: &str, out: &mut impl Write) -> Result<()> {
    if api.get(name).await.map_err(refused)?.spec.paused == Some(true) {
        bail!("deployment {name:?} is paused: resume it first with `orlop rollout resume deployment/{name}`");
    }
    let now = Timestamp::now().to_string();
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map_err(refused)?;
    writeln!(out, "deployment.apps/{name} restarted").context("print")
}

fn refused(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => {
            let reason = status.reason.clone();
            crate::rest::Failure(api::status::failure(status.code, &reason, status.message.clone())).into()
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(replicas: i32, updated: i32, available: i32) -> Progress {
        let object = json!({
            "metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": {"observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available},
        });
        progress(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_rollout_is_told_in_upstreams_words() {
        let waiting =
            |why: &str| Progress::Waiting(format!("Waiting for deployment \"web\" rollout to finish: {why}..."));
        assert_eq!(at(3, 1, 3), waiting("1 out of 3 new replicas have been updated"));
        assert_eq!(at(4, 3, 3), waiting("1 old replicas are pending termination"));
        assert_eq!(at(3, 3, 2), waiting("2 of 3 updated replicas are available"));
        assert_eq!(at(3, 3, 3), Progress::Done);
    }
}
