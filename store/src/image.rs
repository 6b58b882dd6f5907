//! Everything that a store holds, as one stream of bytes to be kept elsewhere: what etcd's `Snapshot` answers with.
//!
//! The items are those of a snapshot (`docs/format.md`), so that revisions, leases and the history window survive with the
//! keys. An image of an etcd cluster is the same without history. Blocks carry checksums that go on from one to the next, and
//! the end is marked: an image that was cut or changed is refused by [`read`].

use std::io::{self, Read};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::backend::Error;
use crate::block::{Chain, PREFIX, Prefix};
use crate::kv::{Entry, LeaseId, Range, Revision};
use crate::mvcc::Mvcc;
use crate::mvcc::codec::Writer;

/// An image, piece by piece.
pub type ImageStream = BoxStream<'static, Result<Bytes, Error>>;

const MAGIC: [u8; 8] = *b"orlopimg";
const VERSION: u64 = 1;

/// A block is closed when it holds this much, bytes.
const BLOCK: usize = 256 << 10;

/// An image's size is a multiple of this, bytes: etcd's tools tell a checksum behind it by what is left over.
const ALIGN: u64 = 512;

/// Blocks made ahead of their reader.
const AHEAD: usize = 4;

/// The image of a state.
pub(crate) fn of(state: Mvcc) -> ImageStream {
    let (blocks, stream) = tokio::sync::mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut framer = Framer::default();
        // Whoever reads it may go away: then there is nothing more to do.
        let send = |block: Vec<u8>| blocks.blocking_send(Ok(Bytes::from(block)));
        let sent = send(framer.head()).and_then(|()| {
            let mut items = Writer::default();
            state.write_items(&mut items, |items| {
                if items.0.len() < BLOCK {
                    return Ok(());
                }
                send(framer.block(&std::mem::take(&mut items.0)))
            })?;
            send(framer.block(&items.0))?;
            send(framer.end())
        });
        if sent.is_err() {
            tracing::debug!("an image was not read to its end");
        }
    });
    ReceiverStream::new(stream).boxed()
}

/// Makes blocks of items.
#[derive(Default)]
pub(crate) struct Framer {
    chain: Chain,
    written: u64,
}

impl Framer {
    pub(crate) fn head(&mut self) -> Vec<u8> {
        let mut head = Writer(MAGIC.to_vec());
        head.number(VERSION);
        self.frame(&head.0)
    }

    /// The block of these items; nothing for none, since that would be the end.
    pub(crate) fn block(&mut self, items: &[u8]) -> Vec<u8> {
        if items.is_empty() { Vec::new() } else { self.frame(items) }
    }

    pub(crate) fn end(&mut self) -> Vec<u8> {
        let mut end = self.frame(&[]);
        let over = self.written.next_multiple_of(ALIGN) - self.written;
        end.extend(std::iter::repeat_n(0, usize::try_from(over).expect("invariant: less than ALIGN")));
        end
    }

    fn frame(&mut self, bytes: &[u8]) -> Vec<u8> {
        let block = [&self.chain.seal(bytes), bytes].concat();
        self.written += block.len() as u64;
        block
    }
}

/// What an image holds, read back.
pub struct Image {
    state: Mvcc,
}

impl Image {
    /// The newest revision in it.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The oldest revision whose whole state is in it.
    pub fn compacted(&self) -> Revision {
        self.state.compacted()
    }

    /// The entries as of its newest revision, in key order.
    pub fn entries(&self) -> Vec<Entry> {
        let all = Range { end: Bytes::from_static(&[0]), ..Range::default() };
        self.state.range(&all).map(|reply| reply.entries).unwrap_or_default()
    }

    /// Its leases with their seconds, the one that ends next first.
    pub fn leases(&self) -> Vec<(LeaseId, i64)> {
        let seconds = |id| self.state.lease(id).map_or(0, |lease| lease.granted_seconds);
        self.state.leases().into_iter().map(|id| (id, seconds(id))).collect()
    }
}

/// Why something is no image.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It could not be read.
    #[error("cannot read the image")]
    Read(#[from] io::Error),
    /// It was not written so.
    #[error("the image is corrupt at byte {offset}: {why}")]
    Corrupt {
        /// Where.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Reads an image to its end.
///
/// # Errors
/// [`Refused`] when it is not whole, or not what was written.
pub fn read(from: &mut impl Read) -> Result<Image, Refused> {
    let mut blocks = Blocks { from, offset: 0, chain: Chain::default() };
    let corrupt = |offset, why| Refused::Corrupt { offset, why };
    let head = blocks.next()?;
    let mut want = Writer(MAGIC.to_vec());
    want.number(VERSION);
    if !head.starts_with(&MAGIC) {
        return Err(corrupt(0, "it is no image of a store"));
    }
    if head[..] != want.0[..] {
        return Err(corrupt(0, "it is of an unknown version"));
    }
    let mut state = Mvcc::default();
    loop {
        let block = blocks.next()?;
        if block.is_empty() {
            return Ok(Image { state });
        }
        let offset = blocks.offset;
        state.read_items(block).map_err(|why| corrupt(offset, why.0))?;
    }
}

struct Blocks<'a, R> {
    from: &'a mut R,
    offset: u64,
    chain: Chain,
}

impl<R: Read> Blocks<'_, R> {
    /// The next block; empty at the end.
    fn next(&mut self) -> Result<Bytes, Refused> {
        let offset = self.offset;
        let corrupt = |why| Refused::Corrupt { offset, why };
        let mut prefix = [0; PREFIX];
        self.fill(&mut prefix)?;
        let prefix = Prefix::parse(prefix);
        // What it claims is not believed before it is there.
        let mut block = Vec::new();
        self.from.take(prefix.length() as u64).read_to_end(&mut block)?;
        if block.len() < prefix.length() {
            return Err(corrupt("it ends early"));
        }
        if !self.chain.follows(prefix, &block) {
            return Err(corrupt("a block's checksum does not match"));
        }
        self.offset += (PREFIX + block.len()) as u64;
        Ok(block.into())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Refused> {
        self.from.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Refused::Corrupt { offset: self.offset, why: "it ends early" },
            _ => Refused::Read(error),
        })
    }
}
