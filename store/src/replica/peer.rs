//! Where messages to other members go.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use raft::eraftpb::Message;

/// The other members, by their id. There are none yet.
#[derive(Default)]
pub(crate) struct Peers {
    outboxes: BTreeMap<u64, Sender<Message>>,
}

impl Peers {
    pub(crate) fn is_empty(&self) -> bool {
        self.outboxes.is_empty()
    }

    /// Sends what raft wants sent. A message that cannot be delivered is dropped: raft sends again.
    pub(crate) fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let delivered = self.outboxes.get(&to).is_some_and(|outbox| outbox.send(message).is_ok());
            if !delivered {
                tracing::debug!(to, "message to a member that cannot be reached was dropped");
            }
        }
    }
}
