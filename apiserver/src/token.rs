//! The token: what service accounts prove themselves with (KEP-1205), signed with ES256.

use ahash::AHashMap;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use store::Revision;

use crate::pki::Pki;

/// Who signs, and whom tokens are for when nobody else is named.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Most verified tokens that are remembered.
const MAX_REMEMBERED: usize = 4_096;

/// Shortest and longest life of a token, seconds (upstream: 10 minutes, 2^32).
pub const LIFE: std::ops::RangeInclusive<i64> = 600..=(1 << 32);

/// An object that a token names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What the token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: Named,
    /// The pod that it dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The secret that it dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// The node that the pod is on; without a pod, the node that it dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    pub aud: Vec<String>,
    /// Until when, seconds since 1970.
    pub exp: i64,
    /// Made when.
    pub iat: i64,
    /// Signed by whom.
    pub iss: String,
    /// Its own name.
    pub jti: String,
    /// Bound to what.
    #[serde(rename = "kubernetes.io")]
    pub binding: Binding,
    /// From when.
    pub nbf: i64,
    /// Who it is.
    pub sub: String,
}

/// Why a token is refused. Clients only ever learn 401.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Forged, expired, or not of this cluster.
    #[error("token does not verify")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// Valid, but for somebody else.
    #[error("token is for audiences {0:?}")]
    Audience(Vec<String>),
}

struct Remembered {
    claims: Claims,
    /// The revisions of what it is bound to at which the binding was seen to hold.
    seen: Vec<Revision>,
}

/// Signs and verifies.
pub struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    header: Header,
    remembered: Mutex<AHashMap<String, Remembered>>,
}

impl Tokens {
    /// With the cluster's key.
    pub fn new(pki: &Pki) -> Result<Self, Error> {
        let mut header = Header::new(Algorithm::ES256);
        use sha2::Digest as _;
        header.kid = Some(hex::encode(&sha2::Sha256::digest(pki.token_key.public_key_raw())[..16]));
        Ok(Self {
            signing: EncodingKey::from_ec_pem(pki.token_key.serialize_pem().as_bytes())?,
            verifying: DecodingKey::from_ec_pem(pki.token_key.public_key_pem().as_bytes())?,
            header,
            remembered: Mutex::default(),
        })
    }

    /// The token that says this.
    pub fn sign(&self, claims: &Claims) -> Result<String, Error> {
        Ok(jsonwebtoken::encode(&self.header, claims, &self.signing)?)
    }

    /// What the token says, if it is ours and holds now. The signature is looked at once per token.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, Error> {
        let remembered = self.remembered.lock().get(token).map(|r| r.claims.clone());
        let claims = match remembered {
            Some(claims) => claims,
            None => {
                let mut validation = Validation::new(Algorithm::ES256);
                validation.validate_aud = false;
                validation.validate_exp = false;
                validation.set_issuer(&[ISSUER]);
                let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)?.claims;
                let mut all = self.remembered.lock();
                if all.len() >= MAX_REMEMBERED {
                    all.clear();
                }
                all.insert(token.to_owned(), Remembered { claims: claims.clone(), seen: Vec::new() });
                claims
            }
        };
        if claims.exp <= now || claims.nbf > now + 60 {
            return Err(jsonwebtoken::errors::Error::from(jsonwebtoken::errors::ErrorKind::ExpiredSignature).into());
        }
        Ok(claims)
    }

    /// The binding was already seen to hold with the objects at these revisions.
    pub fn seen(&self, token: &str, at: &[Revision]) -> bool {
        self.remembered.lock().get(token).is_some_and(|r| r.seen == at)
    }

    /// Remembers that the binding holds with the objects at these revisions.
    pub fn see(&self, token: &str, at: Vec<Revision>) {
        if let Some(remembered) = self.remembered.lock().get_mut(token) {
            remembered.seen = at;
        }
    }
}
