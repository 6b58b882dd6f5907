//! A snapshot on its way to a member that is too far behind: in parts, over the same lossy way as every other message.
//!
//! The sender keeps a window of parts ahead of what the receiver has written down, and goes back to that when nothing moves.
//! The receiver takes parts in order, and says how far it is; a part out of order is answered with that too. When all is
//! written the file is read back and checked, and only then does raft hear of the snapshot.

use raft::eraftpb::Message;

use crate::members::MemberId;
use crate::mvcc::Millis;

/// Bytes sent ahead of what was written down.
const WINDOW: u64 = 1 << 20;

/// How long nothing may move before parts are sent again.
const SEND_AGAIN: Millis = 500;

/// How long nothing may move before the sender gives up. Reading back and checking a large one counts as nothing.
const GIVE_UP: Millis = 30_000;

/// The sender's side.
pub(crate) struct Sending {
    /// Raft's message, which says which snapshot.
    pub(crate) message: Message,
    size: u64,
    sent: u64,
    taken: u64,
    moved: Millis,
    again: Millis,
}

impl Sending {
    pub(crate) fn new(message: Message, size: u64, now: Millis) -> Self {
        Self { message, size, sent: 0, taken: 0, moved: now, again: now }
    }

    pub(crate) fn index(&self) -> u64 {
        self.message.get_snapshot().get_metadata().index
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The next part to send, of at most `most` bytes: offset and length.
    pub(crate) fn next(&mut self, most: u64) -> Option<(u64, usize)> {
        let end = (self.sent + most).min(self.size).min(self.taken + WINDOW);
        let offset = self.sent;
        self.sent = self.sent.max(end);
        (end > offset).then(|| (offset, usize::try_from(end - offset).unwrap_or(0)))
    }

    /// The receiver has written down so much.
    pub(crate) fn taken(&mut self, offset: u64, now: Millis) {
        if offset == 0 && self.taken > 0 {
            // It began a new life amid the snapshot, and has nothing any more.
            (self.taken, self.sent) = (0, 0);
        } else if offset > self.taken && offset <= self.size {
            self.taken = offset;
            self.sent = self.sent.max(offset);
            (self.moved, self.again) = (now, now);
        }
    }

    /// Time passes; false when it is to be given up.
    pub(crate) fn tick(&mut self, now: Millis) -> bool {
        if now >= self.again + SEND_AGAIN {
            self.again = now;
            self.sent = self.taken;
            if self.taken == self.size {
                // The last part once more: its answer may be what was lost.
                self.sent = self.size.saturating_sub(1);
            }
        }
        now < self.moved + GIVE_UP
    }
}

/// The receiver's side.
pub(crate) struct Receiving {
    pub(crate) from: MemberId,
    /// The newest of raft's messages that came with it.
    pub(crate) message: Message,
    size: u64,
    /// Handed on to be written.
    handed: u64,
    written: u64,
    /// It is being read back.
    checking: bool,
}

/// What to do with a part that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Write it down.
    Write,
    /// Say how far it is.
    Tell(u64),
}

impl Receiving {
    pub(crate) fn new(from: MemberId, message: Message, size: u64) -> Self {
        Self { from, message, size, handed: 0, written: 0, checking: false }
    }

    pub(crate) fn index(&self) -> u64 {
        self.message.get_snapshot().get_metadata().index
    }

    /// Whether a part belongs to this one.
    pub(crate) fn is(&self, from: MemberId, message: &Message, size: u64) -> bool {
        self.from == from && self.size == size && self.message.get_snapshot() == message.get_snapshot()
    }

    pub(crate) fn part(&mut self, offset: u64, length: u64) -> Taking {
        if offset != self.handed || length == 0 || offset + length > self.size {
            return Taking::Tell(self.written);
        }
        self.handed += length;
        Taking::Write
    }

    /// So much is written; true when that is all, for the first time.
    pub(crate) fn written(&mut self, end: u64) -> bool {
        self.written = self.written.max(end);
        let done = self.written == self.size && !self.checking;
        self.checking |= done;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_in_order_and_sent_again_from_where_it_stopped() {
        let size = 3 << 20;
        let mut sending = Sending::new(Message::default(), size, 0);
        let mut parts: Vec<_> = std::iter::from_fn(|| sending.next(300 << 10)).collect();
        assert_eq!(parts.iter().map(|(_, length)| *length as u64).sum::<u64>(), WINDOW);
        let mut receiving = Receiving::new(1, Message::default(), size);
        parts.remove(1);
        let taken: Vec<_> = parts.iter().map(|(offset, length)| receiving.part(*offset, *length as u64)).collect();
        assert_eq!(taken[..2], [Taking::Write, Taking::Tell(0)], "the second was lost");
        assert!(!receiving.written(300 << 10));
        sending.taken(300 << 10, 10);
        assert!(sending.tick(10 + SEND_AGAIN));
        assert_eq!(sending.next(300 << 10), Some((300 << 10, 300 << 10)));
        assert!(!sending.tick(10 + GIVE_UP));
    }

    #[test]
    fn the_end_is_seen_once() {
        let mut receiving = Receiving::new(1, Message::default(), 10);
        assert_eq!(receiving.part(0, 10), Taking::Write);
        assert!(receiving.written(10));
        assert!(!receiving.written(10));
        assert_eq!(receiving.part(9, 1), Taking::Tell(10));
    }
}
