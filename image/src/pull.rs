//! Pull: an image from a registry.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::{
    Client, Reference as Remote,
    client::{ClientConfig, ClientProtocol},
    errors::{DigestError, OciDistributionError, OciErrorCode},
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    Digest, Error, Image, Progress, Reference, Store, error,
    layer::Expected,
    manifest::{self, DOCUMENT_MAX, Descriptor, Document, Manifest, Platform},
};

/// Layers that are downloaded at the same time.
const PARALLEL_LAYERS: usize = 4;
/// Tries for each layer when the network fails.
const LAYER_TRIES: u32 = 3;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the next bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// What is asked for, in the order of preference.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a registry may ask for; basic, or exchanged for a bearer token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, ***)", self.username)
    }
}

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// `host[:port]` of registries that are spoken to over plain http; those on loopback always are.
    pub insecure: Vec<String>,
    /// `os/architecture[/variant]`; the machine's when none.
    pub platform: Option<String>,
}

type Report = Arc<dyn Fn(Progress) + Send + Sync>;

impl Store {
    /// Pulls an image and unpacks what is not here yet. Each of the credentials is tried in turn; anonymous if there
    /// are none. An image that is here is brought up to date, at the cost of asking for its manifest.
    ///
    /// # Errors
    /// See [`Error`]. Layers that were unpacked before an error stay until the next sweep.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[Credentials],
        options: &PullOptions,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Image, Error> {
        let reference: Reference = reference.parse()?;
        let wanted = Platform::wanted(options.platform.as_deref());
        let (remote, top, top_digest) = Pulling::connect(&reference, credentials, options).await?;
        let (manifest, digest) = match top {
            Document::Manifest(manifest) => (manifest, top_digest.clone()),
            Document::Index(index) => {
                let chosen = manifest::choose(&reference.to_string(), &index, &wanted)?.digest.clone();
                match remote.document(&reference.with_digest(chosen.clone())).await? {
                    (Document::Manifest(manifest), _) => (manifest, chosen),
                    (Document::Index(_), _) => {
                        let why = "an index inside an index".to_owned();
                        return Err(Error::Unsupported { subject: reference.to_string(), why });
                    }
                }
            }
        };
        let config = remote.small(&manifest.config, "configuration").await?;
        let (config, diff_ids) = manifest::configuration(&reference.to_string(), &config, &manifest)?;
        let bytes = manifest.layers.iter().map(|layer| layer.size).sum();
        progress(Progress::Resolved { digest: digest.clone(), layers: diff_ids.len(), bytes });
        let adding = self.clone();
        let _adding = blocking(move || adding.adding()).await?;
        self.pull_layers(&remote, &manifest, &diff_ids, Arc::new(progress)).await?;
        let names = [reference.clone(), reference.with_digest(top_digest)];
        let (store, id) = (self.clone(), manifest.config.digest);
        blocking(move || store.record(&digest, id, config, diff_ids, &names)).await
    }

    async fn pull_layers(
        &self,
        remote: &Pulling,
        manifest: &Manifest,
        diff_ids: &[Digest],
        report: Report,
    ) -> Result<(), Error> {
        let layers = manifest.layers.iter().zip(diff_ids).map(|(descriptor, diff_id)| {
            let report = report.clone();
            async move {
                let mut tries = 1;
                loop {
                    match self.pull_layer(remote, descriptor, diff_id, &report).await {
                        Err(Error::Network { reference, why }) if tries < LAYER_TRIES => {
                            tracing::warn!(%reference, %why, tries, "layer broke off, trying again");
                            tries += 1;
                        }
                        done => return done,
                    }
                }
            }
        });
        futures::stream::iter(layers).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await
    }

    async fn pull_layer(
        &self,
        remote: &Pulling,
        descriptor: &Descriptor,
        diff_id: &Digest,
        report: &Report,
    ) -> Result<(), Error> {
        let unpacked = Progress::Unpacked { digest: descriptor.digest.clone() };
        if descriptor.media_type.contains("foreign") || descriptor.media_type.contains("nondistributable") {
            let (subject, why) = (remote.subject("layer", &descriptor.digest), descriptor.media_type.clone());
            return Err(Error::Unsupported { subject, why });
        }
        let layers = self.inner.layers.clone();
        let wanted = diff_id.clone();
        let Some(turn) = blocking(move || layers.turn(&wanted)).await? else {
            report(unpacked);
            return Ok(());
        };
        let failure: Arc<Mutex<Option<Error>>> = Arc::default();
        let stream = remote.blob(descriptor, "layer", failure.clone(), report.clone()).await?;
        let reader = SyncIoBridge::new(Box::pin(StreamReader::new(stream)));
        let expected = Expected {
            subject: remote.subject("layer", &descriptor.digest),
            blob: Some(descriptor.digest.clone()),
            diff_id: diff_id.clone(),
        };
        let layers = self.inner.layers.clone();
        let done = blocking(move || layers.unpack(&turn, &expected, reader)).await;
        // The stream's own failure says more than what unpacking made of it.
        let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (done, failed) {
            (Err(_), Some(error)) => Err(error),
            (done, _) => done.map(|()| report(unpacked)),
        }
    }
}

/// A connection to the registry of one image.
struct Pulling {
    reference: Reference,
    client: Client,
    auth: RegistryAuth,
    tried: usize,
}

impl Pulling {
    /// Connects with the first credentials that the registry takes, and reads what the reference names.
    async fn connect(
        reference: &Reference,
        credentials: &[Credentials],
        options: &PullOptions,
    ) -> Result<(Pulling, Document, Digest), Error> {
        // Whoever came first has chosen the provider; both know what registries speak.
        drop(rustls::crypto::ring::default_provider().install_default());
        let basic = |c: &Credentials| RegistryAuth::Basic(c.username.clone(), c.password.clone());
        let mut auths: Vec<RegistryAuth> = credentials.iter().map(basic).collect();
        if auths.is_empty() {
            auths.push(RegistryAuth::Anonymous);
        }
        let mut refused = None;
        for auth in auths {
            let client = Client::new(config(reference, options));
            let pulling = Pulling { reference: reference.clone(), client, auth, tried: credentials.len() };
            match pulling.document(reference).await {
                Ok((document, digest)) => return Ok((pulling, document, digest)),
                Err(error @ Error::Unauthorized { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("invariant: at least one way was tried"))
    }

    fn subject(&self, what: &str, digest: &Digest) -> String {
        format!("{what} {digest} of {}", self.reference)
    }

    /// A manifest or index, with the right digest.
    async fn document(&self, reference: &Reference) -> Result<(Document, Digest), Error> {
        let pulled = self.client.pull_manifest_raw(&remote(reference), &self.auth, &MANIFEST_TYPES).await;
        let (bytes, _) = pulled.map_err(|error| self.explain(&error))?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = reference.digest().filter(|expected| **expected != actual) {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            return Err(Error::Digest { subject: format!("manifest of {reference}"), expected, actual });
        }
        Ok((Document::parse(&reference.to_string(), &bytes)?, actual))
    }

    /// A blob that is kept in memory.
    async fn small(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
        let subject = self.subject(what, &descriptor.digest);
        if descriptor.size > DOCUMENT_MAX {
            return Err(Error::Limit { subject, limit: DOCUMENT_MAX, what: "bytes" });
        }
        let failure: Arc<Mutex<Option<Error>>> = Arc::default();
        let stream = self.blob(descriptor, what, failure.clone(), Arc::new(|_| ())).await?;
        let mut bytes = Vec::new();
        let mut reader = Box::pin(StreamReader::new(stream)).take(DOCUMENT_MAX);
        if let Err(source) = reader.read_to_end(&mut bytes).await {
            let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(failed.unwrap_or_else(|| error::io("read", &subject)(source)));
        }
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            let (expected, actual) = (descriptor.digest.to_string(), actual.to_string());
            return Err(Error::Digest { subject, expected, actual });
        }
        Ok(bytes)
    }

    /// The bytes of a blob; why they break off is put into `failure`.
    async fn blob(
        &self,
        descriptor: &Descriptor,
        what: &str,
        failure: Arc<Mutex<Option<Error>>>,
        report: Report,
    ) -> Result<impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + use<>, Error> {
        let size = i64::try_from(descriptor.size).unwrap_or(i64::MAX);
        let wanted = OciDescriptor { digest: descriptor.digest.to_string(), size, ..OciDescriptor::default() };
        let stream = self.client.pull_blob_stream(&remote(&self.reference), &wanted).await;
        let stream = stream.map_err(|error| match self.explain(&error) {
            // The manifest is there, so a missing blob is the registry's fault.
            Error::NotFound { reference } => {
                Error::Registry { reference, why: format!("{what} {} is missing", descriptor.digest) }
            }
            other => other,
        })?;
        let (digest, total, mut done) = (descriptor.digest.clone(), descriptor.size, 0);
        let (subject, reference) = (self.subject(what, &digest), self.reference.to_string());
        Ok(stream.stream.map(move |chunk| match chunk {
            Ok(bytes) => {
                done += bytes.len() as u64;
                report(Progress::Layer { digest: digest.clone(), done, total });
                Ok(bytes)
            }
            Err(source) => {
                let explained = match source.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>()) {
                    Some(DigestError::VerificationError { expected, actual }) => {
                        let (expected, actual) = (expected.clone(), actual.clone());
                        Error::Digest { subject: subject.clone(), expected, actual }
                    }
                    _ => Error::Network { reference: reference.clone(), why: error::chain(&source) },
                };
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(explained);
                Err(source)
            }
        }))
    }

    fn explain(&self, failed: &OciDistributionError) -> Error {
        use OciDistributionError as Oci;
        let reference = self.reference.to_string();
        let unauthorized = |reference| Error::Unauthorized { reference, tried: self.tried };
        match failed {
            Oci::UnauthorizedError { .. } | Oci::AuthenticationFailure(_) => unauthorized(reference),
            Oci::ImageManifestNotFoundError(_) | Oci::ServerError { code: 404, .. } => Error::NotFound { reference },
            Oci::ServerError { code: 401 | 403, .. } => unauthorized(reference),
            Oci::RegistryError { envelope, .. } => {
                let has = |wanted: &[OciErrorCode]| envelope.errors.iter().any(|error| wanted.contains(&error.code));
                use OciErrorCode::{BlobUnknown, Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized};
                if has(&[Unauthorized, Denied]) {
                    unauthorized(reference)
                } else if has(&[ManifestUnknown, NameUnknown, NotFound, BlobUnknown]) {
                    Error::NotFound { reference }
                } else {
                    Error::Registry { reference, why: failed.to_string() }
                }
            }
            Oci::RequestError(_) | Oci::IoError(_) => Error::Network { reference, why: error::chain(failed) },
            Oci::DigestError(DigestError::VerificationError { expected, actual }) => Error::Digest {
                subject: format!("manifest of {reference}"),
                expected: expected.clone(),
                actual: actual.clone(),
            },
            _ => Error::Registry { reference, why: error::chain(failed) },
        }
    }
}

fn config(reference: &Reference, options: &PullOptions) -> ClientConfig {
    let plain = reference.is_loopback() || options.insecure.iter().any(|host| host == reference.host());
    let plain = if plain { vec![remote(reference).resolve_registry().to_owned()] } else { Vec::new() };
    ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain),
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("orlop/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }
}

fn remote(reference: &Reference) -> Remote {
    let (host, repository) = (reference.host().to_owned(), reference.repository().to_owned());
    match reference.digest() {
        Some(digest) => Remote::with_digest(host, repository, digest.to_string()),
        None => Remote::with_tag(host, repository, reference.tag().unwrap_or("latest").to_owned()),
    }
}

/// Runs what blocks beside the asynchronous threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
