//! Who asks: the subject of a client certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Common names of the API server's client certificate.
const NAMES: [&str; 2] = ["orlop-apiserver", "kube-apiserver-kubelet-client"];
/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Whether a certificate, which the cluster's CA has signed, is the API server's.
pub(super) fn is_api_server(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let subject = parsed.subject();
    let has = |text: Result<&str, _>, wanted: &[&str]| text.is_ok_and(|t| wanted.contains(&t));
    subject.iter_common_name().any(|name| has(name.as_str(), &NAMES))
        || subject.iter_organization().any(|name| has(name.as_str(), &[MASTERS]))
}
