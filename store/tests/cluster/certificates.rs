//! Certificates of a store's own, for tests and benchmarks.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::embedded::cluster::PeerTls;

pub type Ca = CertifiedIssuer<'static, KeyPair>;

pub fn ca() -> Ca {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for these names, good for both sides.
pub fn certificate(ca: &Ca, names: &[&str]) -> PeerTls {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, ca).unwrap().pem();
    PeerTls { ca: ca.pem().into(), cert: cert.into(), key: key.serialize_pem().into() }
}
