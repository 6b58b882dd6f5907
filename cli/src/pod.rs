//! The Pod that a user means by `NAME`, `pod/NAME`, or the name of something that owns pods.

use anyhow::{Context, Result, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{Api, api::ListParams, core::Selector};
use serde_json::Value;

use crate::{rest::Rest, subject};

/// The name of the pod; of several, the first that is running.
pub async fn find(rest: &Rest, word: &str) -> Result<String> {
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    let named = subject::parse_named(&[word.to_owned()])?;
    let Some((kind, name)) = named.first() else { bail!("say which pod") };
    if kind.kind == "Pod" {
        return Ok(name.clone());
    }
    let owner: Value = rest.get(&subject::path(kind, &rest.namespace, name)).await?;
    let pods: Api<Pod> = Api::namespaced(rest.client(), &rest.namespace);
    let params = ListParams::default().labels_from(&selector(&owner, word)?);
    let found = pods.list(&params).await.with_context(|| format!("list the pods of {word}"))?.items;
    let running = |p: &&Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let pod = found.iter().find(running).or(found.first());
    pod.and_then(|p| p.metadata.name.clone()).with_context(|| format!("{word} has no pods"))
}

/// The selector of whatever selects pods: a map in Services, a LabelSelector elsewhere.
fn selector(owner: &Value, word: &str) -> Result<Selector> {
    let selector = owner.pointer("/spec/selector").cloned().with_context(|| format!("{word} selects no pods"))?;
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        serde_json::from_value(selector).context("understand a selector")?
    } else {
        LabelSelector {
            match_labels: serde_json::from_value(selector).context("understand a selector")?,
            ..LabelSelector::default()
        }
    };
    Selector::try_from(labels).with_context(|| format!("understand the selector of {word}"))
}

/// The path of a pod.
pub fn path(rest: &Rest, name: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{name}", rest.namespace)
}
