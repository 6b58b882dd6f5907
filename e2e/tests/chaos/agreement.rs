//! After the war: every member answers, takes writes, and holds what the others hold.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use store::{
    Backend, KvHash, Op, Range, Revision, Txn,
    check::{Recorder, load},
};
use tokio::time::{interval, timeout};

/// How long all of it may take after the last thing was mended.
const WITHIN: Duration = Duration::from_secs(30);

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Writes through each member and reads all that clients wrote, recorded; the newest revision then.
pub async fn writes_and_reads(members: Vec<Recorder>) -> Result<Revision> {
    let mut newest = 0;
    for (at, member) in members.iter().enumerate() {
        let (mut number, mut refused) = (0, None);
        let mut again = interval(AGAIN);
        let written = async {
            loop {
                again.tick().await;
                number += 1;
                let value = Bytes::from(format!("peace.{at}.{number}"));
                let key = Bytes::from(format!("{}-peace{at}", load::PREFIX));
                let put = Op::Put { key, value, lease: 0 };
                match member.txn(Txn { success: vec![put], ..Txn::default() }).await {
                    Ok(_) => return,
                    Err(error) => refused = Some(error),
                }
            }
        };
        let written = timeout(WITHIN, written).await;
        ensure!(written.is_ok(), "no write through member {at} within {WITHIN:?}: {refused:?}");
    }
    for (at, member) in members.iter().enumerate() {
        // All keys of clients are between these.
        let all = Range { start: Bytes::from_static(load::PREFIX.as_bytes()), end: "zz".into(), ..Range::default() };
        let read = timeout(WITHIN, member.range(all)).await.context("read in time")?;
        newest = newest.max(read.with_context(|| format!("read everything through member {at}"))?.revision);
    }
    Ok(newest)
}

/// Waits until all members hold the same as of a revision.
pub async fn on_one_state(members: Vec<Arc<dyn Backend>>, revision: Revision) -> Result<KvHash> {
    let deadline = Instant::now() + WITHIN;
    let mut again = interval(AGAIN);
    let mut first: Option<KvHash> = None;
    for (at, member) in members.iter().enumerate() {
        let hash = loop {
            match member.hash(revision).await {
                Ok(hash) => break hash,
                Err(error) if Instant::now() > deadline => {
                    bail!("member {at} does not come to revision {revision}: {error}")
                }
                Err(_) => drop(again.tick().await),
            }
        };
        let before = first.get_or_insert(hash);
        ensure!(
            (before.hash, before.revision) == (hash.hash, hash.revision),
            "members hold different things at revision {revision}: {before:?}, but member {at} {hash:?}"
        );
    }
    first.context("no member was asked")
}
