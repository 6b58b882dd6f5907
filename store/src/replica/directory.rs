//! Does a member's jobs on its disk, one after the other.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use super::disk::{Disk, failed};
use super::member::{Done, Job};
use super::snapshot;
use super::wal::Wal;
use crate::backend::Error;

/// Most bytes of records joined into one.
const JOINED_BYTES: usize = 8 << 20;

/// Takes the next job off a queue, with the records behind it that one write can make durable together: the longer the disk
/// takes, the more are joined.
pub(crate) fn next(queue: &mut VecDeque<Job>) -> Option<Job> {
    let mut next = queue.pop_front()?;
    if let Job::Append { number, last_index, record } = &mut next {
        while record.len() < JOINED_BYTES
            && let Some(Job::Append { number: then, last_index: last, record: later }) = queue.front()
        {
            record.join(later);
            *number = *then;
            // An index that is lower replaced what was there before.
            *last_index = (*last_index).max(*last);
            queue.pop_front();
        }
    }
    Some(next)
}

/// The files of one member, while it runs.
pub(crate) struct Directory {
    disk: Arc<dyn Disk>,
    wal: Wal,
}

impl Directory {
    pub(crate) fn new(disk: Arc<dyn Disk>, wal: Wal) -> Self {
        Self { disk, wal }
    }

    /// Does a job. One that is answered with [`Done::Full`] has done nothing, and is to be tried again.
    pub(crate) fn perform(&mut self, job: &Job) -> Done {
        match job {
            Job::Append { number, last_index, record } => {
                self.append(*last_index, &record.encode()).map_or_else(|done| done, |()| Done::Written(*number))
            }
            Job::Install { number, index, record } => {
                let installed = snapshot::install(&*self.disk, *index)
                    .and_then(|()| self.wal.append(*index, &record.encode()))
                    .and_then(|()| snapshot::settle(&*self.disk, *index))
                    .and_then(|()| self.wal.trim(*index));
                installed.map_or_else(Done::Failed, |()| Done::Installed(*number))
            }
            Job::TakePart { index, offset, bytes } => {
                let end = self.take_part(*offset, bytes).map(|()| offset + bytes.len() as u64);
                Done::PartTaken { index: *index, end }
            }
            Job::Check { index } => {
                Done::Checked { index: *index, found: snapshot::read_incoming(&*self.disk).map(Box::new) }
            }
            Job::ReadPart { to, index, offset, length } => {
                let bytes = snapshot::read_part(&*self.disk, *index, *offset, *length);
                Done::PartRead { to: *to, index: *index, offset: *offset, bytes }
            }
            Job::Trim { index } => Done::Trimmed(self.wal.trim(*index)),
        }
    }

    /// Makes sure that a record of so many bytes will find room.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.wal.reserve(bytes)
    }

    /// Bytes of the log on disk.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.wal.disk_bytes()
    }

    fn append(&mut self, last_index: u64, body: &[u8]) -> Result<(), Done> {
        self.wal
            .reserve(body.len())
            .map_err(|error| if is_full(&error) { Done::Full(error) } else { Done::Failed(error) })?;
        self.wal.append(last_index, body).map_err(Done::Failed)
    }

    fn take_part(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let name = snapshot::INCOMING;
        let file = if offset == 0 { self.disk.create(name) } else { self.disk.open(name) };
        let written = file.and_then(|file| file.write_all_at(bytes, offset));
        written.map_err(failed("write", self.disk.path(name)))
    }

    /// Whole records in the log.
    #[cfg(test)]
    pub(crate) fn records(&self) -> usize {
        self.wal.records()
    }
}

fn is_full(error: &Error) -> bool {
    let full = |source: &std::io::Error| matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    matches!(error, Error::Disk { source, .. } if full(source))
}
