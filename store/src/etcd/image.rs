//! The image of an etcd cluster: all keys as of one revision, and the leases, without history.

use bytes::Bytes;
use etcd_client::{GetOptions, KvClient, LeaseClient};
use futures::{StreamExt, stream};

use super::fault::reading;
use super::translate;
use crate::backend::Error;
use crate::image::{Framer, ImageStream};
use crate::kv::{LeaseId, Range, Revision};
use crate::mvcc::codec::Writer;
use crate::mvcc::image::{Meta, write_entry, write_lease};

/// Keys read at once.
const PAGE: usize = 500;

/// Keys that are still to be read, from the first of these on.
struct Pages {
    kv: KvClient,
    framer: Framer,
    revision: Revision,
    next: Option<Bytes>,
}

/// An image as of a revision.
pub(super) async fn of(kv: KvClient, leases: LeaseClient, revision: Revision) -> Result<ImageStream, Error> {
    let mut framer = Framer::default();
    let mut head = framer.head();
    let mut items = Writer::default();
    Meta { base: revision, compacted: revision, now: 0, last_lease: 0 }.write(&mut items);
    write_leases(&mut items, leases).await?;
    head.extend(framer.block(&items.0));
    let pages = Pages { kv, framer, revision, next: Some(Bytes::from_static(&[0])) };
    let blocks = stream::try_unfold(Some(pages), |pages| async move {
        let Some(mut pages) = pages else { return Ok(None) };
        let block = pages.block().await?;
        Ok(Some((block, pages.next.is_some().then_some(pages))))
    });
    Ok(stream::iter([Ok(head.into())]).chain(blocks).boxed())
}

async fn write_leases(items: &mut Writer, leases: LeaseClient) -> Result<(), Error> {
    let list = || {
        let mut leases = leases.clone();
        async move { leases.leases().await }
    };
    for lease in reading("list leases", list).await?.leases() {
        let id: LeaseId = lease.id();
        let read = || {
            let mut leases = leases.clone();
            async move { leases.time_to_live(id, None).await }
        };
        let lease = reading("read a lease", read).await?;
        // One that has ended meanwhile took its keys with it.
        if lease.ttl() >= 0 {
            write_lease(items, id, lease.granted_ttl(), translate::unsigned(lease.ttl()) * 1_000);
        }
    }
    Ok(())
}

impl Pages {
    /// The next page as a block; with the end behind the last.
    async fn block(&mut self) -> Result<Bytes, Error> {
        let start = self.next.take().expect("invariant: it is asked only while there is more");
        let range =
            Range { start, end: Bytes::from_static(&[0]), limit: PAGE, revision: self.revision, ..Range::default() };
        let read = || {
            let (mut kv, (key, options)): (_, (_, GetOptions)) = (self.kv.clone(), translate::get(&range));
            async move { kv.get(key, Some(options)).await }
        };
        let page = translate::range_reply(reading("read a page of an image", read).await?, false);
        let mut items = Writer::default();
        page.entries.iter().for_each(|entry| write_entry(&mut items, entry));
        let mut block = self.framer.block(&items.0);
        if page.more {
            self.next = page.entries.last().map(|entry| [&entry.key[..], &[0]].concat().into());
        } else {
            block.extend(self.framer.end());
        }
        Ok(block.into())
    }
}
