//! Who asks: by the token that a request shows, else by the name in the client's certificate.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

use super::tokens::{Now, Shown};
use super::users::Users;
use crate::grpc::fault;

/// Where a request shows its token: etcd's clients, and what speaks HTTP through its gateway.
const TOKEN_FIELDS: [&str; 2] = ["token", "authorization"];

/// What a request says of who asks.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    token: Option<MetadataValue<Ascii>>,
    certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
}

impl Caller {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let token = TOKEN_FIELDS.iter().find_map(|field| request.metadata().get(*field)).cloned();
        Self { token, certificates: request.peer_certs() }
    }

    /// The user that asks; none for a certificate without a name. There need be none of a certificate's name.
    pub(super) fn user(&self, users: &Users, shown: &Shown) -> Result<Option<String>, Status> {
        let Some(token) = &self.token else { return Ok(self.common_name()) };
        let token = token.to_str().unwrap_or_default();
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        shown.whose(users, token, Now::read()).map(Some).ok_or_else(fault::invalid_auth_token)
    }

    fn common_name(&self) -> Option<String> {
        let certificate = self.certificates.as_ref()?.first()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        (!name.is_empty()).then(|| name.to_owned())
    }
}
