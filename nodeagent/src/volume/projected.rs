//! Several sources in one volume, service account tokens among them.

use k8s_openapi::api::core::v1::{PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection};

use super::{Error, Inputs, common_user, configmap, downward, fs_group, mode, secret};
use crate::atomic::{File, Files};

/// How long a token lives when nothing is said, seconds.
const TOKEN_LIFE: i64 = 3600;

/// The files of all sources; later ones win.
pub fn volume(volume: &ProjectedVolumeSource, inputs: &Inputs<'_>) -> Result<Files, Error> {
    let default_mode = volume.default_mode;
    let mut files = Files::new();
    for source in volume.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            let optional = s.optional == Some(true);
            files.extend(configmap::files(&s.name, s.items.as_ref(), optional, default_mode, inputs)?);
        }
        if let Some(s) = &source.secret {
            let optional = s.optional == Some(true);
            files.extend(secret::files(&s.name, s.items.as_ref(), optional, default_mode, inputs)?);
        }
        if let Some(s) = &source.downward_api {
            files.extend(downward::files(s.items.as_ref(), default_mode, inputs)?);
        }
        if let Some(s) = &source.service_account_token {
            files.insert(s.path.clone(), token(s, default_mode, inputs)?);
        }
    }
    Ok(files)
}

fn token(source: &ServiceAccountTokenProjection, default: Option<i32>, inputs: &Inputs<'_>) -> Result<File, Error> {
    let token = inputs.tokens.get(&wanted(source));
    let token = token.ok_or_else(|| Error::Field { path: "serviceAccountToken".into() })?;
    let spec = inputs.pod.spec.as_ref();
    let uid = spec.and_then(common_user);
    let private = uid.is_some() || spec.and_then(fs_group).is_some();
    Ok(File { bytes: token.as_bytes().to_vec(), mode: if private { 0o600 } else { mode(None, default) }, uid })
}

fn wanted(source: &ServiceAccountTokenProjection) -> (String, i64) {
    (source.audience.clone().unwrap_or_default(), source.expiration_seconds.unwrap_or(TOKEN_LIFE))
}

/// Audiences and lives of the tokens that a pod's volumes show.
pub fn tokens(spec: &PodSpec) -> Vec<(String, i64)> {
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    let sources = volumes.flat_map(|p| p.sources.iter().flatten());
    let mut all: Vec<_> = sources.filter_map(|s| s.service_account_token.as_ref()).map(wanted).collect();
    all.sort();
    all.dedup();
    all
}
