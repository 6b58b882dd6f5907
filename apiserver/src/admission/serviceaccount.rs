//! Every pod runs as a service account and, unless it or the account declines, finds that account's token mounted.

use api::{Kind, status};
use k8s_openapi::{
    api::core::v1::{
        ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
        Pod, PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
        VolumeProjection,
    },
    apimachinery::pkg::apis::meta::v1::Status,
};
use rand::RngExt;

use super::Look;
use crate::registry::downcast;

/// Where every client library looks for its credentials.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How the volume is named, with five random characters behind.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Asked for each token: one hour and seven seconds, which upstream's clients recognise as "renewed by the node".
const TOKEN_SECONDS: i64 = 3607;
/// rw-r--r--, of the projected files.
const FILE_MODE: i32 = 0o644;
/// A namespace's `default` account is made by a controller just after the namespace: so often is it looked for ...
const DEFAULT_ATTEMPTS: u32 = 10;
/// ... with this pause between.
const DEFAULT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Names the account, requires that it exists, and mounts its token.
pub(super) async fn admit(look: &dyn Look, namespace: &str, pod: &mut Pod) -> Result<(), Box<Status>> {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.contains_key("kubernetes.io/config.mirror")) {
        return Ok(());
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.get_or_insert_default();
    let account = match spec.service_account_name.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(account) => account.to_owned(),
    };
    spec.service_account_name = Some(account.clone());
    spec.service_account = Some(account.clone());
    let found = find(look, namespace, &account).await?.ok_or_else(|| {
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        let row = Kind::of::<Pod>().expect("invariant: Pod is a row of api::kinds");
        Box::new(status::forbidden(row, &name, &why))
    })?;
    let wanted = spec.automount_service_account_token.or(found.automount_service_account_token).unwrap_or(true);
    if wanted {
        mount(spec, &suffix());
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = found.image_pull_secrets;
    }
    Ok(())
}

async fn find(look: &dyn Look, namespace: &str, name: &str) -> Result<Option<ServiceAccount>, Box<Status>> {
    let row = Kind::of::<ServiceAccount>().expect("invariant: ServiceAccount is a row of api::kinds");
    let attempts = if name == "default" { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_PAUSE).await;
        }
        if let Some(found) = look.find(row, namespace, name).await? {
            return Ok(downcast::<ServiceAccount>(&*found).cloned());
        }
    }
    Ok(None)
}

/// Adds the volume, and a mount to every container that has nothing at that path.
fn mount(spec: &mut PodSpec, suffix: &str) {
    let existing = spec.volumes.iter().flatten().find(|v| v.name.starts_with(VOLUME_PREFIX)).map(|v| v.name.clone());
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut used = false;
    let mut add = |container: &mut Container| {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|m| m.mount_path == MOUNT_PATH) {
            return;
        }
        used = true;
        mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: MOUNT_PATH.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    };
    spec.init_containers.iter_mut().flatten().for_each(&mut add);
    spec.containers.iter_mut().for_each(&mut add);
    if used && existing.is_none() {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".into(),
        ..ServiceAccountTokenProjection::default()
    };
    let authority = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), ..KeyToPath::default() }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".into()),
            field_path: "metadata.namespace".into(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected =
        ProjectedVolumeSource { default_mode: Some(FILE_MODE), sources: Some(sources), ..Default::default() };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

/// Five characters as `generateName` appends them: no vowels, so no words.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::registry::Stored;

    struct Only(Option<ServiceAccount>);

    #[async_trait]
    impl Look for Only {
        async fn find(&self, _: &Kind, _: &str, _: &str) -> Result<Option<Box<dyn Stored>>, Box<Status>> {
            Ok(self.0.clone().map(|a| Box::new(a) as Box<dyn Stored>))
        }
    }

    fn pod() -> Pod {
        let container = Container { name: "web".into(), ..Container::default() };
        let spec = PodSpec {
            containers: vec![container.clone()],
            init_containers: Some(vec![container]),
            ..PodSpec::default()
        };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some("web".into());
        pod
    }

    #[tokio::test]
    async fn the_token_is_mounted_once_in_every_container() {
        let look = Only(Some(ServiceAccount::default()));
        let mut pod = pod();
        admit(&look, "default", &mut pod).await.unwrap();
        admit(&look, "default", &mut pod).await.unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.service_account_name.as_deref(), Some("default"));
        let volume = &spec.volumes.unwrap()[0];
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let mounts = container.volume_mounts.as_ref().unwrap();
            assert_eq!(mounts.len(), 1);
            assert_eq!((mounts[0].name.as_str(), mounts[0].mount_path.as_str()), (volume.name.as_str(), MOUNT_PATH));
        }
        assert_eq!(volume.projected.as_ref().unwrap().sources.as_ref().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn either_side_may_decline_the_token() {
        let declined = ServiceAccount { automount_service_account_token: Some(false), ..ServiceAccount::default() };
        let mut pod = pod();
        admit(&Only(Some(declined)), "default", &mut pod).await.unwrap();
        assert_eq!(pod.spec.unwrap().volumes, None);
    }

    #[tokio::test]
    async fn an_account_that_does_not_exist_is_refused() {
        let mut pod = pod();
        pod.spec.as_mut().unwrap().service_account_name = Some("robot".into());
        let refusal = admit(&Only(None), "shop", &mut pod).await.unwrap_err();
        let message = refusal.message.unwrap();
        assert_eq!(refusal.code, Some(403));
        assert_eq!(
            message,
            "pods \"web\" is forbidden: error looking up service account shop/robot: serviceaccount \"robot\" not found"
        );
    }
}
