//! Messages between members, as they travel.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Message;

pub(crate) use wire::envelope::Body;
pub(crate) use wire::proposal::What;
pub(crate) use wire::{Delivered, Envelope, Forward, Part, Proposal, Refused, Removed, Taken};

/// Generated from `proto/peer.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub(crate) mod wire {
    tonic::include_proto!("orlop.peer.v1");
}

/// Largest message, bytes: the largest transaction in one entry beside a full batch, with room to spare.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// A message of raft's as bytes.
pub(crate) fn encode(message: &Message) -> Bytes {
    // It can only fail for want of required fields, of which there are none.
    message.write_to_bytes().expect("invariant: a message of proto3 can be encoded").into()
}

/// What [`encode`] was given; none when it is something else.
pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
    let mut message = Message::default();
    message.merge_from_bytes(bytes).ok()?;
    Some(message)
}
