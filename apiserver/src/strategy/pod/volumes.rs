//! Volumes: what containers may mount, and where it comes from.

use std::collections::BTreeSet;

use api::field::{Error, Errors, Path};
use k8s_openapi::api::core::v1::{HostPathVolumeSource, KeyToPath, PodSpec, ProjectedVolumeSource, Volume};

use crate::strategy::rules;

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// The shortest life of a token that may be asked for; seconds.
const MIN_TOKEN_SECONDS: i64 = 600;

/// What is wrong with the volumes; returns their names.
pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut Errors) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(index);
        source(volume, &path, errors);
        if volume.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
            continue;
        }
        rules::label(errors, &path.child("name"), &volume.name);
        if !names.insert(volume.name.clone()) {
            errors.push(Error::duplicate(&path.child("name"), &volume.name));
        }
    }
    names
}

fn source(volume: &Volume, path: &Path, errors: &mut Errors) {
    // every source is a field of the same name in the document
    let sources: Vec<String> = match serde_json::to_value(volume) {
        Ok(serde_json::Value::Object(fields)) => fields.into_iter().map(|(k, _)| k).filter(|k| k != "name").collect(),
        _ => Vec::new(),
    };
    match sources.as_slice() {
        [] => errors.push(Error::required(path, "must specify a volume type")),
        [_] => {}
        [_, further @ ..] => {
            for field in further {
                errors.push(Error::forbidden(&path.child(field), "may not specify more than 1 volume type"));
            }
        }
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        files(source.default_mode, source.items.as_ref(), &path, errors);
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        if source.secret_name.as_deref().is_none_or(str::is_empty) {
            errors.push(Error::required(&path.child("secretName"), ""));
        }
        files(source.default_mode, source.items.as_ref(), &path, errors);
    }
    if let Some(source) = &volume.host_path {
        host_path(source, &path.child("hostPath"), errors);
    }
    if let Some(source) = &volume.projected {
        projected(source, &path.child("projected"), errors);
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) {
        let path = path.child("emptyDir").child("sizeLimit");
        match api::quantity::Quantity::try_from(limit) {
            Ok(amount) if amount.is_negative() => {
                errors.push(Error::forbidden(&path, "SizeLimit field must be a valid resource quantity"));
            }
            Ok(_) => {}
            Err(error) => errors.push(Error::invalid(&path, &limit.0, error.to_string())),
        }
    }
}

fn mode(path: &Path, mode: Option<i32>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(Error::invalid(path, mode, why));
    }
}

fn files(default_mode: Option<i32>, items: Option<&Vec<KeyToPath>>, path: &Path, errors: &mut Errors) {
    mode(&path.child("defaultMode"), default_mode, errors);
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = path.child("items").index(index);
        if item.key.is_empty() {
            errors.push(Error::required(&path.child("key"), ""));
        }
        inner_path(&path.child("path"), &item.path, errors);
        mode(&path.child("mode"), item.mode, errors);
    }
}

/// A path inside a volume that must not lead out of it.
fn inner_path(path: &Path, value: &str, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if value.starts_with('/') {
        errors.push(Error::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, value, "must not contain '..'"));
    }
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.push(Error::invalid(path, value, "must not start with '..'"));
    }
}

fn host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut Errors) {
    if source.path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    } else if source.path.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(&path.child("path"), &source.path, "must not contain '..'"));
    }
    if let Some(kind) = source.type_.as_deref().filter(|k| !HOST_PATH_TYPES.contains(k)) {
        errors.push(Error::not_supported(&path.child("type"), kind, &HOST_PATH_TYPES));
    }
}

fn projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut Errors) {
    mode(&path.child("defaultMode"), source.default_mode, errors);
    for (index, projection) in source.sources.iter().flatten().enumerate() {
        let path = path.child("sources").index(index);
        if let Some(source) = &projection.config_map {
            let path = path.child("configMap");
            if source.name.is_empty() {
                errors.push(Error::required(&path.child("name"), ""));
            }
            files(None, source.items.as_ref(), &path, errors);
        }
        if let Some(source) = &projection.secret {
            let path = path.child("secret");
            if source.name.is_empty() {
                errors.push(Error::required(&path.child("name"), ""));
            }
            files(None, source.items.as_ref(), &path, errors);
        }
        if let Some(source) = &projection.service_account_token {
            let path = path.child("serviceAccountToken");
            if let Some(seconds) = source.expiration_seconds.filter(|s| *s < MIN_TOKEN_SECONDS) {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
            }
            inner_path(&path.child("path"), &source.path, errors);
        }
    }
}
