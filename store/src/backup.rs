//! Backups: all entries of a store as of one revision, in one stream of bytes that says of itself whether it is whole.
//!
//! The format is written down in `docs/format.md`. It holds what any backend can tell and take, so that a backup of one is
//! restored into another; beside the entries there may be attachments, which this crate does not look into.
//!
//! # Guarantees
//! * All entries are as of the revision that the head names.
//! * A stream that was cut or changed anywhere is told from a whole one: each block's checksum covers all before it, and the
//!   last block says that it is the last.
//!
//! # Caveats
//! * Leases are known by their ids alone: what would have ended by itself is given [`LEASE_SECONDS`] anew when restored.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;

use crate::backend::{self, Backend, MAX_KEY, MAX_VALUE};
use crate::block::{Chain, PREFIX, Prefix};
use crate::kv::{Entry, Range, Revision};
use crate::mvcc::codec::{self, Malformed};

mod file;
mod restore;

pub use file::{Items, Written, save};
pub use restore::{BUMP, LEASE_SECONDS, Refill, seed};

const MAGIC: [u8; 8] = *b"orlopbak";
const VERSION: u64 = 1;

/// A block is closed when it holds this much, bytes.
const BLOCK: usize = 256 << 10;

/// Largest attachment, bytes.
pub const MAX_ATTACHMENT: usize = 1 << 20;

/// No block is longer, bytes: what it holds when it is closed, and one item.
const MAX_BLOCK: usize = BLOCK + MAX_KEY + MAX_VALUE + (64 << 10);

const ATTACHMENT: u8 = 1;
const ENTRY: u8 = 2;
const END: u8 = 3;

/// What a backup says first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// All entries are as of this revision.
    pub revision: Revision,
    /// When it was made, seconds since 1970.
    pub time: i64,
    /// How many entries it has, for whoever shows progress.
    pub entries: u64,
}

/// Something of what a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file, or whatever goes with the entries.
    Attachment {
        /// What it is called.
        name: String,
        /// What it holds.
        content: Bytes,
    },
    /// A key.
    Entry(Entry),
}

/// Why a stream is no backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin as one.
    #[error("this is no backup")]
    Foreign,
    /// It is of a version that this program does not know.
    #[error("the backup has format {0}, which this program does not know")]
    Version(u64),
    /// It is not as it was written.
    #[error("the backup is damaged at byte {offset}: {why}")]
    Damaged {
        /// Where the block that is not as it was written begins.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// It ends before its end.
    #[error("the backup is cut off after {offset} bytes")]
    Cut {
        /// How much there is.
        offset: u64,
    },
    /// The store failed.
    #[error("cannot read or write the store")]
    Store(#[from] backend::Error),
    /// The file failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stream failed.
    #[error("the backup did not arrive whole")]
    Stream(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes a backup, block by block. Does no I/O.
pub struct Writer {
    chain: Chain,
    items: codec::Writer,
    ready: BytesMut,
    entries: u64,
}

impl Writer {
    /// Begins with the head.
    pub fn new(head: &Head) -> Self {
        let mut items = codec::Writer(MAGIC.to_vec());
        items.number(VERSION);
        items.number(head.revision);
        items.number(head.time.cast_unsigned());
        items.number(head.entries);
        let mut writer = Self { chain: Chain::default(), items, ready: BytesMut::new(), entries: 0 };
        writer.close_block();
        writer
    }

    /// Adds an attachment. Those beyond [`MAX_ATTACHMENT`] are a mistake of the caller's and could not be read back.
    pub fn attach(&mut self, name: &str, content: &[u8]) {
        self.items.byte(ATTACHMENT);
        self.items.bytes(name.as_bytes());
        self.items.bytes(content);
        self.close_if_full();
    }

    /// Adds an entry.
    pub fn entry(&mut self, entry: &Entry) {
        self.items.byte(ENTRY);
        self.items.entry(entry);
        self.entries += 1;
        self.close_if_full();
    }

    /// The blocks that are done since this was last called.
    pub fn take(&mut self) -> Bytes {
        self.ready.split().freeze()
    }

    /// The rest.
    pub fn finish(mut self) -> Bytes {
        self.items.byte(END);
        self.items.number(self.entries);
        self.close_block();
        self.close_block();
        self.take()
    }

    fn close_if_full(&mut self) {
        if self.items.0.len() >= BLOCK {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        let block = &self.items.0;
        self.ready.extend_from_slice(&self.chain.seal(block));
        self.ready.extend_from_slice(block);
        self.items.0.clear();
    }
}

/// Reads a backup as it arrives. Does no I/O.
#[derive(Default)]
pub struct Reader {
    buffer: BytesMut,
    /// How much has been taken out of the buffer.
    offset: u64,
    chain: Chain,
    head: Option<Head>,
    block: Option<codec::Reader>,
    entries: u64,
    /// The items are complete; and so is the stream.
    end: bool,
    whole: bool,
}

impl Reader {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What the backup says first, once it has arrived.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// The next item; none when more bytes are needed, or when there are no more.
    pub fn take_item(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(block) = self.block.as_mut().filter(|block| !block.is_empty()) {
                match item(block) {
                    Ok(Read::Item(item)) => {
                        self.entries += u64::from(matches!(item, Item::Entry(_)));
                        return Ok(Some(item));
                    }
                    Ok(Read::End(entries)) if entries == self.entries => self.end = true,
                    Ok(Read::End(_)) => return Err(self.damaged("entries are missing")),
                    Err(why) => return Err(self.damaged(why.0)),
                }
                continue;
            }
            let Some(block) = self.next_block()? else { return Ok(None) };
            self.take_block(block)?;
        }
    }

    fn take_block(&mut self, block: Bytes) -> Result<(), Error> {
        if self.head.is_none() {
            self.head = Some(self.read_head(&block)?);
        } else if block.is_empty() {
            self.whole = self.end;
            if !self.whole {
                return Err(self.damaged("its end is not where it says"));
            }
        } else if self.end {
            return Err(self.damaged("items follow its end"));
        } else {
            self.block = Some(codec::Reader::new(block));
        }
        Ok(())
    }

    /// Everything has been fed: whether that was a whole backup.
    pub fn finish(mut self) -> Result<Head, Error> {
        while self.take_item()?.is_some() {}
        self.end()
    }

    /// Everything has been fed and read.
    fn end(&self) -> Result<Head, Error> {
        match self.head {
            Some(head) if self.whole && self.buffer.is_empty() => Ok(head),
            Some(_) if self.whole => Err(self.damaged("bytes follow its end")),
            Some(_) | None => Err(Error::Cut { offset: self.offset + self.buffer.len() as u64 }),
        }
    }

    fn damaged(&self, why: &'static str) -> Error {
        Error::Damaged { offset: self.offset, why }
    }

    fn next_block(&mut self) -> Result<Option<Bytes>, Error> {
        if self.whole {
            return if self.buffer.is_empty() { Ok(None) } else { Err(self.damaged("bytes follow its end")) };
        }
        let prefix = self.buffer.get(..PREFIX).and_then(|bytes| bytes.try_into().ok()).map(Prefix::parse);
        let Some(prefix) = prefix else { return Ok(None) };
        let bytes = prefix.length();
        if self.head.is_none() && self.buffer.get(PREFIX..PREFIX + MAGIC.len()).is_some_and(|magic| magic != MAGIC) {
            return Err(Error::Foreign);
        }
        if bytes > MAX_BLOCK {
            return Err(if self.head.is_none() { Error::Foreign } else { self.damaged("a block is too long") });
        }
        if self.buffer.len() < PREFIX + bytes {
            return Ok(None);
        }
        let block = self.buffer.split_to(PREFIX + bytes).freeze().slice(PREFIX..);
        if !self.chain.follows(prefix, &block) {
            return Err(self.damaged("a checksum does not match"));
        }
        self.offset += (PREFIX + bytes) as u64;
        Ok(Some(block))
    }

    fn read_head(&self, block: &Bytes) -> Result<Head, Error> {
        if !block.starts_with(&MAGIC) {
            return Err(Error::Foreign);
        }
        let mut from = codec::Reader::new(block.slice(MAGIC.len()..));
        let mut number = || from.number().map_err(|why| self.damaged(why.0));
        let version = number()?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        Ok(Head { revision: number()?, time: number()?.cast_signed(), entries: number()? })
    }
}

enum Read {
    Item(Item),
    End(u64),
}

fn item(from: &mut codec::Reader) -> Result<Read, Malformed> {
    Ok(match from.byte()? {
        ATTACHMENT => {
            let name = from.copied()?;
            let name = std::str::from_utf8(&name).map_err(|_| Malformed("a name is no text"))?.to_owned();
            Read::Item(Item::Attachment { name, content: from.copied()? })
        }
        ENTRY => Read::Item(Item::Entry(from.entry()?)),
        END => Read::End(from.number()?),
        _ => return Err(Malformed("an item is of an unknown kind")),
    })
}

/// What to back up.
pub struct Source {
    /// The store.
    pub backend: Arc<dyn Backend>,
    /// Its keys `start..end`, as in [`Range`].
    pub start: Bytes,
    /// See `start`.
    pub end: Bytes,
    /// Entries read at once; 0 for all. A store in this process hands out entries that it has anyway, and once they are read
    /// nothing that is compacted meanwhile is missed.
    pub page: usize,
    /// What goes with the entries: names and contents.
    pub attachments: Vec<(String, String)>,
    /// When it is, seconds since 1970.
    pub time: i64,
}

/// A backup that is being made.
struct Making {
    backend: Arc<dyn Backend>,
    range: Range,
    writer: Writer,
    /// Read, and not written yet.
    page: std::vec::IntoIter<Entry>,
    more: bool,
}

/// A backup as a stream of bytes, made as it is taken. An error of the store ends it, without its end.
pub fn stream(source: Source) -> impl Stream<Item = Result<Bytes, backend::Error>> + Send {
    futures::stream::try_unfold(State::New(source), |state| async move {
        match state {
            State::New(source) => begin(source).await.map(Some),
            State::Making(making) => go_on(making).await.map(Some),
            State::Done => Ok(None),
        }
    })
}

enum State {
    New(Source),
    Making(Box<Making>),
    Done,
}

async fn begin(source: Source) -> Result<(Bytes, State), backend::Error> {
    let Source { backend, start, end, page, attachments, time } = source;
    let mut range = Range { start, end, limit: page, ..Range::default() };
    let first = backend.range(range.clone()).await?;
    range.revision = first.revision;
    let mut entries = first.count;
    if first.more {
        entries = backend.range(Range { count_only: true, ..range.clone() }).await?.count;
    }
    let mut writer = Writer::new(&Head { revision: first.revision, time, entries });
    for (name, content) in &attachments {
        writer.attach(name, content.as_bytes());
    }
    if let Some(last) = first.entries.last() {
        range.start = after(last);
    }
    let bytes = writer.take();
    let making = Making { backend, range, writer, page: first.entries.into_iter(), more: first.more };
    Ok((bytes, State::Making(Box::new(making))))
}

fn after(entry: &Entry) -> Bytes {
    [&entry.key[..], &[0]].concat().into()
}

async fn go_on(mut making: Box<Making>) -> Result<(Bytes, State), backend::Error> {
    loop {
        for entry in making.page.by_ref() {
            making.writer.entry(&entry);
            if !making.writer.ready.is_empty() {
                return Ok((making.writer.take(), State::Making(making)));
            }
        }
        if !making.more {
            return Ok((making.writer.finish(), State::Done));
        }
        let page = making.backend.range(making.range.clone()).await?;
        if let Some(last) = page.entries.last() {
            making.range.start = after(last);
        }
        (making.more, making.page) = (page.more, page.entries.into_iter());
    }
}

#[cfg(test)]
mod tests;
