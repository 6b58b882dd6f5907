//! What an entry of the log carries beside a command: who proposed it, and what it changes about the members.

use bytes::Bytes;

use super::roster::Change;
use crate::members::MemberId;
use crate::mvcc::codec::{Malformed, Reader, Writer};

const TAG: u8 = 1;
const CHANGE: u8 = 2;

/// Names one proposal of one life of one member, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tag {
    pub(crate) member: MemberId,
    /// Which life of it: random at each start.
    pub(crate) life: u64,
    pub(crate) sequence: u64,
}

/// The context of an entry; most have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    /// The member that forwarded it, which waits for it to be applied.
    pub(crate) tag: Option<Tag>,
    /// What it changes about the members.
    pub(crate) change: Option<Change>,
}

impl Context {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let flags = if self.tag.is_some() { TAG } else { 0 } | if self.change.is_some() { CHANGE } else { 0 };
        let mut out = Writer::default();
        if flags == 0 {
            return out.0;
        }
        out.byte(flags);
        if let Some(tag) = self.tag {
            out.number(tag.member);
            out.number(tag.life);
            out.number(tag.sequence);
        }
        if let Some(change) = &self.change {
            change.encode(&mut out);
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut from = Reader::new(Bytes::copy_from_slice(bytes));
        let flags = from.byte()?;
        let tag = match flags & TAG {
            0 => None,
            _ => Some(Tag { member: from.number()?, life: from.number()?, sequence: from.number()? }),
        };
        let change = if flags & CHANGE == 0 { None } else { Some(Change::decode(&mut from)?) };
        if !from.is_empty() {
            return Err(Malformed("bytes follow an entry's context"));
        }
        Ok(Self { tag, change })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_round_trip() {
        let tag = Some(Tag { member: 3, life: u64::MAX, sequence: 1 << 40 });
        let change = Some(Change::Promote(7));
        for context in [
            Context::default(),
            Context { tag, change: None },
            Context { tag: None, change: change.clone() },
            Context { tag, change },
        ] {
            assert_eq!(Context::decode(&context.encode()).unwrap(), context);
        }
    }
}
