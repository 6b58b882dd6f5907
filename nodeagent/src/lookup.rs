//! The ConfigMaps and Secrets that a pod refers to, as they were when somebody looked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, Secret};

/// Names of what a pod refers to, in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets, those for image pulls excepted.
    pub secrets: BTreeSet<String>,
}

impl References {
    /// What the environments of a pod's containers refer to.
    pub fn of_env(spec: &PodSpec) -> Self {
        let mut all = Self::default();
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            for from in container.env_from.iter().flatten() {
                all.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
                all.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
            }
            for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
                all.config_maps.extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
                all.secrets.extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
            }
        }
        all
    }

    /// What a pod's volumes refer to.
    pub fn of_volumes(spec: &PodSpec) -> Self {
        let mut all = Self::default();
        for volume in spec.volumes.iter().flatten() {
            all.config_maps.extend(volume.config_map.iter().map(|c| c.name.clone()));
            all.secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
            let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            for source in sources {
                all.config_maps.extend(source.config_map.iter().map(|c| c.name.clone()));
                all.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
            }
        }
        all
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// ConfigMaps by name; what does not exist is not here.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets by name; what does not exist is not here.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}
