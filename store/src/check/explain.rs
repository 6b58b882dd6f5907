//! Words for what happened and for what cannot have.

use bytes::Bytes;

use super::claims::{made, revision};
use super::model::Model;
use super::{Nanos, Outcome, Record, Refusal, Reply, Request, Step, Violation};
use crate::kv::{Entry, Event, Op, OpResult, Range, RangeReply, Txn, TxnReply};

/// How many steps before the place where the search was stuck are shown.
pub(super) const BEFORE: usize = 4;

/// Where no step fits.
pub(super) struct Stuck {
    pub(super) depth: usize,
    /// Index of the operation that returned first, so should have had its place.
    pub(super) urgent: usize,
    /// Indices of all that could have been next.
    pub(super) open: Vec<usize>,
    /// What came before, newest first.
    pub(super) steps: Vec<Step>,
    pub(super) model: Model,
}

impl Stuck {
    pub(super) fn explain(mut self, records: &[Record]) -> Violation {
        let blamed = self.blamed(records);
        let what = format!("no order explains this: {}", self.reason(&records[blamed]));
        let mut window: Vec<_> = self.steps.iter().rev().map(|step| self::step(records, *step)).collect();
        self.open.sort_unstable_by_key(|index| records[*index].called);
        window.extend(
            lines(records, self.open.iter().copied())
                .into_iter()
                .zip(&self.open)
                .map(|(line, index)| format!("{} {line}", if *index == blamed { "?" } else { " " })),
        );
        Violation::new(what, window)
    }

    /// The operation that could have been next by its revision but is not right, else the one that should have been.
    fn blamed(&self, records: &[Record]) -> usize {
        let here = |index: &&usize| {
            let Outcome::Ok(reply) = &records[**index].outcome else { return false };
            match (made(reply), revision(reply)) {
                (Some(made), _) => made == self.model.revision() + 1,
                (None, Some(read)) => read == self.model.revision(),
                (None, None) => false,
            }
        };
        self.open.iter().find(here).copied().unwrap_or(self.urgent)
    }

    fn reason(&self, record: &Record) -> String {
        let now = self.model.revision();
        let answer = self.model.clone().answer(&record.request, record.called);
        let Outcome::Ok(told) = &record.outcome else {
            return format!(
                "client {} was told \"{}\", but {}",
                record.client,
                outcome(&record.outcome),
                result(&answer)
            );
        };
        let who = format!("client {}", record.client);
        match (made(told), revision(told)) {
            (Some(revision), _) if revision > now + 1 => {
                format!("{who} was given revision {revision}, but nothing can have made revision {}", now + 1)
            }
            (Some(revision), _) if revision <= now => {
                format!("{who} was given revision {revision}, which had been made before")
            }
            (None, Some(revision)) if revision > now => {
                format!("{who} saw revision {revision}, but nothing can have made revision {}", now + 1)
            }
            (None, Some(revision)) if revision < now => {
                format!("{who} saw revision {revision}, but the store was at {now} before it asked")
            }
            _ => format!("{who} was told \"{}\", but {}", reply(told), result(&answer)),
        }
    }
}

fn result(answer: &Result<Reply, Refusal>) -> String {
    match answer {
        Ok(reply) => format!("it should have been \"{}\"", self::reply(reply)),
        Err(refusal) => format!("it should have been refused: \"{}\"", self::refusal(*refusal)),
    }
}

/// A line for each operation.
pub(super) fn lines(records: &[Record], indices: impl IntoIterator<Item = usize>) -> Vec<String> {
    indices.into_iter().map(|index| line(&records[index])).collect()
}

fn line(record: &Record) -> String {
    let Record { client, called, returned, request, outcome } = record;
    let times = span(*called, *returned);
    format!("{times} client {client}: {} -> {}", self::request(request), self::outcome(outcome))
}

pub(super) fn span(from: Nanos, to: Option<Nanos>) -> String {
    to.map_or_else(|| format!("[{from}..]"), |to| format!("[{from}..{to}]"))
}

fn step(records: &[Record], step: Step) -> String {
    match step {
        Step::Operation(index) => format!("  {}", line(&records[index])),
        Step::Expired(lease) => format!("  (lease {lease} ended)"),
        Step::Forgot(revision) => format!("  (the store forgot what was before revision {revision})"),
    }
}

fn request(request: &Request) -> String {
    match request {
        Request::Range(range) => self::range(range),
        Request::Txn(txn) => self::txn(txn),
        Request::Grant { id: 0, ttl } => format!("grant {ttl} s"),
        Request::Grant { id, ttl } => format!("grant lease {id} for {ttl} s"),
        Request::KeepAlive(lease) => format!("keep lease {lease} alive"),
        Request::Revoke(lease) => format!("revoke lease {lease}"),
        Request::Compact(revision) => format!("compact {revision}"),
    }
}

fn range(range: &Range) -> String {
    let at = if range.revision == 0 { String::new() } else { format!(" at {}", range.revision) };
    let verb = if range.count_only { "count" } else { "read" };
    let limit = if range.limit == 0 { String::new() } else { format!(" at most {}", range.limit) };
    format!("{verb} {}{at}{limit}", span_of_keys(&range.start, &range.end))
}

pub(super) fn span_of_keys(start: &Bytes, end: &Bytes) -> String {
    match &end[..] {
        [] => text(start),
        [0] => format!("{}..", text(start)),
        _ => format!("{}..{}", text(start), text(end)),
    }
}

fn txn(txn: &Txn) -> String {
    let ops = |ops: &[Op]| ops.iter().map(op).collect::<Vec<_>>().join(", ");
    let mut words = String::new();
    if !txn.compare.is_empty() {
        let compares: Vec<_> = txn.compare.iter().map(|compare| format!("{compare:?}")).collect();
        words = format!("if {} ", compares.join(" and "));
    }
    words += &ops(&txn.success);
    if !txn.failure.is_empty() {
        words += &format!(" else {}", ops(&txn.failure));
    }
    words
}

fn op(op: &Op) -> String {
    match op {
        Op::Put { key, value, lease: 0 } => format!("put {}={}", text(key), text(value)),
        Op::Put { key, value, lease } => format!("put {}={} with lease {lease}", text(key), text(value)),
        Op::Update { key, value, lease } => {
            let value = value.as_ref().map_or("(as it is)".to_owned(), |value| text(value));
            let lease = lease.map_or(String::new(), |lease| format!(" with lease {lease}"));
            format!("update {}={value}{lease}", text(key))
        }
        Op::Txn(inner) => format!("({})", txn(inner)),
        Op::Delete { start, end } => format!("delete {}", span_of_keys(start, end)),
        Op::Range(range) => self::range(range),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(reply) => self::reply(reply),
        Outcome::Refused(refusal) => self::refusal(*refusal),
        Outcome::Failed => "failed".to_owned(),
        Outcome::Unknown => "nobody knows".to_owned(),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Range(reply) => found(reply),
        Reply::Txn(reply) => done(reply),
        Reply::Granted(lease) => format!("lease {lease}"),
        Reply::KeptAlive(ttl) => format!("{ttl} s"),
        Reply::Done => "done".to_owned(),
    }
}

fn found(reply: &RangeReply) -> String {
    let more = if reply.more { ", more" } else { "" };
    format!("{} ({}{more}) at revision {}", entries(&reply.entries), reply.count, reply.revision)
}

fn done(reply: &TxnReply) -> String {
    let results: Vec<_> = reply.results.iter().map(result_of_op).collect();
    let branch = if reply.succeeded { "" } else { "else: " };
    format!("{branch}{} at revision {}", results.join(", "), reply.revision)
}

fn result_of_op(result: &OpResult) -> String {
    match result {
        OpResult::Put(None) => "put".to_owned(),
        OpResult::Put(Some(prev)) => format!("put over {}", entry(prev)),
        OpResult::Delete(removed) => format!("deleted {}", entries(removed)),
        OpResult::Range(reply) => found(reply),
        OpResult::Txn(inner) => format!("({})", done(inner)),
    }
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::Compacted(revision) => format!("revision {revision} is compacted"),
        Refusal::Future(revision) => format!("revision {revision} is to come"),
        Refusal::LeaseNotFound(lease) => format!("there is no lease {lease}"),
        Refusal::LeaseExists(lease) => format!("there is a lease {lease} already"),
        Refusal::KeyNotFound => "there is no such key".to_owned(),
    }
}

fn entries(entries: &[Entry]) -> String {
    if entries.is_empty() { "nothing".to_owned() } else { entries.iter().map(entry).collect::<Vec<_>>().join(", ") }
}

/// `key=value`, the revision that wrote it, and which version it is since which creation.
pub(super) fn entry(entry: &Entry) -> String {
    let Entry { key, value, create_revision, mod_revision, version, lease } = entry;
    let lease = if *lease == 0 { String::new() } else { format!(" lease {lease}") };
    format!("{}={}@{mod_revision} (version {version} since {create_revision}{lease})", text(key), text(value))
}

/// An event.
pub(super) fn event(event: &Event) -> String {
    let before = |prev: &Option<Entry>| prev.as_ref().map_or(String::new(), |prev| format!(" over {}", entry(prev)));
    match event {
        Event::Put { entry, prev } => format!("{}{}", self::entry(entry), before(prev)),
        Event::Delete { key, revision, prev } => format!("deleted {}@{revision}{}", text(key), before(prev)),
    }
}

/// At most so many characters of a key or value are shown.
const SHOWN: usize = 40;

pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
