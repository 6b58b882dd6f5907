//! The files that a Secret shows in a volume.

use k8s_openapi::api::core::v1::{KeyToPath, SecretVolumeSource};

use super::{Error, Inputs, choose};
use crate::atomic::Files;

/// The files of a volume of its own.
pub fn volume(source: &SecretVolumeSource, inputs: &Inputs<'_>) -> Result<Files, Error> {
    let name = source.secret_name.as_deref().unwrap_or_default();
    let optional = source.optional == Some(true);
    files(name, source.items.as_ref(), optional, source.default_mode, inputs)
}

/// The files of one source.
pub fn files(
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    default_mode: Option<i32>,
    inputs: &Inputs<'_>,
) -> Result<Files, Error> {
    match inputs.lookup.secrets.get(name) {
        Some(secret) => {
            let data = secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone()));
            choose("secret", &data.collect(), items, optional, default_mode)
        }
        None if optional => Ok(Files::new()),
        None => Err(Error::Missing { what: "secret", name: name.into() }),
    }
}
