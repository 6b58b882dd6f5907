//! The files that a ConfigMap shows in a volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath};

use super::{Error, Inputs, choose};
use crate::atomic::Files;

/// The files of a volume of its own.
pub fn volume(source: &ConfigMapVolumeSource, inputs: &Inputs<'_>) -> Result<Files, Error> {
    let optional = source.optional == Some(true);
    files(&source.name, source.items.as_ref(), optional, source.default_mode, inputs)
}

/// The files of one source.
pub fn files(
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    default_mode: Option<i32>,
    inputs: &Inputs<'_>,
) -> Result<Files, Error> {
    match inputs.lookup.config_maps.get(name) {
        Some(map) => choose("config", &content(map), items, optional, default_mode),
        None if optional => Ok(Files::new()),
        None => Err(Error::Missing { what: "configmap", name: name.into() }),
    }
}

fn content(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let texts = map.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
    let binaries = map.binary_data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
    texts.chain(binaries).collect()
}
