//! Starting a container: everything about it is decided here, so that the runtime makes no choices.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Service};

use crate::{
    env::{self, expand},
    field::Place,
    host::Host,
    images::Image,
    lookup::References,
    network::Attachment,
    qos,
    runtime::{self, ContainerState},
    security,
    storage::Start,
    user::Accounts,
};

/// What runs when neither the image nor the pod gives a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a container was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing was started; to be tried again: reason and message.
    Again(&'static str, String),
    /// The container's own fault: counts as a start that ended.
    Own(String),
}

/// The id of a start of a container: one path segment, unique on the node.
pub fn container_id(uid: &str, container: &str, attempt: u32) -> String {
    format!("{uid}_{container}_{attempt}")
}

/// Starts a container of a pod that is prepared.
pub async fn launch(
    host: &Host,
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    attempt: u32,
    image: &Arc<Image>,
    network: &Attachment,
) -> Result<ContainerState, Failed> {
    let config = |error: &dyn std::fmt::Display| Failed::Again("CreateContainerConfigError", error.to_string());
    let create = |error: &dyn std::error::Error| Failed::Again("CreateContainerError", chain(error));
    let spec = pod.spec.as_ref().ok_or_else(|| config(&"the pod has no spec"))?;
    let env = environment(host, pod, container, image, network).await?;
    let start = Start {
        pod: Arc::clone(pod),
        container: Arc::clone(container),
        attempt,
        network: network.clone(),
        env: env.clone(),
    };
    let mounts = host.storage.mounts(&start);
    let accounts = accounts(spec, container, image);
    let (mounts, accounts) = tokio::join!(mounts, accounts);
    let mounts = mounts.map_err(|e| create(&e))?;
    let meta = &pod.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let full_name = format!(
        "{}_{}({uid})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default()
    );
    let rights = security::rights(&full_name, spec, container, &image.user, &accounts).map_err(|e| config(&e))?;
    let args = arguments(container, image, &env);
    if args.is_empty() {
        return Err(Failed::Own("no command specified".into()));
    }
    let log = host.storage.log(pod, &container.name, attempt).map_err(|e| create(&e))?;
    let wanted = runtime::Container {
        id: container_id(&uid, &container.name, attempt),
        sandbox: uid,
        name: container.name.clone(),
        attempt,
        layers: image.layers.clone(),
        args,
        env,
        cwd: working_dir(container, image),
        uid: rights.user.uid,
        gid: rights.user.gid,
        groups: rights.user.groups,
        mounts,
        capabilities: rights.capabilities,
        privileged: rights.privileged,
        readonly_root: rights.readonly_root,
        no_new_privileges: rights.no_new_privileges,
        seccomp: rights.seccomp,
        masked: rights.masked,
        resources: qos::resources(container),
        oom_score_adj: qos::oom_score(spec, container, host.place.memory),
        log,
        log_max_bytes: host.config.log_max_bytes,
        log_max_files: host.config.log_max_files,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
    };
    host.runtime.start(&wanted).await.map_err(|error| match error {
        runtime::Error::Start { why, .. } => Failed::Own(why),
        other => Failed::Again("RunContainerError", chain(&other)),
    })
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

async fn environment(
    host: &Host,
    pod: &Pod,
    container: &Container,
    image: &Image,
    network: &Attachment,
) -> Result<Vec<(String, String)>, Failed> {
    let alone = PodSpec { containers: vec![container.clone()], ..PodSpec::default() };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let wanted = References::of_env(&alone);
    let lookup = host.sources.lookup(namespace, &wanted, Duration::ZERO).await;
    let lookup = lookup.map_err(|e| Failed::Again("CreateContainerConfigError", chain(&e)))?;
    let services = services(host, namespace).await;
    let addresses: Vec<_> = network.addresses.iter().map(ToString::to_string).collect();
    let pod_ips = if addresses.is_empty() { host.place.host_ips.clone() } else { addresses };
    let place = Place { pod_ips, ..host.place.clone() };
    let inputs = env::Inputs { pod, lookup: &lookup, place: &place, services: &services };
    let own = env::environment(container, &inputs);
    let own = own.map_err(|e| Failed::Again("CreateContainerConfigError", e.to_string()))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = crate::etc::hostname(name, &spec, &host.config.node);
    let mut all = vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), hostname)];
    let of_image = image.env.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (name, value) in of_image.chain(own) {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => all.push((name, value)),
        }
    }
    Ok(all)
}

async fn services(host: &Host, namespace: &str) -> Vec<Arc<Service>> {
    host.services.synced().await;
    let mut all = host.services.list_in(namespace);
    if namespace != "default" {
        all.extend(host.services.get(&client::Key::new("default", "kubernetes")));
    }
    all
}

async fn accounts(spec: &PodSpec, container: &Container, image: &Image) -> Accounts {
    let context = container.security_context.as_ref();
    let shared = spec.security_context.as_ref();
    let user = context.and_then(|c| c.run_as_user).or(shared.and_then(|c| c.run_as_user));
    let plain_root = matches!(image.user.as_str(), "" | "0" | "root" | "0:0") && user.is_none_or(|u| u == 0);
    if plain_root && image.user != "root" {
        return Accounts::default();
    }
    let layers = image.layers.clone();
    // a panic would be a defect of ours; the container then runs with the numbers alone
    tokio::task::spawn_blocking(move || Accounts::read(&layers)).await.unwrap_or_default()
}

fn arguments(container: &Container, image: &Image, env: &[(String, String)]) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| {
        let list = list.as_ref().filter(|l| !l.is_empty())?;
        Some(list.iter().map(|word| expand(word, env)).collect::<Vec<_>>())
    };
    match (given(&container.command), given(&container.args)) {
        (Some(command), args) => command.into_iter().chain(args.unwrap_or_default()).collect(),
        (None, Some(args)) => image.entrypoint.iter().cloned().chain(args).collect(),
        (None, None) => image.entrypoint.iter().chain(&image.command).cloned().collect(),
    }
}

fn working_dir(container: &Container, image: &Image) -> PathBuf {
    let given = container.working_dir.as_deref().filter(|d| !d.is_empty());
    let path = given.unwrap_or(if image.working_dir.is_empty() { "/" } else { &image.working_dir });
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn command_and_args_replace_the_images() {
        let image = Image { entrypoint: vec!["/entry".into()], command: vec!["cmd".into()], ..Image::default() };
        let env = [("WHO".to_owned(), "me".to_owned())];
        for (container, expected) in [
            (json!({"name": "c"}), vec!["/entry", "cmd"]),
            (json!({"name": "c", "args": ["$(WHO)"]}), vec!["/entry", "me"]),
            (json!({"name": "c", "command": ["/bin/sh"]}), vec!["/bin/sh"]),
            (json!({"name": "c", "command": ["/bin/sh"], "args": ["-c", "x"]}), vec!["/bin/sh", "-c", "x"]),
        ] {
            assert_eq!(arguments(&from_value(container).unwrap(), &image, &env), expected);
        }
    }
}
