//! Manifest: which config and layers make an image, and which of several manifests fits this machine.
//!
//! OCI image-spec `manifest.md` and `image-index.md`; docker's schema 2 has the same shape.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error};

/// Largest manifest or configuration, bytes (registries refuse manifests beyond 4 MiB).
pub(crate) const DOCUMENT_MAX: u64 = 8 << 20;
/// Most layers of an image (overlayfs takes 500).
const LAYERS_MAX: usize = 500;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a registry or layout may give for a name.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// `subject` names it in errors.
    pub(crate) fn parse(subject: &str, bytes: &[u8]) -> Result<Document, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: u32,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let unsupported = |why: String| Error::Unsupported { subject: format!("manifest of {subject}"), why };
        let wrong = |error: serde_json::Error| unsupported(error.to_string());
        let shape: Shape = serde_json::from_slice(bytes).map_err(wrong)?;
        if shape.schema_version != 2 {
            return Err(unsupported(format!("schema version {}", shape.schema_version)));
        }
        if shape.manifests.is_some() {
            return Ok(Document::Index(serde_json::from_slice(bytes).map_err(wrong)?));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(wrong)?;
        if manifest.layers.len() > LAYERS_MAX {
            let (subject, limit) = (subject.to_owned(), LAYERS_MAX as u64);
            return Err(Error::Limit { subject, limit, what: "layers" });
        }
        Ok(Document::Manifest(manifest))
    }
}

impl Platform {
    /// The machine's, or `os/architecture[/variant]`.
    pub(crate) fn wanted(text: Option<&str>) -> Platform {
        let mut parts = text.unwrap_or_default().split('/');
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Platform {
            os: parts.next().filter(|os| !os.is_empty()).unwrap_or("linux").to_owned(),
            architecture: parts.next().unwrap_or(machine).to_owned(),
            variant: parts.next().map(str::to_owned),
        }
    }

    fn fits(&self, offered: &Platform) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && self.variant.as_ref().is_none_or(|variant| offered.variant.as_ref() == Some(variant))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// The manifest for this platform; one without a platform fits any.
pub(crate) fn choose<'a>(reference: &str, index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, Error> {
    let fitting = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|offered| wanted.fits(offered));
    let unspecified = |entry: &&Descriptor| entry.platform.is_none();
    let found = index.manifests.iter().find(fitting).or_else(|| index.manifests.iter().find(unspecified));
    found.ok_or_else(|| {
        let mut offered: Vec<String> =
            index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
        offered.retain(|platform| !platform.starts_with("unknown"));
        Error::Platform { reference: reference.into(), platform: wanted.to_string(), available: offered.join(", ") }
    })
}

/// The configuration, which must name as many layers as the manifest.
pub(crate) fn configuration(
    subject: &str,
    bytes: &[u8],
    manifest: &Manifest,
) -> Result<(ImageConfiguration, Vec<Digest>), Error> {
    let unsupported = |why: String| Error::Unsupported { subject: format!("configuration of {subject}"), why };
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(|error| unsupported(error.to_string()))?;
    let layers: Vec<Digest> = config.rootfs().diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    if layers.len() != manifest.layers.len() {
        return Err(unsupported(format!("it names {} layers, the manifest {}", layers.len(), manifest.layers.len())));
    }
    Ok((config, layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Index {
        let entry = |platform: &&str| Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::of(platform.as_bytes()),
            size: 1,
            platform: (!platform.is_empty()).then(|| Platform::wanted(Some(platform))),
            annotations: None,
        };
        Index { schema_version: 2, manifests: platforms.iter().map(entry).collect() }
    }

    #[test]
    fn the_fitting_platform_is_chosen() {
        let table = [
            (&["linux/arm64", "linux/amd64"][..], "linux/amd64", Some("linux/amd64")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", Some("linux/arm/v7")),
            (&["windows/amd64", ""], "linux/amd64", Some("")),
            (&["linux/s390x", "unknown/unknown"], "linux/amd64", None),
        ];
        for (offered, wanted, chosen) in table {
            let index = index(offered);
            let result = choose("x", &index, &Platform::wanted(Some(wanted)));
            assert_eq!(result.ok().map(|d| d.digest.clone()), chosen.map(|c| Digest::of(c.as_bytes())), "{offered:?}");
        }
        let foreign = index(&["linux/s390x", "unknown/unknown"]);
        let error = choose("x", &foreign, &Platform::wanted(Some("linux/amd64")));
        assert_eq!(error.unwrap_err().to_string(), "image x is not made for linux/amd64; it has linux/s390x");
    }
}
