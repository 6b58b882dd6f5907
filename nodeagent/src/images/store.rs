//! The node's images in an `image::Store`.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Credentials, Error, Image, Images};

type Gate = Arc<tokio::sync::Mutex<()>>;

/// Images of a store that other nodes of the machine may share.
pub struct Store {
    store: image::Store,
    options: image::PullOptions,
    pulling: Mutex<BTreeMap<String, Gate>>,
}

impl Store {
    /// The images of this store, pulled in this way.
    pub fn new(store: image::Store, options: image::PullOptions) -> Self {
        Self { store, options, pulling: Mutex::default() }
    }

    fn gate(&self, reference: &str) -> Gate {
        let mut pulling = self.pulling.lock();
        pulling.retain(|_, gate| Arc::strong_count(gate) > 1);
        Arc::clone(pulling.entry(reference.to_owned()).or_default())
    }
}

#[async_trait::async_trait]
impl Images for Store {
    async fn get(&self, reference: &str) -> Result<Option<Arc<Image>>, Error> {
        let (store, name) = (self.store.clone(), reference.to_owned());
        // invariant: reading an index does not panic
        let found = tokio::task::spawn_blocking(move || store.get(&name)).await.expect("reading the index ends");
        match found {
            Ok(image) => Ok(Some(Arc::new(convert(image)))),
            Err(image::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(reference, &error)),
        }
    }

    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Arc<Image>, Error> {
        let parsed: image::Reference = reference.parse().map_err(|e| failed(reference, &e))?;
        let credentials: Vec<_> = credentials
            .iter()
            .filter(|c| fits(&c.registry, &parsed))
            .map(|c| image::Credentials { username: c.username.clone(), password: c.password.clone() })
            .collect();
        let gate = self.gate(reference);
        let _one_at_a_time = gate.lock().await;
        let (store, options, name) = (self.store.clone(), self.options.clone(), reference.to_owned());
        // unpacking works the disk hard: on a thread of its own it holds up nobody
        let runtime = tokio::runtime::Handle::current();
        let work = move || runtime.block_on(store.pull(&name, &credentials, &options, |_| {}));
        // invariant: a pull does not panic
        let pulled = tokio::task::spawn_blocking(work).await.expect("a pull ends");
        pulled.map(|image| Arc::new(convert(image))).map_err(|e| failed(reference, &e))
    }
}

fn failed(reference: &str, error: &image::Error) -> Error {
    if let image::Error::Reference { why, .. } = error {
        return Error::Name { name: reference.into(), why: (*why).into() };
    }
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    Error::Pull { name: reference.into(), why }
}

fn convert(image: image::Image) -> Image {
    let config = image.config.config().clone().unwrap_or_default();
    Image {
        id: image.id.to_string(),
        layers: image.layers,
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
    }
}

/// Whether credentials written for `registry` (`ghcr.io`, `https://index.docker.io/v1/`, `host/path`) are for this image.
fn fits(registry: &str, reference: &image::Reference) -> bool {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.trim_end_matches("/v1").trim_end_matches("/v2");
    let bare = match bare.split_once('/').map_or((bare, None), |(host, path)| (host, Some(path))) {
        ("index.docker.io" | "registry-1.docker.io", path) => {
            path.map_or_else(|| "docker.io".to_owned(), |p| format!("docker.io/{p}"))
        }
        _ => bare.to_owned(),
    };
    let name = reference.name();
    name == bare || name.strip_prefix(&bare).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_sent_only_where_they_belong() {
        for (registry, image, expected) in [
            ("https://index.docker.io/v1/", "web", true),
            ("ghcr.io", "ghcr.io/a/web:v1", true),
            ("ghcr.io/a", "ghcr.io/a/web", true),
            ("ghcr.io/a", "ghcr.io/ab/web", false),
            ("ghcr.io", "ghcr.io.evil.example/web", false),
            ("localhost:5000", "localhost:5000/web", true),
        ] {
            assert_eq!(super::fits(registry, &image.parse().unwrap()), expected, "{registry} {image}");
        }
    }
}
