//! Writing a pod's status: only when it changed, one write at a time, the latest one always.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::{host::Host, launch::chain, worker::Message};

/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the API was told last.
pub struct Publisher {
    /// As the API has it, as far as we know.
    known: PodStatus,
    /// What is being written.
    in_flight: Option<PodStatus>,
    /// The revision of our last write: what is older tells nothing new.
    revision: u64,
    retry_at: Option<Timestamp>,
    frozen: bool,
}

impl Publisher {
    /// For a pod as the API has it; a frozen one's status is final.
    pub fn new(pod: &Pod, frozen: bool) -> Self {
        let known = pod.status.clone().unwrap_or_default();
        Self { known, in_flight: None, revision: 0, retry_at: None, frozen }
    }

    /// The status to compare the next one with.
    pub fn latest(&self) -> &PodStatus {
        self.in_flight.as_ref().unwrap_or(&self.known)
    }

    /// Whether the API has this status.
    pub fn is_current(&self, status: &PodStatus) -> bool {
        self.frozen || (self.in_flight.is_none() && self.known == *status)
    }

    /// When a failed write is to be tried again.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// The API shows the pod like this. What somebody else made of our conditions is noticed, and written over.
    pub fn saw(&mut self, pod: &Pod) {
        let revision = pod.resource_version().and_then(|r| r.parse::<u64>().ok()).unwrap_or(u64::MAX);
        if self.in_flight.is_some() || revision <= self.revision {
            return;
        }
        let theirs = pod.status.clone().unwrap_or_default();
        for ours in self.known.conditions.iter_mut().flatten() {
            let same = |c: &&PodCondition| c.type_ == ours.type_;
            if let Some(other) = theirs.conditions.iter().flatten().find(same).filter(|c| c.status != ours.status) {
                *ours = other.clone();
            }
        }
    }

    /// Writes a status, unless the API has it or another write is under way.
    pub fn publish(
        &mut self,
        host: &Arc<Host>,
        pod: &Arc<Pod>,
        status: PodStatus,
        sender: &mpsc::UnboundedSender<Message>,
    ) {
        let waiting = self.retry_at.is_some_and(|at| at > Timestamp::now());
        if self.frozen || waiting || self.in_flight.is_some() || self.known == status {
            return;
        }
        self.retry_at = None;
        let body = patch(pod, &self.known, &status);
        self.in_flight = Some(status);
        let (client, pod, sender) = (host.client.clone(), Arc::clone(pod), sender.clone());
        tokio::spawn(async move {
            let api: Api<Pod> = Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or_default());
            let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(body)).await;
            let result = match written {
                Ok(pod) => Ok(pod.resource_version().and_then(|r| r.parse().ok()).unwrap_or(0)),
                // another pod of that name, or none: nobody wants this status
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(0),
                Err(error) => Err(chain(&error)),
            };
            drop(sender.send(Message::Published(result)));
        });
    }

    /// A write ended.
    pub fn written(&mut self, result: Result<u64, String>) {
        let Some(sent) = self.in_flight.take() else { return };
        match result {
            Ok(revision) => {
                self.known = sent;
                self.revision = self.revision.max(revision);
            }
            Err(error) => {
                tracing::warn!(error, "pod status was not written, trying again");
                self.retry_at = Some(Timestamp::now() + RETRY);
            }
        }
    }
}

/// A strategic merge patch from one status to the next, for this very pod. What went away is written as null.
fn patch(pod: &Pod, before: &PodStatus, after: &PodStatus) -> Value {
    let mut fields = object(after);
    for gone in object(before).keys() {
        fields.entry(gone).or_insert(Value::Null);
    }
    if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for optional in ["reason", "message"] {
                condition.entry(optional).or_insert(Value::Null);
            }
        }
    }
    json!({"metadata": {"uid": pod.metadata.uid}, "status": fields})
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn what_goes_away_is_said() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let before: PodStatus = from_value(json!({"phase": "Pending", "podIP": "10.42.0.2"})).unwrap();
        let after: PodStatus =
            from_value(json!({"phase": "Failed", "conditions": [{"type": "Ready", "status": "False"}]})).unwrap();
        assert_eq!(
            patch(&pod, &before, &after),
            json!({"metadata": {"uid": "u"}, "status": {"phase": "Failed", "podIP": null, "conditions": [
                {"type": "Ready", "status": "False", "reason": null, "message": null}]}})
        );
    }
}
