//! The protobuf form of objects, read: what Go clients send for built-in kinds.
//!
//! A body is the magic `k8s\0` and `runtime.Unknown`, which has the type and the raw message. [`decode`] makes of it the
//! document that the same object is in JSON, so that nobody else needs to know of it. `protobuf/facts.txt` holds which
//! number each field has and whether its zero means absence, for what [`crate::kinds`] and the further bodies reach.
//!
//! No message of the table contains itself, and no value is copied but into the document: depth is bounded by the table, size
//! by the body, whose limit is its reader's.
//!
//! # Absent
//! The way back: clients that send this form accept JSON.

mod facts;
mod message;
mod wire;

use serde_json::{Map, Value};

use self::{
    facts::Table,
    wire::{Part, Parts},
};

pub use wire::Error as WireError;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not what this media type stands for.
    #[error("the bytes do not begin with k8s\\0")]
    Magic,
    /// The envelope is broken.
    #[error("the envelope (runtime.Unknown) is malformed")]
    Envelope(#[source] EnvelopeError),
    /// No such kind can be sent.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Kind {
        /// As the envelope says.
        api_version: String,
        /// As the envelope says.
        kind: String,
    },
    /// A field is malformed, or holds what its type does not have.
    #[error("{message}.{field} cannot be read")]
    Field {
        /// `DeploymentSpec`.
        message: &'static str,
        /// As in JSON; `?` where not even the number can be read.
        field: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is wrong with the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Its bytes.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The message inside is compressed or something else than protobuf.
    #[error("the content is encoded in a way that is not supported")]
    Content,
}

#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

/// The document of a body, in the form that the same object has in JSON.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let envelope = open(body.strip_prefix(MAGIC).ok_or(Error::Magic)?).map_err(Error::Envelope)?;
    let Envelope { api_version, kind, raw } = envelope;
    // options are sent in whichever version the client has at hand
    let (group, version) = match api_version.rsplit_once('/') {
        _ if kind == "DeleteOptions" => ("", "v1"),
        Some(split) => split,
        None => ("", api_version),
    };
    let message = Table::kind(&format!("{group}/{version}/{kind}"))
        .ok_or_else(|| Error::Kind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    message::fill(&mut object, message, raw)?;
    Ok(Value::Object(object))
}

/// Upstream's `staging/src/k8s.io/apimachinery/pkg/runtime/generated.proto`.
fn open(bytes: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    let mut envelope = Envelope::default();
    for part in Parts::of(bytes) {
        match part? {
            (1, part) => {
                for part in Parts::of(part.bytes()?) {
                    match part? {
                        (1, part) => envelope.api_version = part.text()?,
                        (2, part) => envelope.kind = part.text()?,
                        _ => {}
                    }
                }
            }
            (2, part) => envelope.raw = part.bytes()?,
            (3, Part::Bytes(encoding)) if !encoding.is_empty() => return Err(EnvelopeError::Content),
            (4, Part::Bytes(content)) if !content.is_empty() && content != MEDIA_TYPE.as_bytes() => {
                return Err(EnvelopeError::Content);
            }
            _ => {}
        }
    }
    Ok(envelope)
}
