//! What others wrote: the API servers keep their objects in the same store, so the history of the clients alone has gaps.
//!
//! A watch of everything tells what each revision changed; what changed no key of the clients' was written by others. Each of
//! those becomes an operation of the history, whose time nobody knows. That the watches of all members tell the same is
//! checked first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use store::{
    Backend, Entry, Event, Op, OpResult, Revision, Txn, TxnReply, WatchFrom,
    check::{Nanos, Outcome, Record, Reply, Request},
};
use tokio::time::timeout;

/// How long a member may take to tell what happened.
const TELLING: Duration = Duration::from_secs(20);

/// Whose keys they are: with this all of the API servers' begin.
const THEIRS: &[u8] = b"/";

/// Who wrote what the clients did not, in a history.
const STRANGERS: u64 = 0;

/// An empty store's revision: the first change is the next.
const EMPTY: Revision = 1;

/// What happened at each revision, as one member tells it.
async fn told(member: Arc<dyn Backend>, newest: Revision) -> Result<BTreeMap<Revision, Vec<Event>>> {
    let everything = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
    let opened = member.watch(everything.0, everything.1, WatchFrom::Revision(EMPTY + 1)).await;
    let mut stream = opened.context("watch everything")?;
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut reached = EMPTY;
    while reached < newest {
        let batch = stream.next().await.context("a watch of everything ended")?.context("watch everything")?;
        reached = batch.revision;
        for event in batch.events.into_iter().filter(|event| event.revision() <= newest) {
            told.entry(event.revision()).or_default().push(event);
        }
    }
    Ok(told)
}

/// The operations of others up to a revision, of which all members must tell the same.
pub async fn of(members: Vec<Arc<dyn Backend>>, newest: Revision, end: Nanos) -> Result<Vec<Record>> {
    let mut first: Option<BTreeMap<_, _>> = None;
    for (at, member) in members.into_iter().enumerate() {
        let told = timeout(TELLING, told(member, newest)).await;
        let told = told.with_context(|| format!("member {at} did not tell all that happened in time"))??;
        match &first {
            None => first = Some(told),
            Some(before) => {
                let differs = before.iter().zip(&told).find(|(one, other)| one != other);
                ensure!(
                    differs.is_none() && before.len() == told.len(),
                    "members tell different things of what happened, first {differs:?}, {} and {} revisions",
                    before.len(),
                    told.len()
                );
            }
        }
    }
    let told = first.context("no member was asked")?;
    let theirs = |events: &Vec<Event>| events.iter().all(|event| event.key().starts_with(THEIRS));
    Ok(told.into_iter().filter(|(_, events)| theirs(events)).map(|(revision, e)| record(revision, e, end)).collect())
}

fn record(revision: Revision, events: Vec<Event>, end: Nanos) -> Record {
    let (success, results) = events.into_iter().map(step).unzip();
    let txn = Txn { success, ..Txn::default() };
    let reply = TxnReply { succeeded: true, revision, results };
    let outcome = Outcome::Ok(Reply::Txn(reply));
    Record { client: STRANGERS, called: 0, returned: Some(end), request: Request::Txn(txn), outcome }
}

/// What made such an event, and what it was told. Leases of others are not in the history: here their keys have none.
fn step(event: Event) -> (Op, OpResult) {
    let without_lease = |entry: Entry| Entry { lease: 0, ..entry };
    match event {
        Event::Put { entry, prev } => {
            let put = Op::Put { key: entry.key, value: entry.value, lease: 0 };
            (put, OpResult::Put(prev.map(without_lease)))
        }
        Event::Delete { key, prev, .. } => {
            let delete = Op::Delete { start: key, end: Bytes::new() };
            (delete, OpResult::Delete(prev.map(without_lease).into_iter().collect()))
        }
    }
}
