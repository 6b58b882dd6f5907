//! The keys: the cluster's certificate authority, and every certificate and secret that the server makes at its start.
//!
//! The authority, the token signing key and the join secret are made once and kept in `<data-dir>/pki`. Certificates that
//! only this server uses are made anew at every start, so that they name its present addresses and never run out.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};

use crate::user::{MASTERS, NODE_PREFIX, NODES};

pub mod store;

/// Years until the authority and client certificates run out.
const YEARS: i16 = 10;

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
    /// The request is not for what the node may have.
    #[error("certificate request of node {node:?}: {why}")]
    Request {
        /// Which node.
        node: String,
        /// What is wrong with it.
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
    pub serving: Pair,
    /// What the API server shows to node agents.
    pub kubelet_client: Pair,
    /// What the administrator's kubeconfig holds.
    pub admin: Pair,
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
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Loads what is in `dir`, and makes what is missing. The serving certificate is for these names and addresses.
    pub fn open(dir: &Path, names: &[String]) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::File { operation: "create", path: dir.into(), source })?;
        let ca_key = key(&dir.join("ca.key"))?;
        let ca_path = dir.join("ca.crt");
        let ca = kept(&ca_path, || authority("orlop-ca", &ca_key))?;
        let unusable = |source| Error::Unusable { path: ca_path.clone(), source };
        let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).map_err(unusable)?;
        let token_key = key(&dir.join("sa.key"))?;
        let secret = |name: &str| kept(&dir.join(name), || Ok(hex::encode(rand::random::<[u8; 32]>())));
        let (join_secret, server_secret) = (secret("join-secret")?, secret("server-secret")?);
        let make = |subject: &str, groups: &[&str], names: &[String], usage| {
            certificate(subject, &leaf(subject, groups, names, &[usage])?, &issuer, &ca)
        };
        let serving = make("kube-apiserver", &[], names, ExtendedKeyUsagePurpose::ServerAuth)?;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let kubelet_client = make("kube-apiserver-kubelet-client", &[MASTERS], &[], client.clone())?;
        let admin = make("kubernetes-admin", &[MASTERS], &[], client)?;
        for (name, pair) in [("server", &serving), ("apiserver-kubelet-client", &kubelet_client), ("admin", &admin)] {
            write(&dir.join(format!("{name}.crt")), &pair.certificate)?;
            write(&dir.join(format!("{name}.key")), &pair.key)?;
        }
        write(&dir.join("sa.pub"), &token_key.public_key_pem())?;
        let kept = KEPT.into_iter().map(|name| read_named(dir, name)).collect::<Result<_, Error>>()?;
        Ok(Self {
            ca,
            serving,
            kubelet_client,
            admin,
            token_key,
            join_secret,
            server_secret,
            dir: dir.to_owned(),
            kept,
            issuer,
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
        let subject = format!("{NODE_PREFIX}{node}");
        self.sign(node, request, leaf(&subject, &[NODES], &[], &[ExtendedKeyUsagePurpose::ClientAuth])?)
    }

    /// Signs a node's request for its serving certificate, for its name and these addresses.
    pub fn sign_node_serving(&self, node: &str, request: &str, addresses: &[IpAddr]) -> Result<String, Error> {
        let subject = format!("{NODE_PREFIX}{node}");
        let names: Vec<_> = std::iter::once(node.to_owned()).chain(addresses.iter().map(ToString::to_string)).collect();
        self.sign(node, request, leaf(&subject, &[NODES], &names, &[ExtendedKeyUsagePurpose::ServerAuth])?)
    }

    fn sign(&self, node: &str, request: &str, params: CertificateParams) -> Result<String, Error> {
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| Error::Request { node: node.into(), why: error.to_string() })?;
        request.params = params;
        let certificate = request
            .signed_by(&self.issuer)
            .map_err(|source| Error::Certificate { subject: format!("{NODE_PREFIX}{node}"), source })?;
        Ok(certificate.pem())
    }
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

fn authority(subject: &str, key: &KeyPair) -> Result<String, Error> {
    let failed = |source| Error::Certificate { subject: subject.into(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params);
    Ok(params.self_signed(key).map_err(failed)?.pem())
}

fn leaf(
    subject: &str,
    groups: &[&str],
    names: &[String],
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<CertificateParams, Error> {
    let failed = |source| Error::Certificate { subject: subject.into(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    validity(&mut params);
    Ok(params)
}

/// A new key, and its certificate with the authority's behind it.
fn certificate(
    subject: &str,
    params: &CertificateParams,
    issuer: &Issuer<'static, KeyPair>,
    ca: &str,
) -> Result<Pair, Error> {
    let failed = |source| Error::Certificate { subject: subject.into(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem() + ca, key: key.serialize_pem() })
}

fn validity(params: &mut CertificateParams) {
    lasting(params, jiff::Span::new().years(YEARS));
}

/// From yesterday, for clocks that are behind.
fn lasting(params: &mut CertificateParams, life: jiff::Span) {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let ymd = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(
            i32::from(date.year()),
            u8::try_from(date.month()).unwrap_or(1),
            u8::try_from(date.day()).unwrap_or(1),
        )
    };
    params.not_before = ymd(today.yesterday().unwrap_or(today));
    params.not_after = ymd(today.saturating_add(life));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_serving_names_do_not_matter_to_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path(), &["127.0.0.1".into()]).unwrap();
        let second = Pki::open(dir.path(), &["10.0.0.1".into(), "localhost".into()]).unwrap();
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
        let pki = Pki::open(dir.path(), &[]).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["kubernetes".into()]).unwrap();
        wish.distinguished_name.push(DnType::OrganizationName, MASTERS);
        let request = wish.serialize_request(&key).unwrap().pem().unwrap();
        let signed = pki.sign_node_client("n1", &request).unwrap();
        let der = pem_body(&signed);
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(pki.sign_node_client("n1", "nonsense").is_err());
    }
}
