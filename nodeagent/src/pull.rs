//! Having a container's image here: pull policy and pull secrets.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::{
    images::{Credentials, Error, Image, Images, is_latest},
    sources::Sources,
};

/// When a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// For every container.
    Always,
    /// When the image is not here.
    IfNotPresent,
    /// Never.
    Never,
}

impl Policy {
    /// As the container says, or by upstream's default.
    pub fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if is_latest(container.image.as_deref().unwrap_or_default()) => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// How an image got here.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// How long the registry took; none when it was here.
    pub took: Option<Duration>,
}

/// Why it did not: a container's waiting reason, and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Brings a container's image here. `pulling` is called before a registry is asked.
pub async fn pull(
    images: &dyn Images,
    sources: Option<&Sources>,
    pod: &Pod,
    container: &Container,
    pulling: impl FnOnce() + Send,
) -> Result<Pulled, Failed> {
    let reference = container.image.as_deref().unwrap_or_default();
    let policy = Policy::of(container);
    let here = images.get(reference).await.map_err(|e| failure(&e))?;
    match (policy, here) {
        (Policy::IfNotPresent | Policy::Never, Some(image)) => Ok(Pulled { image, took: None }),
        (Policy::Never, None) => {
            let message = format!("Container image {reference:?} is not present with pull policy of Never");
            Err(Failed { reason: "ErrImageNeverPull", message })
        }
        (Policy::Always | Policy::IfNotPresent, _) => {
            pulling();
            let begun = tokio::time::Instant::now();
            let credentials = credentials(sources, pod).await;
            let image = images.pull(reference, &credentials).await.map_err(|e| failure(&e))?;
            Ok(Pulled { image, took: Some(begun.elapsed()) })
        }
    }
}

fn failure(error: &Error) -> Failed {
    let reason = match error {
        Error::Name { .. } => "InvalidImageName",
        Error::Pull { .. } => "ErrImagePull",
    };
    Failed { reason, message: error.to_string() }
}

/// What the pod's pull secrets hold. A secret that is missing or malformed is skipped, as upstream does.
async fn credentials(sources: Option<&Sources>, pod: &Pod) -> Vec<Credentials> {
    let Some(sources) = sources else { return Vec::new() };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = Vec::new();
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        match sources.secret(namespace, &reference.name, Duration::ZERO).await {
            Ok(Some(secret)) => all.extend(of_secret(&secret)),
            Ok(None) => tracing::debug!(namespace, secret = reference.name, "pull secret does not exist"),
            Err(error) => tracing::warn!(namespace, secret = reference.name, %error, "pull secret was not read"),
        }
    }
    all
}

#[derive(serde::Deserialize)]
struct DockerConfig {
    auths: std::collections::BTreeMap<String, Auth>,
}

#[derive(serde::Deserialize)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

fn of_secret(secret: &Secret) -> Vec<Credentials> {
    let Some(data) = &secret.data else { return Vec::new() };
    let auths = if let Some(bytes) = data.get(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(&bytes.0).map(|c| c.auths).unwrap_or_default()
    } else if let Some(bytes) = data.get(".dockercfg") {
        serde_json::from_slice(&bytes.0).unwrap_or_default()
    } else {
        return Vec::new();
    };
    auths.into_iter().filter_map(|(registry, auth)| of_auth(registry, auth)).collect()
}

fn of_auth(registry: String, auth: Auth) -> Option<Credentials> {
    if let (Some(username), Some(password)) = (auth.username, auth.password) {
        return Some(Credentials { registry, username, password });
    }
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.auth?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials { registry, username: username.into(), password: password.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::fake::Fake;
    use serde_json::{from_value, json};

    fn container(policy: &str) -> Container {
        from_value(json!({"name": "c", "image": "web:v1", "imagePullPolicy": policy})).unwrap()
    }

    #[tokio::test]
    async fn the_policy_decides_who_is_asked() {
        let images = Fake::default();
        let pod = Pod::default();
        let one = async |policy: &str| pull(&images, None, &pod, &container(policy), || {}).await;
        assert_eq!(one("Never").await.unwrap_err().reason, "ErrImageNeverPull");
        assert!(one("IfNotPresent").await.unwrap().took.is_some());
        assert!(one("IfNotPresent").await.unwrap().took.is_none());
        assert!(one("Never").await.unwrap().took.is_none());
        assert!(one("Always").await.unwrap().took.is_some());
        images.break_pull("web:v1", "no route to registry");
        let failed = one("Always").await.unwrap_err();
        assert_eq!(failed.message, "failed to pull image \"web:v1\": no route to registry");
        assert_eq!(images.pulls("web:v1"), 3);
    }

    #[test]
    fn pull_secrets_in_both_forms() {
        let config =
            r#"{"auths": {"ghcr.io": {"auth": "dXNlcjpwYTpzcw=="}, "r:5": {"username": "u", "password": "p"}}}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(config.into()))].into()),
            ..Secret::default()
        };
        let all: Vec<_> = of_secret(&secret).into_iter().map(|c| (c.registry, c.username, c.password)).collect();
        let expected =
            [("ghcr.io", "user", "pa:ss"), ("r:5", "u", "p")].map(|(r, u, p)| (r.into(), u.into(), p.into()));
        assert_eq!(all, expected);
    }
}
