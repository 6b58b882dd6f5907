//! `/binding`: assigns a Pod to a Node, once (upstream's `BindingREST`).

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::{
    api::core::v1::{Binding, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    ask::Ask,
    body, parts,
    registry::{Stored, downcast_mut},
    reply::{self, Answer, Response},
    write::{self, Door, Track},
};

/// Binds the pod: 201 with a status; 409 when it is bound already.
pub async fn create(ask: &Ask, bytes: &Bytes) -> Answer<Response> {
    let options = ask.write_options()?;
    let binding: Binding = body::small(&ask.headers, bytes)?
        .ok_or_else(|| Box::new(api::status::bad_request("the body must be a Binding")))?;
    let node = binding.target.name.clone().unwrap_or_default();
    if node.is_empty() || !matches!(binding.target.kind.as_deref(), None | Some("" | "Node")) {
        return Err(Box::new(api::status::bad_request("Binding target must name a Node")));
    }
    // as upstream: where a pod runs has no manager
    write::update(ask, Door::Own, &options, Track::Done, |old| bound(ask, old, &binding, &node)).await?;
    let status = k8s_openapi::apimachinery::pkg::apis::meta::v1::Status {
        status: Some("Success".into()),
        code: Some(201),
        ..Default::default()
    };
    Ok(reply::json(StatusCode::CREATED, &status))
}

fn bound(ask: &Ask, old: &dyn Stored, binding: &Binding, node: &str) -> Answer<Box<dyn Stored>> {
    let name = ask.target.name();
    let conflict = |why: &str| Box::new(api::status::conflict(ask.kind(), name, why));
    let mut new = old.boxed();
    let pod = downcast_mut::<Pod>(&mut *new).ok_or_else(|| Box::new(api::status::method_not_allowed("binding")))?;
    if let Some(uid) = binding.metadata.uid.as_ref().filter(|uid| pod.metadata.uid.as_ref() != Some(*uid)) {
        return Err(conflict(&format!("Precondition failed: UID in precondition: {uid}, UID in object meta differs")));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(current) = spec.node_name.as_deref().filter(|current| !current.is_empty()) {
        return Err(conflict(&format!("pod {name} is already assigned to node {current:?}")));
    }
    spec.node_name = Some(node.to_owned());
    // the scheduler may be working from an older version: the binding itself is the precondition
    let annotations = binding.metadata.annotations.clone().unwrap_or_default();
    if !annotations.is_empty() {
        pod.metadata.annotations.get_or_insert_default().extend(annotations);
    }
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(Time(parts::now())),
        ..PodCondition::default()
    });
    Ok(new)
}
