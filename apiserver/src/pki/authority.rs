//! An authority: a key that is kept, and the certificates that it signs.

use std::{net::IpAddr, path::Path};

use api::validity::Validity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::{Error, Pair, kept, key};

/// How long an authority itself holds, seconds: ten years, as kubeadm's.
const LIFE: i64 = 3_650 * 86_400;

/// An authority.
pub struct Authority {
    /// Its certificate, PEM.
    pub ca: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for, and what.
pub struct Leaf<'a> {
    /// The common name.
    pub subject: &'a str,
    /// The organizations.
    pub groups: &'a [&'a str],
    /// DNS names and addresses.
    pub names: &'a [String],
    /// To serve, to ask, or both.
    pub usages: &'a [ExtendedKeyUsagePurpose],
}

impl Authority {
    /// Loads it from `dir`, or makes it: its certificate and its key are in these files.
    pub fn open(dir: &Path, subject: &str, files: [&str; 2]) -> Result<Self, Error> {
        let [certificate, private] = files.map(|name| dir.join(name));
        let own_key = key(&private)?;
        let ca = kept(&certificate, || own(subject, &own_key))?;
        let issuer = Issuer::from_ca_cert_pem(&ca, own_key);
        let issuer = issuer.map_err(|source| Error::Unusable { path: certificate.clone(), source })?;
        Ok(Self { ca, issuer })
    }

    /// A new key, and its certificate with the authority's behind it.
    pub fn issue(&self, leaf: &Leaf, validity: Validity) -> Result<Pair, Error> {
        let failed = |source| Error::Certificate { subject: leaf.subject.into(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params(leaf, validity)?.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Pair { certificate: certificate.pem() + &self.ca, key: key.serialize_pem() })
    }

    /// The certificate for the key of a request (PEM); of what else the request asks for nothing is heeded.
    pub fn sign(&self, request: &str, leaf: &Leaf, validity: Validity) -> Result<String, Error> {
        let subject = || leaf.subject.to_owned();
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| Error::Request { subject: subject(), why: error.to_string() })?;
        request.params = params(leaf, validity)?;
        let certificate = request.signed_by(&self.issuer);
        Ok(certificate.map_err(|source| Error::Certificate { subject: subject(), source })?.pem())
    }
}

fn own(subject: &str, key: &KeyPair) -> Result<String, Error> {
    let failed = |source| Error::Certificate { subject: subject.into(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasting(&mut params, Validity::starting(super::now(), LIFE));
    Ok(params.self_signed(key).map_err(failed)?.pem())
}

fn params(leaf: &Leaf, validity: Validity) -> Result<CertificateParams, Error> {
    let failed = |source| Error::Certificate { subject: leaf.subject.into(), source };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, leaf.subject);
    for group in leaf.groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    for name in leaf.names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = leaf.usages.to_vec();
    lasting(&mut params, validity);
    Ok(params)
}

fn lasting(params: &mut CertificateParams, validity: Validity) {
    let at = |seconds: i64| {
        let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    (params.not_before, params.not_after) = (at(validity.from), at(validity.until));
}
