//! Certificates that are made anew by themselves, well before they run out: whoever is asked for one gives the newest.
//!
//! Nothing runs for it. A certificate is looked at when a connection is made, which is the only time when it matters.

use std::{fmt, sync::Arc};

use api::validity::Validity;
use parking_lot::Mutex;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Error, Pair, now};

type Make = dyn Fn(Validity) -> Result<Pair, Error> + Send + Sync;

/// The newest certificate of one subject.
pub struct Renewed {
    subject: &'static str,
    /// Seconds.
    life: i64,
    make: Box<Make>,
    newest: Mutex<Made>,
}

struct Made {
    validity: Validity,
    pair: Arc<Pair>,
    key: Arc<CertifiedKey>,
}

impl Renewed {
    /// Makes the first. Each holds for `life` seconds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(
        subject: &'static str,
        life: i64,
        make: impl Fn(Validity) -> Result<Pair, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let make: Box<Make> = Box::new(make);
        let newest = Mutex::new(made(&make, Validity::starting(now(), life), subject)?);
        Ok(Self { subject, life, make, newest })
    }

    /// The certificate and its key, PEM.
    pub fn pair(&self) -> Arc<Pair> {
        Arc::clone(&self.at(now()).0)
    }

    fn key(&self) -> Arc<CertifiedKey> {
        self.at(now()).1
    }

    /// The newest as of a time; one that cannot be made anew is used to its end.
    fn at(&self, now: i64) -> (Arc<Pair>, Arc<CertifiedKey>) {
        let mut newest = self.newest.lock();
        if now >= newest.validity.renewal(0) {
            match made(&self.make, Validity::starting(now, self.life), self.subject) {
                Ok(made) => *newest = made,
                Err(error) => tracing::error!(%error, subject = self.subject, "a certificate cannot be made anew"),
            }
        }
        (Arc::clone(&newest.pair), Arc::clone(&newest.key))
    }
}

fn made(make: &Make, validity: Validity, subject: &'static str) -> Result<Made, Error> {
    let pair = make(validity)?;
    let unusable = |why: String| Error::Unfit { subject, why };
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| unusable(error.to_string()))?;
    Ok(Made { validity, pair: Arc::new(pair), key: Arc::new(CertifiedKey::new(chain, key)) })
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Renewed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::authority::{Authority, Leaf};

    #[test]
    fn a_certificate_is_made_anew_before_it_ends_and_kept_until_then() {
        const DAY: i64 = 86_400;
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "orlop-ca", ["ca.crt", "ca.key"]).unwrap();
        let renewed = Renewed::new("x", 7 * DAY, move |validity| {
            authority.issue(&Leaf { subject: "x", groups: &[], names: &[], usages: &[] }, validity)
        });
        let (renewed, start) = (renewed.unwrap(), now());
        let at = |days: i64| renewed.at(start + days * DAY).0.certificate.clone();
        let first = at(0);
        assert_eq!(at(4), first);
        let second = at(5);
        assert_ne!(second, first);
        assert_eq!(at(9), second);
        assert_ne!(at(30), second, "a server that slept through all of it");
    }
}
