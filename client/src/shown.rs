//! A certificate that is shown, and can be exchanged meanwhile: connections that are made later show the new one.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::{Error, certificates};

/// The certificate. Clones are the same.
#[derive(Clone, Debug)]
pub struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows this certificate with this key, both PEM.
    ///
    /// # Errors
    /// When they cannot be read, or do not fit together.
    pub fn new(certificate: &str, key: &str) -> Result<Self, Error> {
        Ok(Self(Arc::new(RwLock::new(certified(certificate, key)?))))
    }

    /// From now on shows this one.
    ///
    /// # Errors
    /// As [`Shown::new`]; then the old one stays.
    pub fn exchange(&self, certificate: &str, key: &str) -> Result<(), Error> {
        *self.0.write() = certified(certificate, key)?;
        Ok(())
    }

    fn newest(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read())
    }
}

fn certified(certificate: &str, key: &str) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(certificate, "the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|source| Error::Pem { what: "the key", source })?;
    let tls = |source| Error::Tls { what: "the certificate and key", source };
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(tls)?;
    Ok(Arc::new(certified))
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.newest())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.newest())
    }
}
