//! The authority of the store: who its members and etcd's tools trust. It is another than the cluster's, because whoever holds
//! a certificate of it may read and write everything, and nodes hold the cluster's.
//!
//! The authority is kept; certificates are made when they are asked for and live a week, so that nothing that is stolen or
//! forgotten stays good, and nothing runs out while the server runs.

use std::{path::Path, sync::Arc};

use api::validity::Validity;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    pki_types::{CertificateDer, pem::PemObject as _},
    server::ResolvesServerCert,
};
use store::embedded::cluster::{MEMBER_NAME, PeerTls};

use super::{
    Error, Pair,
    authority::{Authority, Leaf},
    now, read_named,
    renewed::Renewed,
    write,
};

/// The authority's files.
pub const KEPT: [&str; 2] = ["store-ca.crt", "store-ca.key"];

/// How long a certificate of the store's authority holds, seconds.
const LIFE: i64 = 7 * 86_400;

/// What the authority's files in `dir` hold, by name.
pub fn read(dir: &Path) -> Result<Vec<(String, String)>, Error> {
    KEPT.into_iter().map(|name| read_named(dir, name)).collect()
}

/// The authority of the store.
pub struct StorePki(Authority);

impl StorePki {
    /// Loads it from `dir`, or makes it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| Error::File { operation: "create", path: dir.into(), source })?;
        Ok(Self(Authority::open(dir, "orlop-store-ca", KEPT)?))
    }

    fn pair(&self, subject: &str, names: &[String], usages: &[ExtendedKeyUsagePurpose]) -> Result<Pair, Error> {
        let leaf = Leaf { subject, groups: &[], names, usages };
        self.0.issue(&leaf, Validity::starting(now(), LIFE))
    }

    /// What a member shows to the others; a new one at each call.
    pub fn member(&self) -> Result<PeerTls, Error> {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = self.pair(MEMBER_NAME, &[MEMBER_NAME.to_owned()], &both)?;
        Ok(PeerTls { ca: self.0.ca.clone().into(), cert: pair.certificate.into(), key: pair.key.into() })
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
    ///
    /// # Errors
    /// When the first cannot be made.
    pub fn serving(self: &Arc<Self>, names: Vec<String>) -> Result<Arc<dyn ResolvesServerCert>, Error> {
        let pki = Arc::clone(self);
        let renewed = Renewed::new("etcd", LIFE, move |validity| {
            let usages = &[ExtendedKeyUsagePurpose::ServerAuth];
            pki.0.issue(&Leaf { subject: "etcd", groups: &[], names: &names, usages }, validity)
        });
        Ok(Arc::new(renewed?))
    }

    /// Whose clients are let in.
    pub fn clients(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        let found = CertificateDer::pem_slice_iter(self.0.ca.as_bytes()).flatten();
        roots.add_parsable_certificates(found);
        roots
    }
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
        assert_eq!(StorePki::open(dir.path()).unwrap().0.ca, pki.0.ca, "the authority is kept");
    }
}
