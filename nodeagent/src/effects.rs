//! What the node does for a pod, one function an effect. Each runs in a task of its own and reports a [`Done`].

use std::{sync::Arc, time::Duration};

use client::events::Type;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};

use crate::{
    desired::Member,
    etc, hook,
    host::{Host, container_reference},
    images::Image,
    launch::{self, chain},
    network::{Attachment, HostPort, PodId},
    probe::Target,
    pull::{self, Pulled},
    qos,
    runtime::{ContainerState, Sandbox},
};

/// How an effect ended.
#[derive(Debug)]
pub enum Done {
    /// The pod is connected, or why not.
    Attached(Result<Attachment, String>),
    /// Its containers' common ground is there, or why not.
    Sandboxed(Result<(), String>),
    /// Its volumes are there, or why not.
    Stored(Result<(), String>),
    /// A container's image is there, or why not.
    Pulled(Result<Pulled, pull::Failed>),
    /// A container runs, or why not.
    Started(Result<ContainerState, launch::Failed>),
    /// A preStop hook ended.
    PreStopped,
    /// A signal was sent.
    Signalled,
    /// Nothing of the pod is left on the node.
    TornDown,
    /// Nothing of the pod is left in the API.
    Deleted,
}

/// Between tries of what must succeed at last.
const RETRY: Duration = Duration::from_secs(1);

/// Connects the pod.
pub async fn attach(host: &Host, pod: &Pod) -> Done {
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.host_network == Some(true) {
        return Done::Attached(Ok(Attachment { netns: std::path::PathBuf::new(), addresses: Vec::new() }));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports: Vec<_> = containers.flat_map(|c| c.ports.iter().flatten()).filter_map(host_port).collect();
    let attached = host.network.attach(&pod_id(pod), &ports).await;
    Done::Attached(attached.map_err(|error| {
        let why = chain(&error);
        let message = format!("Failed to create pod sandbox: {why}");
        host.recorder.event(pod, Type::Warning, "FailedCreatePodSandBox", message);
        why
    }))
}

fn pod_id(pod: &Pod) -> PodId {
    let meta = &pod.metadata;
    PodId {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn host_port(port: &k8s_openapi::api::core::v1::ContainerPort) -> Option<HostPort> {
    Some(HostPort {
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
        host_port: port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0)?,
        container_port: u16::try_from(port.container_port).ok()?,
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
    })
}

/// Makes what the pod's containers share.
pub async fn sandbox(host: &Host, pod: &Pod, network: &Attachment) -> Done {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let sandbox = Sandbox {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        hostname: if host_network { String::new() } else { etc::hostname(name, &spec, &host.config.node) },
        netns: (!host_network).then(|| network.netns.clone()),
        host_ipc: spec.host_ipc == Some(true),
        host_pid: spec.host_pid == Some(true),
        resources: qos::pod_resources(&spec),
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
    };
    Done::Sandboxed(host.runtime.create_sandbox(&sandbox).await.map_err(|error| {
        let why = chain(&error);
        let message = format!("Failed to create pod sandbox: {why}");
        host.recorder.event(pod, Type::Warning, "FailedCreatePodSandBox", message);
        why
    }))
}

/// Prepares the pod's volumes.
pub async fn store(host: &Host, pod: &Arc<Pod>) -> Done {
    Done::Stored(host.storage.prepare(pod).await.map_err(|error| {
        let why = chain(&error);
        host.recorder.event(pod.as_ref(), Type::Warning, "FailedMount", why.clone());
        why
    }))
}

/// Has a container's image here.
pub async fn pull(host: &Host, pod: &Pod, member: &Member) -> Done {
    let reference = member.spec.image.as_deref().unwrap_or_default();
    let about = || container_reference(pod, member.name());
    let pulling = || {
        host.recorder.about(about(), Type::Normal, "Pulling", format!("Pulling image {reference:?}"));
    };
    let pulled = pull::pull(host.images.as_ref(), Some(&host.sources), pod, &member.spec, pulling).await;
    match &pulled {
        Ok(Pulled { took: Some(took), .. }) => {
            let message = format!("Successfully pulled image {reference:?} in {}ms", took.as_millis());
            host.recorder.about(about(), Type::Normal, "Pulled", message);
        }
        Ok(Pulled { took: None, .. }) => {
            let message = format!("Container image {reference:?} already present on machine");
            host.recorder.about(about(), Type::Normal, "Pulled", message);
        }
        Err(failed) => {
            host.recorder.about(about(), Type::Warning, "Failed", sentence(&failed.message));
            host.recorder.about(about(), Type::Warning, "Failed", format!("Error: {}", failed.reason));
            if failed.reason == "ErrImagePull" {
                host.recorder.about(about(), Type::Normal, "BackOff", format!("Back-off pulling image {reference:?}"));
            }
        }
    }
    Done::Pulled(pulled)
}

/// The same with a capital first letter, as messages of Events begin.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Starts a container.
pub async fn start(
    host: &Host,
    pod: &Arc<Pod>,
    member: &Member,
    attempt: u32,
    image: &Arc<Image>,
    network: &Attachment,
) -> Done {
    let started = launch::launch(host, pod, &member.spec, attempt, image, network).await;
    let about = container_reference(pod, member.name());
    match &started {
        Ok(_) => {
            let name = member.name();
            host.recorder.about(about.clone(), Type::Normal, "Created", format!("Container created: {name}"));
            host.recorder.about(about, Type::Normal, "Started", format!("Container started: {name}"));
        }
        Err(launch::Failed::Again(_, why) | launch::Failed::Own(why)) => {
            host.recorder.about(about, Type::Warning, "Failed", format!("Error: {why}"));
        }
    }
    Done::Started(started)
}

/// Runs a container's preStop hook, until the deadline at most.
pub async fn pre_stop(host: &Host, pod: &Pod, member: &Member, target: &Target, deadline: Timestamp) -> Done {
    let left = deadline.duration_since(Timestamp::now());
    let left = Duration::try_from(left).unwrap_or_default();
    if let Some(wanted) = member.spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && let Ok(Err(why)) = tokio::time::timeout(left, hook::run(wanted, target)).await
    {
        let about = container_reference(pod, member.name());
        host.recorder.about(about, Type::Warning, "FailedPreStopHook", format!("PreStopHook failed: {why}"));
    }
    Done::PreStopped
}

/// Sends a signal, again and again until the runtime took it.
pub async fn signal(host: &Host, id: &str, signal: i32) -> Done {
    loop {
        match host.runtime.signal(id, signal).await {
            Ok(()) | Err(crate::runtime::Error::NotFound { .. }) => return Done::Signalled,
            Err(error) => tracing::warn!(id, signal, error = chain(&error), "signal was not sent, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Releases what the pod holds: containers first, then its network and its volumes.
pub async fn tear_down(host: &Host, pod: &Pod) -> Done {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    loop {
        let Err(error) = host.runtime.remove_sandbox(uid).await else { break };
        tracing::warn!(pod = uid, error = chain(&error), "sandbox was not removed, trying again");
        tokio::time::sleep(RETRY).await;
    }
    let network = async {
        if pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true)) {
            return;
        }
        while let Err(error) = host.network.detach(uid).await {
            tracing::warn!(pod = uid, error = chain(&error), "network was not detached, trying again");
            tokio::time::sleep(RETRY).await;
        }
    };
    let storage = async {
        while let Err(error) = host.storage.remove(uid).await {
            tracing::warn!(pod = uid, error = chain(&error), "files were not removed, trying again");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::join!(network, storage);
    Done::TornDown
}

/// Deletes the object for good, if it is still the same one.
pub async fn delete(host: &Host, pod: &Pod) -> Done {
    let meta = &pod.metadata;
    let api: Api<Pod> = Api::namespaced(host.client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
            Ok(_) => return Done::Deleted,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Done::Deleted,
            Err(error) => tracing::warn!(pod = ?meta.name, error = chain(&error), "pod was not deleted, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
