//! A store of one's own that speaks etcd's API, for as long as a test takes.
#![allow(dead_code, reason = "the benchmark takes less than the tests")]

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use store::grpc::{Server, Tls};
use store::{Backend, Embedded, EtcdTls, Member, MemberId, Membership, Options, Standing};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::etcd;

/// The members of a store that runs alone.
pub struct Alone {
    pub url: String,
}

/// What it calls its cluster and its member.
pub const CLUSTER: u64 = 0xc0de;
pub const MEMBER: u64 = 0xbee;

fn refused(why: &'static str) -> store::Error {
    store::Error::Invalid { why }
}

#[async_trait::async_trait]
impl Membership for Alone {
    async fn members(&self, _linearizable: bool) -> Result<Vec<Member>, store::Error> {
        let urls = vec![self.url.clone()];
        let name = "alone".to_owned();
        Ok(vec![Member { id: MEMBER, name, peer_urls: urls.clone(), client_urls: urls, learner: false }])
    }

    async fn add_member(&self, _: Vec<String>, _: bool) -> Result<Member, store::Error> {
        Err(refused("a store that runs alone takes no members"))
    }

    async fn remove_member(&self, _: MemberId) -> Result<(), store::Error> {
        Err(refused("nobody would be left"))
    }

    async fn update_member(&self, _: MemberId, _: Vec<String>) -> Result<(), store::Error> {
        Err(refused("nobody would look for it there"))
    }

    async fn promote_member(&self, _: MemberId) -> Result<(), store::Error> {
        Err(refused("there is no learner"))
    }

    async fn move_leader(&self, _: MemberId) -> Result<(), store::Error> {
        Err(refused("there is nobody else"))
    }

    fn standing(&self) -> Standing {
        Standing { cluster: CLUSTER, member: MEMBER, leader: MEMBER, term: 2, ..Standing::default() }
    }
}

/// A served store.
pub struct Served {
    /// Where clients reach it.
    pub url: String,
    /// What they show, and trust.
    pub tls: EtcdTls,
    pub store: Arc<Embedded>,
    /// PEM files of `tls`: CA, certificate, key.
    pub files: [std::path::PathBuf; 3],
    /// What it shows, and trusts.
    own: Tls,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), store::grpc::ServeError>>,
    /// Its folder, if it is gone with it.
    _dir: Option<tempfile::TempDir>,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(Options { sync: false, ..Options::default() }, |server| server).await
    }

    pub async fn with(options: Options, adjust: impl FnOnce(Server) -> Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let served = Self::open(dir.path(), options, adjust).await;
        Self { _dir: Some(dir), ..served }
    }

    /// Serves what is in a folder.
    pub async fn open(dir: &Path, options: Options, adjust: impl FnOnce(Server) -> Server) -> Self {
        let store = Arc::new(Embedded::open(&dir.join("store"), options).unwrap());
        let etcd::Certificates { ca, server: shown, client } = etcd::Server::certificates();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let backend: Arc<dyn Backend> = store.clone();
        let server = adjust(Server::new(backend, Arc::new(Alone { url: url.clone() })));
        let (stop, stopped) = oneshot::channel();
        let own = tls(ca.as_bytes(), shown.0.as_bytes(), shown.1.as_bytes());
        let task = tokio::spawn(server.serve(listener, own.clone(), async { drop(stopped.await) }));
        let tls = EtcdTls { ca: ca.into(), cert: client.0.into(), key: client.1.into() };
        let files = write(dir, &tls);
        Self { url, tls, store, files, own, stop, task, _dir: None }
    }

    /// Another member of the same store.
    pub async fn beside(served: &Self) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (store, own, tls, files) =
            (served.store.clone(), served.own.clone(), served.tls.clone(), served.files.clone());
        let backend: Arc<dyn Backend> = store.clone();
        let (stop, stopped) = oneshot::channel();
        let server = Server::new(backend, Arc::new(Alone { url: url.clone() }));
        let task = tokio::spawn(server.serve(listener, own.clone(), async { drop(stopped.await) }));
        Self { url, tls, store, files, own, stop, task, _dir: None }
    }

    pub async fn client(&self) -> etcd_client::Client {
        self.client_as(None).await
    }

    /// A client that authenticates as this user, by this password.
    pub async fn client_as(&self, user: Option<(&str, &str)>) -> etcd_client::Client {
        self.try_client_as(user).await.unwrap()
    }

    pub async fn try_client_as(&self, user: Option<(&str, &str)>) -> Result<etcd_client::Client, etcd_client::Error> {
        self.client_of(&[&self.url], user).await
    }

    /// Connects as that client, without gRPC.
    pub fn connector(&self) -> tokio_rustls::TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&self.tls.ca).unwrap()).unwrap();
        let chain = CertificateDer::pem_slice_iter(&self.tls.cert).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(&self.tls.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        Arc::new(config).into()
    }

    /// A client of several members.
    pub async fn client_of(
        &self,
        urls: &[&String],
        user: Option<(&str, &str)>,
    ) -> Result<etcd_client::Client, etcd_client::Error> {
        let tls = etcd_client::TlsOptions::new()
            .ca_certificate(etcd_client::Certificate::from_pem(&self.tls.ca))
            .identity(etcd_client::Identity::from_pem(&self.tls.cert, &self.tls.key));
        let mut options = etcd_client::ConnectOptions::new().with_tls(tls).with_require_leader(true);
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        etcd_client::Client::connect(urls, Some(options)).await
    }

    /// Stops serving, and then the store.
    pub async fn stop(self) {
        let store = self.store.clone();
        self.stop_serving().await;
        store.close().await;
    }

    /// Stops serving.
    pub async fn stop_serving(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Writes what a client shows and trusts into PEM files: CA, certificate, key.
pub fn write(dir: &Path, tls: &EtcdTls) -> [std::path::PathBuf; 3] {
    [("ca.pem", &tls.ca), ("client.pem", &tls.cert), ("client.key", &tls.key)].map(|(name, pem)| {
        let path = dir.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    })
}

/// What a server shows with this certificate and key, and trusts with this CA, PEM.
pub fn tls(ca: &[u8], cert: &[u8], key: &[u8]) -> Tls {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let mut clients = RootCertStore::empty();
    clients.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    Tls { certificate: Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))), clients: Arc::new(clients) }
}
