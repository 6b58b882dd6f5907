//! The files that show a pod its own fields.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use super::{Error, Inputs, mode};
use crate::{
    atomic::{File, Files},
    field,
};

/// The files of a volume of its own.
pub fn volume(source: &DownwardAPIVolumeSource, inputs: &Inputs<'_>) -> Result<Files, Error> {
    files(source.items.as_ref(), source.default_mode, inputs)
}

/// The files of one source.
pub fn files(
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default_mode: Option<i32>,
    inputs: &Inputs<'_>,
) -> Result<Files, Error> {
    let mut files = Files::new();
    for item in items.into_iter().flatten() {
        let bytes = text(item, inputs)?.into_bytes();
        files.insert(item.path.clone(), File { bytes, mode: mode(item.mode, default_mode), uid: None });
    }
    Ok(files)
}

fn text(item: &DownwardAPIVolumeFile, inputs: &Inputs<'_>) -> Result<String, Error> {
    if let Some(selector) = &item.field_ref {
        let unsupported = || Error::Field { path: selector.field_path.clone() };
        return field::field(inputs.pod, &selector.field_path, inputs.place).ok_or_else(unsupported);
    }
    let Some(selector) = &item.resource_field_ref else { return Err(Error::Field { path: String::new() }) };
    let unsupported = || Error::Field { path: selector.resource.clone() };
    let spec = inputs.pod.spec.as_ref().ok_or_else(unsupported)?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = containers.find(|c| c.name == name).ok_or_else(unsupported)?;
    field::resource(container, selector, inputs.place).ok_or_else(unsupported)
}
