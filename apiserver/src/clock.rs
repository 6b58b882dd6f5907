//! The clock: which revision the store had at which time of day.
//!
//! The store counts revisions and knows no time of day. So one key holds it, written again soon after something changed; the
//! store's own history of that key is the table from times to revisions. It needs no upkeep: it reaches back exactly as far
//! as what it is about, and is compacted, copied and backed up together with it.
//!
//! # Guarantees
//! * The revision of a mark was the newest at the mark's time.
//! * The times of later marks are never earlier, whatever the wall clocks of the servers do: a mark that would be says the
//!   time of the one before.
//!
//! # Caveats
//! * A change is known to be not later than the mark after it, and not earlier than the mark before: up to [`TICK`] apart
//!   while there are changes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use store::{Backend, Compare, CompareTarget, Entry, Error, Op, OpResult, Range, Revision, Txn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The key. Below the root of the API, so that a watch of everything passes over it; no kind's.
const KEY: Bytes = Bytes::from_static(b"/registry/clock");

/// Between two marks, at least.
pub const TICK: Duration = Duration::from_secs(2);

/// A revision that was the newest at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The time of day.
    pub time: Timestamp,
    /// The revision.
    pub revision: Revision,
}

impl Mark {
    fn read(entry: &Entry) -> Option<Self> {
        let time = std::str::from_utf8(&entry.value).ok()?.parse().ok()?;
        Some(Self { time, revision: entry.mod_revision })
    }
}

/// Notes the time after changes, until the shutdown. `applied` tells how far the store is.
pub async fn run(backend: Arc<dyn Backend>, mut applied: watch::Receiver<Revision>, shutdown: CancellationToken) {
    let mut marked = 0;
    loop {
        match shutdown.run_until_cancelled(applied.wait_for(|applied| *applied > marked)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
        match mark(&*backend, Timestamp::now()).await {
            Ok(revision) => marked = revision,
            Err(error) => tracing::debug!(%error, "the time was not noted"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(TICK)).await.is_none() {
            return;
        }
    }
}

/// Notes that it is `now`, unless nothing has changed since somebody noted the time. Returns the revision of the newest mark.
async fn mark(backend: &dyn Backend, now: Timestamp) -> Result<Revision, Error> {
    let found = backend.range(Range::key(KEY)).await?;
    let last = found.entries.first();
    let modified = last.map_or(0, |entry| entry.mod_revision);
    if last.is_some() && modified == found.revision {
        return Ok(modified);
    }
    let time = last.and_then(Mark::read).map_or(now, |mark| mark.time.max(now));
    let put = Op::Put { key: KEY, value: time.to_string().into(), lease: 0 };
    let compare = vec![Compare::equal(KEY, CompareTarget::ModRevision(modified))];
    let txn = Txn { compare, success: vec![put], failure: vec![Op::Range(Range::key(KEY))] };
    let reply = backend.txn(txn).await?;
    // another server was faster: its mark is as good
    let other = reply.results.into_iter().find_map(|result| match result {
        OpResult::Range(found) => found.entries.first().map(|entry| entry.mod_revision),
        OpResult::Put(_) | OpResult::Delete(_) | OpResult::Txn(_) => None,
    });
    Ok(other.unwrap_or(reply.revision))
}

/// The newest mark at a revision; none when there was none yet.
pub async fn at(backend: &dyn Backend, revision: Revision) -> Result<Option<Mark>, Error> {
    let found = backend.range(Range { revision, ..Range::key(KEY) }).await?;
    Ok(found.entries.first().and_then(Mark::read))
}

/// The newest mark that is not later than `time`; none when what is kept begins later.
pub async fn before(backend: &dyn Backend, time: Timestamp) -> Result<Option<Mark>, Error> {
    let Some(newest) = at(backend, 0).await? else { return Ok(None) };
    let oldest = backend.status().await?.compacted.max(1);
    if newest.time <= time {
        // what came after it is not a tick old
        return Ok(Some(Mark { revision: newest.revision.max(oldest), ..newest }));
    }
    let (mut low, mut high) = (oldest, newest.revision);
    let mut found = None;
    // all marks below `low` are not later than `time`, those from `high` on are
    while low < high {
        let middle = low + (high - low) / 2;
        match at(backend, middle).await {
            Ok(Some(mark)) if mark.time > time => high = mark.revision.max(low),
            Ok(mark) => {
                found = mark.or(found);
                low = middle + 1;
            }
            Err(Error::Compacted { oldest, .. }) => {
                found = None;
                low = oldest.max(middle + 1);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use store::Memory;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    async fn change(store: &Memory, key: &'static str) -> Revision {
        let put = Op::Put { key: key.into(), value: Bytes::new(), lease: 0 };
        store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap().revision
    }

    #[tokio::test]
    async fn a_time_leads_to_the_revision_that_was_the_newest_then() {
        let store = Memory::new();
        assert_eq!(before(&store, second(10)).await.unwrap(), None);
        let mut marks = Vec::new();
        for round in 1..=50 {
            change(&store, "a").await;
            change(&store, "b").await;
            marks.push((round * 10, mark(&store, second(round * 10)).await.unwrap()));
        }
        for (time, revision) in &marks {
            for late in [0, 9] {
                let found = before(&store, second(time + late)).await.unwrap().unwrap();
                assert_eq!(found, Mark { time: second(*time), revision: *revision });
            }
        }
        assert_eq!(before(&store, second(9)).await.unwrap(), None);
        store.compact(marks[20].1).await.unwrap();
        assert_eq!(before(&store, second(marks[19].0)).await.unwrap(), None, "that is no longer kept");
        let oldest = before(&store, second(marks[20].0)).await.unwrap().unwrap();
        assert_eq!(oldest.revision, marks[20].1);
    }

    #[tokio::test]
    async fn quiet_stores_and_clocks_that_go_back_make_no_marks_of_their_own() {
        let store = Memory::new();
        change(&store, "a").await;
        let first = mark(&store, second(100)).await.unwrap();
        assert_eq!(mark(&store, second(200)).await.unwrap(), first, "nothing changed");
        change(&store, "a").await;
        let second_mark = mark(&store, second(50)).await.unwrap();
        assert!(second_mark > first);
        assert_eq!(at(&store, 0).await.unwrap().unwrap().time, second(100), "time stands still");
    }
}
