//! The whole state as a sequence of items, and back: what a snapshot file holds.
//!
//! The state is written as it was at `base`, followed by what each later revision changed. So no value is written
//! twice, and reading it back goes through the same code as the commands did.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;

use super::codec::{Malformed, Reader, Writer};
use super::history::Revised;
use super::leases::Lease;
use super::{Millis, Mvcc, size};
use crate::backend::Error;
use crate::kv::{Entry, LeaseId, Revision};
use crate::planted::{self, Bug};

/// As older stores wrote it: nothing that changed in the compacted revision is known.
const META_1: u8 = 1;
const LEASE: u8 = 2;
const ENTRY: u8 = 3;
const REVISED: u8 = 4;
const META: u8 = 5;

impl Mvcc {
    /// Appends all items to `out`, and calls `flush` after each, which may take away what is there.
    pub(crate) fn write_items<E>(
        &self,
        out: &mut Writer,
        mut flush: impl FnMut(&mut Writer) -> Result<(), E>,
    ) -> Result<(), E> {
        Meta { base: self.base, compacted: self.compacted, now: self.now, last_lease: self.last_lease }.write(out);
        flush(out)?;
        for (id, lease) in self.leases.iter().filter(|_| !planted::is(Bug::SnapshotMissesLeases)) {
            write_lease(out, *id, lease.ttl, lease.deadline);
            flush(out)?;
        }
        let written = self.each_at(self.base, &Bytes::new(), &Bytes::from_static(&[0]), &mut |entry| {
            write_entry(out, entry);
            flush(out).map_or_else(ControlFlow::Break, ControlFlow::Continue)
        });
        if let ControlFlow::Break(error) = written {
            return Err(error);
        }
        let missing = usize::from(planted::is(Bug::SnapshotMissesTail));
        for revised in self.log.iter().take(self.log.len().saturating_sub(missing)) {
            write_revised(out, revised);
            flush(out)?;
        }
        Ok(())
    }

    /// Takes in one or more items, in the order in which they were written.
    pub(crate) fn read_items(&mut self, items: Bytes) -> Result<(), Malformed> {
        let mut from = Reader::new(items);
        while !from.is_empty() {
            match from.byte()? {
                META_1 => {
                    self.base = from.number()?;
                    self.compacted = self.base;
                    self.revision = self.base;
                    self.now = from.number()?;
                    self.last_lease = from.signed()?;
                }
                META => {
                    self.base = from.number()?;
                    self.compacted = from.number()?;
                    self.revision = if planted::is(Bug::RevisionDecreases) { 0 } else { self.base };
                    self.now = from.number()?;
                    self.last_lease = from.signed()?;
                }
                LEASE => {
                    let id = from.signed()?;
                    let lease = Lease { ttl: from.signed()?, deadline: from.number()?, keys: OrdSet::new() };
                    self.set_lease(id, lease);
                }
                ENTRY => self.read_entry(&mut from)?,
                REVISED => self.read_revised(&mut from)?,
                _ => return Err(Malformed("an item is of an unknown kind")),
            }
        }
        Ok(())
    }

    /// Takes in an entry of another store. Only a state that nothing was applied to takes them.
    pub(crate) fn plant(&mut self, entry: Entry) {
        self.bytes += size(&entry);
        self.attach(&entry);
        self.keys.insert(entry.key.clone(), Arc::new(entry));
    }

    /// Grants a lease to planted entries.
    pub(crate) fn plant_lease(&mut self, seconds: i64) -> Result<LeaseId, Error> {
        self.grant(0, seconds)
    }

    /// Goes on from this revision, and knows none before it.
    pub(crate) fn begin_at(&mut self, revision: Revision) {
        (self.revision, self.base, self.compacted) = (revision, revision, revision);
    }

    fn read_entry(&mut self, from: &mut Reader) -> Result<(), Malformed> {
        let entry = from.entry()?;
        if planted::is(Bug::RevisionDecreases) {
            self.revision = self.revision.max(entry.mod_revision);
        }
        self.plant(entry);
        Ok(())
    }

    fn read_revised(&mut self, from: &mut Reader) -> Result<(), Malformed> {
        let at: Millis = from.number()?;
        let mut changes = Vec::new();
        for _ in 0..from.count()? {
            match from.byte()? {
                0 => drop(self.delete(&from.bytes()?, &Bytes::new(), &mut changes)),
                1 => {
                    let (key, value, lease) = (from.copied()?, from.copied()?, from.signed()?);
                    self.put(&key, &value, lease, &mut changes);
                }
                _ => return Err(Malformed("a change is of an unknown kind")),
            }
        }
        if changes.is_empty() {
            return Err(Malformed("a revision changes nothing"));
        }
        let now = std::mem::replace(&mut self.now, at);
        self.commit(changes);
        self.now = now;
        Ok(())
    }
}

/// What the first item says.
pub(crate) struct Meta {
    pub(crate) base: Revision,
    pub(crate) compacted: Revision,
    pub(crate) now: Millis,
    pub(crate) last_lease: LeaseId,
}

impl Meta {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.byte(META);
        out.number(self.base);
        out.number(self.compacted);
        out.number(self.now);
        out.number(self.last_lease.cast_unsigned());
    }
}

pub(crate) fn write_lease(out: &mut Writer, id: LeaseId, ttl: i64, deadline: Millis) {
    out.byte(LEASE);
    out.number(id.cast_unsigned());
    out.number(ttl.cast_unsigned());
    out.number(deadline);
}

pub(crate) fn write_entry(out: &mut Writer, entry: &Entry) {
    out.byte(ENTRY);
    out.entry(entry);
}

fn write_revised(out: &mut Writer, revised: &Revised) {
    out.byte(REVISED);
    out.number(revised.at);
    out.number(revised.changes.len() as u64);
    for change in &revised.changes {
        match &change.now {
            None => {
                out.byte(0);
                out.bytes(change.key());
            }
            Some(entry) => {
                out.byte(1);
                out.bytes(&entry.key);
                out.bytes(&entry.value);
                out.number(entry.lease.cast_unsigned());
            }
        }
    }
}
