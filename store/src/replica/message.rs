//! Messages between members, as they travel.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message};

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

/// The same in messages whose entries are at most so many bytes, or one entry: raft puts all that is proposed in one turn, and all
/// that a member lacks, into one.
pub(crate) fn parts(mut message: Message, most: u64) -> Vec<Message> {
    let mut entries = message.take_entries().into_iter().peekable();
    let mut parts = Vec::new();
    loop {
        let (mut part, mut bytes) = (message.clone(), 0);
        while let Some(entry) = entries.next_if(|entry| bytes == 0 || bytes + size(entry) <= most) {
            bytes += size(&entry);
            (message.index, message.log_term) = (entry.index, entry.term);
            part.mut_entries().push(entry);
        }
        parts.push(part);
        if entries.peek().is_none() {
            return parts;
        }
    }
}

fn size(entry: &Entry) -> u64 {
    u64::from(entry.compute_size())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_sent_in_parts_that_follow_each_other() {
        let entry = |index: u64, bytes: usize| Entry { index, term: 3, data: vec![b'x'; bytes], ..Entry::default() };
        let mut message = Message { to: 2, index: 10, log_term: 2, commit: 9, ..Message::default() };
        message.set_entries([400, 400, 400, 5_000, 10].into_iter().zip(11..).map(|(b, i)| entry(i, b)).collect());
        let sent = parts(message.clone(), 1_000);
        let shape: Vec<_> = sent.iter().map(|part| (part.index, part.log_term, part.entries.len())).collect();
        assert_eq!(shape, [(10, 2, 2), (12, 3, 1), (13, 3, 1), (14, 3, 1)]);
        assert!(sent.iter().all(|part| (part.to, part.commit) == (2, 9)));
        let entries: Vec<_> = sent.iter().flat_map(|part| part.entries.iter().cloned()).collect();
        assert_eq!(entries, message.entries.to_vec());
        message.clear_entries();
        assert_eq!(parts(message.clone(), 1_000), [message], "one that has none");
    }
}
