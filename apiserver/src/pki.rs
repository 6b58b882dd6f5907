//! The keys: the cluster's certificate authority, and every certificate and secret that the server makes at its start.
//!
//! The authority, the token signing key and the join secrets are made once and kept in `<data-dir>/pki`. Certificates that
//! only this server uses are made when they are needed ([`renewed`]), so that they name its present addresses and never run
//! out.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::validity::Validity;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use sha2::{Digest, Sha256};

pub use self::authority::Authority;
use self::{authority::Leaf, renewed::Renewed};
use crate::user::{MASTERS, NODE_PREFIX, NODES};

pub mod authority;
pub mod renewed;
pub mod store;

/// How long the certificates of this server itself hold, seconds.
const OWN_LIFE: i64 = 7 * 86_400;

/// How long that in the administrator's kubeconfig holds, seconds: a year, as kubeadm's.
const ADMIN_LIFE: i64 = 365 * 86_400;

/// The longest life of a certificate, seconds: a hundred years.
const LONGEST: i64 = 36_500 * 86_400;

/// How long a node's certificates hold, unless an operator says otherwise: upstream's `--cluster-signing-duration`.
pub const NODE_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// What is made once and kept: without it, nobody who trusted the cluster does so any more.
pub const KEPT: [&str; 5] = ["ca.crt", "ca.key", "sa.key", "join-secret", "server-secret"];

/// What the join token begins with.
pub const TOKEN_PREFIX: &str = "orlop1";

/// Why a key or certificate is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate cannot be made.
    #[error("cannot make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no usable key or certificate")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The request is none.
    #[error("certificate request of {subject:?}: {why}")]
    Request {
        /// Whose.
        subject: String,
        /// What is wrong with it.
        why: String,
    },
    /// What was made cannot be used.
    #[error("certificate of {subject} cannot be used: {why}")]
    Unfit {
        /// Whose.
        subject: &'static str,
        /// Why not.
        why: String,
    },
}

/// A certificate with its key.
pub struct Pair {
    /// PEM, the authority's certificate after it.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

/// All of them.
pub struct Pki {
    /// PEM.
    pub ca: String,
    /// What the API server shows to clients.
    pub serving: Arc<Renewed>,
    /// What the API server shows to node agents.
    pub kubelet_client: Arc<Renewed>,
    /// What the administrator's kubeconfig holds.
    pub admin: Renewed,
    /// PEM: signs service accounts' tokens (ES256).
    pub token_key: KeyPair,
    /// What a node must know to join.
    pub join_secret: String,
    /// Names and contents of the files that are [kept](KEPT).
    pub kept: Vec<(String, String)>,
    /// What another server must know to join, and to be handed every key of the cluster.
    pub server_secret: String,
    /// Where all this lies.
    pub dir: PathBuf,
    authority: Arc<Authority>,
    /// How long a node's certificates hold, seconds.
    node_life: i64,
}

impl Pki {
    /// Loads what is in `dir`, and makes what is missing. The serving certificate is for these names and addresses; nodes'
    /// certificates hold for `node_life`.
    pub fn open(dir: &Path, names: &[String], node_life: Duration) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::File { operation: "create", path: dir.into(), source })?;
        let authority = Arc::new(Authority::open(dir, "orlop-ca", ["ca.crt", "ca.key"])?);
        let token_key = key(&dir.join("sa.key"))?;
        let secret = |name: &str| kept(&dir.join(name), || Ok(hex::encode(rand::random::<[u8; 32]>())));
        let (join_secret, server_secret) = (secret("join-secret")?, secret("server-secret")?);
        let renewed = |subject, groups: &'static [&str], names: &[String], usage: ExtendedKeyUsagePurpose, life| {
            let (authority, names) = (Arc::clone(&authority), names.to_vec());
            Renewed::new(subject, life, move |validity| {
                let leaf = Leaf { subject, groups, names: &names, usages: std::slice::from_ref(&usage) };
                authority.issue(&leaf, validity)
            })
        };
        let serving = renewed("kube-apiserver", &[], names, ExtendedKeyUsagePurpose::ServerAuth, OWN_LIFE)?;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let kubelet_client = renewed("kube-apiserver-kubelet-client", &[MASTERS], &[], client.clone(), OWN_LIFE)?;
        let admin = renewed("kubernetes-admin", &[MASTERS], &[], client, ADMIN_LIFE)?;
        write(&dir.join("admin.crt"), &admin.pair().certificate)?;
        write(&dir.join("admin.key"), &admin.pair().key)?;
        write(&dir.join("sa.pub"), &token_key.public_key_pem())?;
        let kept = KEPT.into_iter().map(|name| read_named(dir, name)).collect::<Result<_, Error>>()?;
        Ok(Self {
            ca: authority.ca.clone(),
            serving: Arc::new(serving),
            kubelet_client: Arc::new(kubelet_client),
            admin,
            token_key,
            join_secret,
            server_secret,
            dir: dir.to_owned(),
            kept,
            authority,
            node_life: i64::try_from(node_life.as_secs()).unwrap_or(LONGEST).min(LONGEST),
        })
    }

    /// `orlop1.<sha256 of the authority's certificate>.<secret>`: whom to trust, and why to be trusted.
    pub fn join_token(&self) -> String {
        self.token(&self.join_secret)
    }

    /// The same for another server.
    pub fn server_token(&self) -> String {
        self.token(&self.server_secret)
    }

    fn token(&self, secret: &str) -> String {
        format!("{TOKEN_PREFIX}.{}.{secret}", hex::encode(Sha256::digest(pem_body(&self.ca))))
    }

    /// Signs a node's request for its client certificate: the key is the request's, everything else is ours.
    pub fn sign_node_client(&self, node: &str, request: &str) -> Result<String, Error> {
        self.sign(node, request, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Signs a node's request for its serving certificate, for its name and these addresses.
    pub fn sign_node_serving(&self, node: &str, request: &str, addresses: &[IpAddr]) -> Result<String, Error> {
        let names: Vec<_> = std::iter::once(node.to_owned()).chain(addresses.iter().map(ToString::to_string)).collect();
        self.sign(node, request, &names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn sign(
        &self,
        node: &str,
        request: &str,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<String, Error> {
        let subject = format!("{NODE_PREFIX}{node}");
        let leaf = Leaf { subject: &subject, groups: &[NODES], names, usages: &[usage] };
        self.authority.sign(request, &leaf, Validity::starting(now(), self.node_life))
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The DER inside the first PEM block.
pub fn pem_body(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap_or_default()
}

/// Writes a file of mode 0600 so that it is either the old or the new one, also over a power cut.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let tried = |operation, source| Error::File { operation, path: path.into(), source };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(|e| tried("create", e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| tried("write", e))?;
    fs::rename(&partial, path).map_err(|e| tried("rename", e))?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| tried("sync the folder of", e))
}

/// The file's name, and what it holds.
fn read_named(dir: &Path, name: &str) -> Result<(String, String), Error> {
    let path = dir.join(name);
    let text = fs::read_to_string(&path).map_err(|source| Error::File { operation: "read", path, source })?;
    Ok((name.to_owned(), text))
}

/// What the file holds, or what `make` gives, which is then kept there.
fn kept(path: &Path, make: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = make()?;
            write(path, &text)?;
            Ok(text)
        }
        Err(source) => Err(Error::File { operation: "read", path: path.into(), source }),
    }
}

fn key(path: &Path) -> Result<KeyPair, Error> {
    let made = || {
        let key = KeyPair::generate()
            .map_err(|source| Error::Certificate { subject: path.to_string_lossy().into_owned(), source })?;
        Ok(key.serialize_pem())
    };
    let pem = kept(path, made)?;
    KeyPair::from_pem(&pem).map_err(|source| Error::Unusable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_serving_names_do_not_matter_to_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path(), &["127.0.0.1".into()], NODE_LIFE).unwrap();
        let second = Pki::open(dir.path(), &["10.0.0.1".into(), "localhost".into()], NODE_LIFE).unwrap();
        assert_eq!(first.join_token(), second.join_token());
        assert_eq!(first.ca, second.ca);
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }

    #[test]
    fn a_node_gets_the_name_that_it_joined_with_whatever_it_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path(), &[], Duration::from_secs(3_600)).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = rcgen::CertificateParams::new(vec!["kubernetes".into()]).unwrap();
        wish.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let request = wish.serialize_request(&key).unwrap().pem().unwrap();
        let signed = pki.sign_node_client("n1", &request).unwrap();
        let der = pem_body(&signed);
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        let left = certificate.validity().not_after.timestamp() - now();
        assert!((3_590..=3_600).contains(&left), "{left}");
        assert!(pki.sign_node_client("n1", "nonsense").is_err());
    }
}
