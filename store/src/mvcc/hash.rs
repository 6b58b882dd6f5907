//! A checksum of what a state holds, so that members can be compared.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::Mvcc;
use super::codec::Writer;
use crate::backend::Error;
use crate::kv::{Entry, KvHash, Revision};

impl Mvcc {
    /// CRC-32 of every entry as it was at a readable revision (0: the newest), in key order. Two states that were made by the
    /// same commands have the same, whatever each has forgotten.
    pub(crate) fn hash(&self, revision: Revision) -> Result<KvHash, Error> {
        self.readable(revision)?;
        let revision = if revision == 0 { self.revision } else { revision };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&revision.to_le_bytes());
        let mut head = Writer::default();
        let mut add = |entry: &Arc<Entry>| {
            head.0.clear();
            head.bytes(&entry.key);
            head.number(entry.create_revision);
            head.number(entry.mod_revision);
            head.number(entry.version);
            head.number(entry.lease.cast_unsigned());
            head.number(entry.value.len() as u64);
            hasher.update(&head.0);
            hasher.update(&entry.value);
            ControlFlow::<()>::Continue(())
        };
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            self.each_at(revision, &Bytes::new(), &Bytes::from_static(&[0]), &mut add);
        Ok(KvHash { hash: hasher.finalize(), revision, compacted: self.compacted, newest: self.revision })
    }
}
