//! Writes of decisions: the binding of a pod to a node, or the reason why it has none.

use client::{Client, Key};
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{Status, Time},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

/// Why a decision could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or did not answer.
    #[error("cannot bind pod {pod} to node {node}")]
    Bind {
        /// The pod.
        pod: Key,
        /// The node.
        node: String,
        /// What the API or the connection said.
        source: Box<kube::Error>,
    },
    /// The API refused or did not answer.
    #[error("cannot write the condition of pod {pod}")]
    Condition {
        /// The pod.
        pod: Key,
        /// What the API or the connection said.
        source: Box<kube::Error>,
    },
}

/// Binds the pod to the node. The uid goes along, so that a later pod of the same name is not meant.
pub async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), Error> {
    let key = Key::of(pod);
    let mut binding = Binding {
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..ObjectReference::default() },
        ..Binding::default()
    };
    binding.metadata.name.clone_from(&pod.metadata.name);
    binding.metadata.namespace.clone_from(&pod.metadata.namespace);
    binding.metadata.uid.clone_from(&pod.metadata.uid);
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    let done: kube::Result<Status> =
        api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await;
    done.map(drop).map_err(|source| Error::Bind { pod: key, node: node.to_owned(), source: Box::new(source) })
}

/// Whether the pod says already that it is unschedulable for this reason.
pub fn told(pod: &Pod, message: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|c| c.type_ == "PodScheduled")
        .any(|c| c.status == "False" && c.message.as_deref() == Some(message))
}

/// Writes into the pod's status that no node can take it, and why.
pub async fn explain(client: &Client, pod: &Pod, message: &str, now: Timestamp) -> Result<(), Error> {
    let key = Key::of(pod);
    let old = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "PodScheduled");
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    let patch = serde_json::json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [condition]},
    });
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    let done = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    done.map(drop).map_err(|source| Error::Condition { pod: key, source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_not_said_again() {
        let mut pod = Pod::default();
        assert!(!told(&pod, "no"));
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            message: Some("no".into()),
            ..PodCondition::default()
        };
        pod.status.get_or_insert_default().conditions = Some(vec![condition]);
        assert!(told(&pod, "no") && !told(&pod, "other"));
    }
}
