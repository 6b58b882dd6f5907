//! Commands and state as bytes. The format is written down in `docs/format.md`; it is compact because every write to disk
//! is made of it, and decoding copies a value only where a slice would keep a larger buffer alive.

use bytes::Bytes;

use super::{Action, Command, Millis};
use crate::kv::{Compare, CompareTarget, Op, Range, Txn};

/// Version of the command format, the first byte of each.
const VERSION: u8 = 1;

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
        Action::Grant { ttl } => {
            out.byte(1);
            out.number(ttl.cast_unsigned());
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

/// The command that [`encode`] made.
pub(crate) fn decode(bytes: &Bytes) -> Result<Command, Malformed> {
    if bytes.first() != Some(&VERSION) {
        return Err(Malformed("the command has an unknown version"));
    }
    let now = bytes.get(NOW).and_then(|now| now.try_into().ok()).ok_or(Malformed("it ends early"))?;
    let mut from = Reader::new(bytes.slice(NOW.end..));
    let action = match from.byte()? {
        0 => Action::Txn(decode_txn(&mut from)?),
        1 => Action::Grant { ttl: from.signed()? },
        2 => Action::KeepAlive(from.signed()?),
        3 => Action::Revoke(from.signed()?),
        4 => Action::Compact(from.number()?),
        5 => Action::Tick,
        _ => return Err(Malformed("the command has an unknown action")),
    };
    if !from.is_empty() {
        return Err(Malformed("bytes follow the command"));
    }
    Ok(Command { now: Millis::from_le_bytes(now), action })
}

fn estimate(action: &Action) -> usize {
    let Action::Txn(txn) = action else { return 32 };
    let ops = txn.success.iter().chain(&txn.failure).map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len() + 24,
        Op::Delete { start, end } => start.len() + end.len() + 12,
        Op::Range(range) => range.start.len() + range.end.len() + 24,
    });
    32 + ops.sum::<usize>() + txn.compare.iter().map(|compare| compare.key.len() + 24).sum::<usize>()
}

fn encode_txn(out: &mut Writer, txn: &Txn) {
    out.number(txn.compare.len() as u64);
    for compare in &txn.compare {
        out.bytes(&compare.key);
        let (tag, number) = match &compare.target {
            CompareTarget::ModRevision(revision) => (0, *revision),
            CompareTarget::CreateRevision(revision) => (1, *revision),
            CompareTarget::Version(version) => (2, *version),
            CompareTarget::Value(value) => {
                out.byte(3);
                out.bytes(value);
                continue;
            }
            CompareTarget::ModRevisionLess(revision) => (4, *revision),
            CompareTarget::ModRevisionGreater(revision) => (5, *revision),
        };
        out.byte(tag);
        out.number(number);
    }
    for ops in [&txn.success, &txn.failure] {
        out.number(ops.len() as u64);
        for op in ops {
            encode_op(out, op);
        }
    }
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
            out.byte(u8::from(range.count_only));
        }
    }
}

fn decode_txn(from: &mut Reader) -> Result<Txn, Malformed> {
    let mut txn = Txn::default();
    for _ in 0..from.count()? {
        let key = from.bytes()?;
        let target = match from.byte()? {
            0 => CompareTarget::ModRevision(from.number()?),
            1 => CompareTarget::CreateRevision(from.number()?),
            2 => CompareTarget::Version(from.number()?),
            3 => CompareTarget::Value(from.bytes()?),
            4 => CompareTarget::ModRevisionLess(from.number()?),
            5 => CompareTarget::ModRevisionGreater(from.number()?),
            _ => return Err(Malformed("a compare has an unknown target")),
        };
        txn.compare.push(Compare { key, target });
    }
    txn.success = decode_ops(from)?;
    txn.failure = decode_ops(from)?;
    Ok(txn)
}

fn decode_ops(from: &mut Reader) -> Result<Vec<Op>, Malformed> {
    let count = from.count()?;
    (0..count).map(|_| decode_op(from, count == 1)).collect()
}

/// The value of an `only` step is nearly all of its command, so it may share the command's buffer; the key outlives many
/// values and may not.
fn decode_op(from: &mut Reader, only: bool) -> Result<Op, Malformed> {
    Ok(match from.byte()? {
        0 => {
            let key = from.copied()?;
            let value = if only { from.bytes()? } else { from.copied()? };
            Op::Put { key, value, lease: from.signed()? }
        }
        1 => Op::Delete { start: from.bytes()?, end: from.bytes()? },
        2 => Op::Range(Range {
            start: from.bytes()?,
            end: from.bytes()?,
            limit: usize::try_from(from.number()?).map_err(|_| Malformed("a limit is too large"))?,
            revision: from.number()?,
            count_only: from.byte()? != 0,
        }),
        _ => return Err(Malformed("a step is of an unknown kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Action {
        let put = |key: &'static str| Op::Put { key: key.into(), value: vec![7; 300].into(), lease: -3 };
        let compare = |target| Compare { key: "k".into(), target };
        Action::Txn(Txn {
            compare: vec![
                compare(CompareTarget::ModRevision(u64::MAX)),
                compare(CompareTarget::CreateRevision(0)),
                compare(CompareTarget::Version(127)),
                compare(CompareTarget::Value("v".into())),
                compare(CompareTarget::ModRevisionLess(128)),
                compare(CompareTarget::ModRevisionGreater(1 << 40)),
            ],
            success: vec![put("a"), Op::Delete { start: "b".into(), end: "c".into() }],
            failure: vec![Op::Range(Range { limit: 5, revision: 9, count_only: true, ..Range::prefix("x") })],
        })
    }

    #[test]
    fn every_action_survives_the_round_trip() {
        let rest = [
            Action::Grant { ttl: 60 },
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
