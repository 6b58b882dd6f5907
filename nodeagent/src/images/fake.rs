//! Images that need no registry: for tests, and for hollow nodes.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{Credentials, Error, Image, Images};

/// Has every image, except those that are to be missing.
#[derive(Debug, Default)]
pub struct Fake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    broken: BTreeMap<String, String>,
    pulled: BTreeMap<String, u32>,
    images: BTreeMap<String, Arc<Image>>,
}

impl Fake {
    /// Pulls of this reference fail, for that reason.
    pub fn break_pull(&self, reference: &str, why: &str) {
        self.state.lock().broken.insert(reference.into(), why.into());
    }

    /// Pulls of this reference work again.
    pub fn mend(&self, reference: &str) {
        self.state.lock().broken.remove(reference);
    }

    /// What a reference shall name.
    pub fn put(&self, reference: &str, image: Image) {
        self.state.lock().images.insert(reference.into(), Arc::new(image));
    }

    /// How often it was pulled.
    pub fn pulls(&self, reference: &str) -> u32 {
        self.state.lock().pulled.get(reference).copied().unwrap_or(0)
    }
}

#[async_trait::async_trait]
impl Images for Fake {
    async fn get(&self, reference: &str) -> Result<Option<Arc<Image>>, Error> {
        Ok(self.state.lock().images.get(reference).cloned())
    }

    async fn pull(&self, reference: &str, _: &[Credentials]) -> Result<Arc<Image>, Error> {
        let mut state = self.state.lock();
        *state.pulled.entry(reference.into()).or_default() += 1;
        if let Some(why) = state.broken.get(reference) {
            return Err(Error::Pull { name: reference.into(), why: why.clone() });
        }
        let image = state.images.entry(reference.to_owned()).or_insert_with(|| {
            let entrypoint = vec!["/run".to_owned()];
            Arc::new(Image { id: format!("sha256:{reference}"), entrypoint, ..Image::default() })
        });
        Ok(Arc::clone(image))
    }
}
