//! The authority of the store: who its members and etcd's tools trust. It is another than the cluster's, because whoever holds
//! a certificate of it may read and write everything, and nodes hold the cluster's.
//!
//! The authority is kept; certificates are made when they are asked for and live a week, so that nothing that is stolen or
//! forgotten stays good, and nothing runs out while the server runs.

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use store::embedded::cluster::{MEMBER_NAME, PeerTls};
use tokio::time::Instant;

use super::{Error, Pair, authority, certificate, kept, key, lasting, leaf, read_named, write};

/// The authority's files.
pub const KEPT: [&str; 2] = ["store-ca.crt", "store-ca.key"];

/// Days that a certificate of the store's authority lives.
const DAYS: i64 = 7;

/// How old the certificate of etcd's API becomes before it is made anew.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What the authority's files in `dir` hold, by name.
pub fn read(dir: &Path) -> Result<Vec<(String, String)>, Error> {
    KEPT.into_iter().map(|name| read_named(dir, name)).collect()
}

/// The authority of the store.
pub struct StorePki {
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl StorePki {
    /// Loads it from `dir`, or makes it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| Error::File { operation: "create", path: dir.into(), source })?;
        let [certificate, private] = KEPT.map(|name| dir.join(name));
        let ca_key = key(&private)?;
        let ca = kept(&certificate, || authority("orlop-store-ca", &ca_key))?;
        let issuer = Issuer::from_ca_cert_pem(&ca, ca_key)
            .map_err(|source| Error::Unusable { path: certificate.clone(), source })?;
        Ok(Self { ca, issuer })
    }

    fn pair(&self, subject: &str, names: &[String], usages: &[ExtendedKeyUsagePurpose]) -> Result<Pair, Error> {
        let mut params = leaf(subject, &[], names, usages)?;
        lasting(&mut params, jiff::Span::new().days(DAYS));
        certificate(subject, &params, &self.issuer, &self.ca)
    }

    /// What a member shows to the others; a new one at each call.
    pub fn member(&self) -> Result<PeerTls, Error> {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = self.pair(MEMBER_NAME, &[MEMBER_NAME.to_owned()], &both)?;
        Ok(PeerTls { ca: self.ca.clone().into(), cert: pair.certificate.into(), key: pair.key.into() })
    }

    /// Writes what etcd's tools need to use the API at `url`: a client certificate, and `etcd.env` to be sourced by a shell.
    pub fn write_client(&self, data_dir: &Path, url: &str) -> Result<(), Error> {
        let pair = self.pair("etcd-client", &[], &[ExtendedKeyUsagePurpose::ClientAuth])?;
        let dir = data_dir.join("pki");
        let [ca, certificate, private] = ["store-ca.crt", "etcd-client.crt", "etcd-client.key"].map(|n| dir.join(n));
        write(&certificate, &pair.certificate)?;
        write(&private, &pair.key)?;
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let quoted = |path: &Path| format!("'{}'", absolute(path).display().to_string().replace('\'', "'\\''"));
        let text = format!(
            "export ETCDCTL_API=3\nexport ETCDCTL_ENDPOINTS={url}\nexport ETCDCTL_CACERT={}\nexport ETCDCTL_CERT={}\nexport ETCDCTL_KEY={}\n",
            quoted(&ca),
            quoted(&certificate),
            quoted(&private),
        );
        write(&data_dir.join("etcd.env"), &text)
    }

    /// The certificate of etcd's API for these names and addresses, renewed by itself.
    pub fn serving(self: &Arc<Self>, names: Vec<String>) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Renewed { pki: Arc::clone(self), names, newest: Mutex::new(None) })
    }

    /// Whose clients are let in.
    pub fn clients(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        let found = CertificateDer::pem_slice_iter(self.ca.as_bytes()).flatten();
        roots.add_parsable_certificates(found);
        roots
    }
}

/// A certificate that is made anew every day.
struct Renewed {
    pki: Arc<StorePki>,
    names: Vec<String>,
    newest: Mutex<Option<(Instant, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for Renewed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewed").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut newest = self.newest.lock();
        if let Some((since, made)) = &*newest
            && since.elapsed() < RENEW_AFTER
        {
            return Some(Arc::clone(made));
        }
        let pair = self.pki.pair("etcd", &self.names, &[ExtendedKeyUsagePurpose::ServerAuth]);
        let made = pair.map_err(|error| error.to_string()).and_then(|pair| certified(&pair));
        match made {
            Ok(made) => {
                let made = Arc::new(made);
                *newest = Some((Instant::now(), Arc::clone(&made)));
                Some(made)
            }
            Err(error) => {
                tracing::error!(error, "cannot make the certificate of etcd's API");
                newest.as_ref().map(|(_, old)| Arc::clone(old))
            }
        }
    }
}

fn certified(pair: &Pair) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| error.to_string())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(chain.map_err(|error| error.to_string())?, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_the_store_are_not_the_clusters_and_outlive_no_week() {
        let dir = tempfile::tempdir().unwrap();
        let pki = StorePki::open(dir.path()).unwrap();
        let member = pki.member().unwrap();
        let der = super::super::pem_body(std::str::from_utf8(&member.cert).unwrap());
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.issuer().to_string(), "CN=orlop-store-ca");
        let life = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
        assert!((6 * 86_400..=8 * 86_400).contains(&life), "{life}");
        assert_eq!(StorePki::open(dir.path()).unwrap().ca, pki.ca, "the authority is kept");
    }
}
