//! Commands and state as bytes. The format is written down in `docs/format.md`; it is compact because every write to disk
//! is made of it, and decoding copies a value only where a slice would keep a larger buffer alive.

use bytes::Bytes;

use super::{Action, Command, Millis};
use crate::backend::MAX_TXN_OPS;
use crate::kv::{Compare, CompareTarget, Entry, Op, Range, Relation, Txn};

/// Version of the command format, the first byte of each.
const VERSION: u8 = 2;

/// Before, compares had one key and a target that implied the relation, and grants no id. It is still read.
const VERSION_1: u8 = 1;

/// Flags of a range.
const COUNT_ONLY: u8 = 1;
const COUNT_ALL: u8 = 2;

/// Flags of an update: what of it follows.
const HAS_VALUE: u8 = 1;
const HAS_LEASE: u8 = 2;

/// Where `now` stands in an encoded command: the proposer encodes, but only the log's writer knows the time.
const NOW: std::ops::Range<usize> = 1..9;

/// Bytes that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Appends values to a buffer.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// LEB128: seven bits a byte, lowest first.
    pub(crate) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn entry(&mut self, entry: &Entry) {
        self.bytes(&entry.key);
        self.bytes(&entry.value);
        self.number(entry.create_revision);
        self.number(entry.mod_revision);
        self.number(entry.version);
        self.number(entry.lease.cast_unsigned());
    }
}

/// Takes values off a buffer, from its front.
pub(crate) struct Reader {
    buffer: Bytes,
    at: usize,
}

impl Reader {
    pub(crate) fn new(buffer: Bytes) -> Self {
        Self { buffer, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.buffer.len()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.buffer.get(self.at).ok_or(Malformed("it ends early"))?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too large"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        Ok(self.number()?.cast_signed())
    }

    /// A number of things or bytes that follow. Each takes a byte at least, so none asks for more than there is.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        let left = self.buffer.len() - self.at;
        usize::try_from(count).ok().filter(|count| *count <= left).ok_or(Malformed("a count is beyond the end"))
    }

    /// A slice of the buffer, which it keeps alive.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.count()?;
        self.at += length;
        Ok(self.buffer.slice(self.at - length..self.at))
    }

    /// Bytes of their own.
    pub(crate) fn copied(&mut self) -> Result<Bytes, Malformed> {
        let length = self.count()?;
        self.at += length;
        Ok(Bytes::copy_from_slice(&self.buffer[self.at - length..self.at]))
    }

    /// An entry with bytes of its own.
    pub(crate) fn entry(&mut self) -> Result<Entry, Malformed> {
        Ok(Entry {
            key: self.copied()?,
            value: self.copied()?,
            create_revision: self.number()?,
            mod_revision: self.number()?,
            version: self.number()?,
            lease: self.signed()?,
        })
    }
}

/// The command as bytes, with time 0; [`set_now`] fills that in.
pub(crate) fn encode(action: &Action) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(estimate(action)));
    out.byte(VERSION);
    out.0.extend_from_slice(&0_u64.to_le_bytes());
    match action {
        Action::Txn(txn) => {
            out.byte(0);
            encode_txn(&mut out, txn);
        }
        Action::Grant { ttl, id } => {
            out.byte(1);
            out.number(ttl.cast_unsigned());
            out.number(id.cast_unsigned());
        }
        Action::KeepAlive(id) => {
            out.byte(2);
            out.number(id.cast_unsigned());
        }
        Action::Revoke(id) => {
            out.byte(3);
            out.number(id.cast_unsigned());
        }
        Action::Compact(revision) => {
            out.byte(4);
            out.number(*revision);
        }
        Action::Tick => out.byte(5),
    }
    out.0
}

/// Sets the time of an encoded command.
pub(crate) fn set_now(command: &mut [u8], now: Millis) {
    command[NOW].copy_from_slice(&now.to_le_bytes());
}

/// The command that [`encode`] made, or an older one did.
pub(crate) fn decode(bytes: &Bytes) -> Result<Command, Malformed> {
    let version = match bytes.first() {
        Some(&version @ (VERSION | VERSION_1)) => version,
        Some(_) | None => return Err(Malformed("the command has an unknown version")),
    };
    let now = bytes.get(NOW).and_then(|now| now.try_into().ok()).ok_or(Malformed("it ends early"))?;
    let mut from = Reader::new(bytes.slice(NOW.end..));
    let action = match from.byte()? {
        0 => Action::Txn(decode_txn(&mut from, version, MAX_TXN_OPS)?),
        1 => Action::Grant { ttl: from.signed()?, id: if version == VERSION_1 { 0 } else { from.signed()? } },
        2 => Action::KeepAlive(from.signed()?),
        3 => Action::Revoke(from.signed()?),
        4 => Action::Compact(from.number()?),
        5 => Action::Tick,
        _ => return Err(Malformed("the command has an unknown action")),
    };
    if !from.is_empty() {
        return Err(Malformed("bytes follow the command"));
    }
    Ok(Command { now: Millis::from_le_bytes(now), action, from_zero: version == VERSION_1 })
}

fn estimate(action: &Action) -> usize {
    if let Action::Txn(txn) = action { 16 + txn_size(txn) } else { 32 }
}

/// At least the bytes that a transaction takes.
fn txn_size(txn: &Txn) -> usize {
    let ops = txn.steps().map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len() + 24,
        Op::Update { key, value, .. } => key.len() + value.as_ref().map_or(0, Bytes::len) + 24,
        Op::Delete { start, end } => start.len() + end.len() + 12,
        Op::Range(range) => range.start.len() + range.end.len() + 24,
        Op::Txn(inner) => 1 + txn_size(inner),
    });
    let compares = txn.compare.iter().map(|compare| match &compare.target {
        CompareTarget::Value(value) => compare.start.len() + compare.end.len() + value.len() + 24,
        _ => compare.start.len() + compare.end.len() + 24,
    });
    24 + ops.sum::<usize>() + compares.sum::<usize>()
}

fn encode_txn(out: &mut Writer, txn: &Txn) {
    out.number(txn.compare.len() as u64);
    for compare in &txn.compare {
        encode_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        out.number(ops.len() as u64);
        for op in ops {
            encode_op(out, op);
        }
    }
}

fn encode_compare(out: &mut Writer, compare: &Compare) {
    out.bytes(&compare.start);
    out.bytes(&compare.end);
    out.byte(match compare.relation {
        Relation::Equal => 0,
        Relation::NotEqual => 1,
        Relation::Less => 2,
        Relation::Greater => 3,
    });
    let (tag, number) = match &compare.target {
        CompareTarget::ModRevision(revision) => (0, *revision),
        CompareTarget::CreateRevision(revision) => (1, *revision),
        CompareTarget::Version(version) => (2, *version),
        CompareTarget::Value(value) => {
            out.byte(3);
            out.bytes(value);
            return;
        }
        CompareTarget::Lease(lease) => (4, lease.cast_unsigned()),
    };
    out.byte(tag);
    out.number(number);
}

fn encode_op(out: &mut Writer, op: &Op) {
    match op {
        Op::Put { key, value, lease } => {
            out.byte(0);
            out.bytes(key);
            out.bytes(value);
            out.number(lease.cast_unsigned());
        }
        Op::Delete { start, end } => {
            out.byte(1);
            out.bytes(start);
            out.bytes(end);
        }
        Op::Range(range) => {
            out.byte(2);
            out.bytes(&range.start);
            out.bytes(&range.end);
            out.number(range.limit as u64);
            out.number(range.revision);
            out.byte((u8::from(range.count_only) * COUNT_ONLY) | (u8::from(range.count_all) * COUNT_ALL));
        }
        Op::Txn(txn) => {
            out.byte(3);
            encode_txn(out, txn);
        }
        Op::Update { key, value, lease } => {
            out.byte(4);
            out.bytes(key);
            out.byte((u8::from(value.is_some()) * HAS_VALUE) | (u8::from(lease.is_some()) * HAS_LEASE));
            value.iter().for_each(|value| out.bytes(value));
            lease.iter().for_each(|lease| out.number(lease.cast_unsigned()));
        }
    }
}

fn decode_txn(from: &mut Reader, version: u8, depth: usize) -> Result<Txn, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed("transactions are nested too deeply"))?;
    let mut txn = Txn::default();
    for _ in 0..from.count()? {
        txn.compare.push(if version == VERSION_1 { decode_compare_1(from)? } else { decode_compare(from)? });
    }
    txn.success = decode_ops(from, version, depth)?;
    txn.failure = decode_ops(from, version, depth)?;
    Ok(txn)
}

fn decode_compare(from: &mut Reader) -> Result<Compare, Malformed> {
    let (start, end) = (from.bytes()?, from.bytes()?);
    let relation = match from.byte()? {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Less,
        3 => Relation::Greater,
        _ => return Err(Malformed("a compare has an unknown relation")),
    };
    let target = match from.byte()? {
        0 => CompareTarget::ModRevision(from.number()?),
        1 => CompareTarget::CreateRevision(from.number()?),
        2 => CompareTarget::Version(from.number()?),
        3 => CompareTarget::Value(from.bytes()?),
        4 => CompareTarget::Lease(from.signed()?),
        _ => return Err(Malformed("a compare has an unknown target")),
    };
    Ok(Compare { start, end, target, relation })
}

/// A compare as version 1 wrote it.
fn decode_compare_1(from: &mut Reader) -> Result<Compare, Malformed> {
    let key = from.bytes()?;
    let (relation, target) = match from.byte()? {
        0 => (Relation::Equal, CompareTarget::ModRevision(from.number()?)),
        1 => (Relation::Equal, CompareTarget::CreateRevision(from.number()?)),
        2 => (Relation::Equal, CompareTarget::Version(from.number()?)),
        3 => (Relation::Equal, CompareTarget::Value(from.bytes()?)),
        4 => (Relation::Less, CompareTarget::ModRevision(from.number()?)),
        5 => (Relation::Greater, CompareTarget::ModRevision(from.number()?)),
        _ => return Err(Malformed("a compare has an unknown target")),
    };
    Ok(Compare::key(key, relation, target))
}

fn decode_ops(from: &mut Reader, version: u8, depth: usize) -> Result<Vec<Op>, Malformed> {
    let count = from.count()?;
    (0..count).map(|_| decode_op(from, count == 1, version, depth)).collect()
}

/// The value of an `only` step is nearly all of its command, so it may share the command's buffer; the key outlives many
/// values and may not.
fn decode_op(from: &mut Reader, only: bool, version: u8, depth: usize) -> Result<Op, Malformed> {
    Ok(match from.byte()? {
        0 => {
            let key = from.copied()?;
            let value = if only { from.bytes()? } else { from.copied()? };
            Op::Put { key, value, lease: from.signed()? }
        }
        1 => Op::Delete { start: from.bytes()?, end: from.bytes()? },
        2 => Op::Range(decode_range(from)?),
        3 if version != VERSION_1 => Op::Txn(decode_txn(from, version, depth)?),
        4 if version != VERSION_1 => {
            let key = from.bytes()?;
            let has = from.byte()?;
            let value = if has & HAS_VALUE != 0 { Some(from.copied()?) } else { None };
            let lease = if has & HAS_LEASE != 0 { Some(from.signed()?) } else { None };
            Op::Update { key, value, lease }
        }
        _ => return Err(Malformed("a step is of an unknown kind")),
    })
}

fn decode_range(from: &mut Reader) -> Result<Range, Malformed> {
    let (start, end) = (from.bytes()?, from.bytes()?);
    let limit = usize::try_from(from.number()?).map_err(|_| Malformed("a limit is too large"))?;
    let (revision, counts) = (from.number()?, from.byte()?);
    let (count_only, count_all) = (counts & COUNT_ONLY != 0, counts & COUNT_ALL != 0);
    Ok(Range { start, end, limit, revision, count_only, count_all, serializable: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Action {
        let put = |key: &'static str| Op::Put { key: key.into(), value: vec![7; 300].into(), lease: -3 };
        let compare = |relation, target| Compare::key("k", relation, target);
        let range = Range { limit: 5, revision: 9, count_only: true, count_all: true, ..Range::prefix("x") };
        let inner = Txn {
            compare: vec![Compare { end: "l".into(), ..compare(Relation::NotEqual, CompareTarget::Lease(-1)) }],
            success: vec![Op::Update { key: "u".into(), value: Some("v".into()), lease: None }],
            failure: vec![Op::Update { key: "u".into(), value: None, lease: Some(0) }],
        };
        Action::Txn(Txn {
            compare: vec![
                compare(Relation::Equal, CompareTarget::ModRevision(u64::MAX)),
                compare(Relation::NotEqual, CompareTarget::CreateRevision(0)),
                compare(Relation::Less, CompareTarget::Version(127)),
                compare(Relation::Greater, CompareTarget::Value("v".into())),
            ],
            success: vec![put("a"), Op::Delete { start: "b".into(), end: "c".into() }, Op::Txn(inner)],
            failure: vec![Op::Range(range)],
        })
    }

    /// A transaction as version 1 wrote it: compares of every target, a put, a delete, a range.
    #[test]
    fn commands_of_version_1_are_read() {
        let mut out = Writer::default();
        out.byte(1);
        out.0.extend_from_slice(&77_u64.to_le_bytes());
        out.byte(0);
        out.number(6);
        for tag in 0..6_u8 {
            out.bytes(b"k");
            out.byte(tag);
            if tag == 3 { out.bytes(b"v") } else { out.number(u64::from(tag)) }
        }
        out.number(2);
        out.byte(0);
        out.bytes(b"a");
        out.bytes(b"1");
        out.number(9);
        out.byte(1);
        out.bytes(b"b");
        out.bytes(b"c");
        out.number(1);
        out.byte(2);
        out.bytes(b"x");
        out.bytes(b"y");
        out.number(5);
        out.number(6);
        out.byte(1);
        let command = decode(&out.0.into()).unwrap();
        assert!((command.now, command.from_zero) == (77, true));
        let compare = |relation, target| Compare::key("k", relation, target);
        let want = Txn {
            compare: vec![
                compare(Relation::Equal, CompareTarget::ModRevision(0)),
                compare(Relation::Equal, CompareTarget::CreateRevision(1)),
                compare(Relation::Equal, CompareTarget::Version(2)),
                compare(Relation::Equal, CompareTarget::Value("v".into())),
                compare(Relation::Less, CompareTarget::ModRevision(4)),
                compare(Relation::Greater, CompareTarget::ModRevision(5)),
            ],
            success: vec![
                Op::Put { key: "a".into(), value: "1".into(), lease: 9 },
                Op::Delete { start: "b".into(), end: "c".into() },
            ],
            failure: vec![Op::Range(Range {
                start: "x".into(),
                end: "y".into(),
                limit: 5,
                revision: 6,
                count_only: true,
                ..Range::default()
            })],
        };
        assert_eq!(format!("{:?}", command.action), format!("{:?}", Action::Txn(want)));
    }

    #[test]
    fn a_grant_of_version_1_has_no_id() {
        let grant = [&[1][..], &[0; 8], &[1, 60]].concat();
        let command = decode(&grant.into()).unwrap();
        assert!(matches!(command.action, Action::Grant { ttl: 60, id: 0 }), "{command:?}");
    }

    #[test]
    fn every_action_survives_the_round_trip() {
        let rest = [
            Action::Grant { ttl: 60, id: 0 },
            Action::Grant { ttl: 1, id: -7 },
            Action::KeepAlive(i64::MIN),
            Action::Revoke(1),
            Action::Compact(u64::MAX),
            Action::Tick,
        ];
        for action in rest.into_iter().chain([sample()]) {
            let mut bytes = encode(&action);
            set_now(&mut bytes, 0x0102_0304_0506_0708);
            let command = decode(&bytes.into()).unwrap();
            assert_eq!(command.now, 0x0102_0304_0506_0708);
            assert_eq!(format!("{:?}", command.action), format!("{action:?}"));
        }
    }

    #[test]
    fn a_cut_or_longer_command_is_malformed() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(decode(&Bytes::copy_from_slice(&bytes[..end])).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(decode(&longer.into()).is_err());
    }
}
