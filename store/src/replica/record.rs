//! Records of the log as bytes, and the judgement of a broken one. Pure: slices in, verdicts out.
//!
//! A record is written in one go and made durable before the next is written. So only the last can be torn, and any
//! whole record behind a broken one proves that the broken one was once durable: that is corruption, not a torn tail.
//! `docs/format.md` has the layout.

use crate::planted::{self, Bug};

/// Bytes before a record's body.
pub(crate) const HEADER: usize = 20;

/// Records start at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// Largest body, bytes.
pub(crate) const MAX_BODY: usize = 64 << 20;

/// The last byte of every record. A record whose last byte is zero was not written to its end.
const TRAILER: u8 = 0xa5;

/// What a disk writes at once, or not at all.
const SECTOR: usize = 512;

/// What distinguishes records of one segment from any other bytes, and ties each to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Random, of the segment: header checksums start from it, so no value that a user stores can look like a record.
    pub(crate) salt: u32,
    /// Checksum of the record before.
    pub(crate) last: u32,
}

/// What is found at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A record: where its body is, where the next starts, and the chain from there.
    Record { body: std::ops::Range<usize>, next: usize, chain: Chain },
    /// Nothing but zeros up to the end.
    End,
    /// The last write did not get to its end. It was never acknowledged; everything from here on is to be zeroed.
    Torn,
    /// Something that was durable is not what was written.
    Corrupt(&'static str),
}

/// Bytes that a record with so large a body takes.
pub(crate) fn length(body: usize) -> usize {
    (HEADER + body + 1).next_multiple_of(ALIGN)
}

/// Leaves the room for a header at the end of `out`; the body is to follow.
pub(crate) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; HEADER]);
}

/// Makes header and body, from `start` of `out` to its end, a record that follows `chain`.
pub(crate) fn seal(out: &mut Vec<u8>, start: usize, chain: Chain) -> Chain {
    let body = out.len() - start - HEADER;
    let size = u32::try_from(body).expect("invariant: a body is below MAX_BODY");
    out.resize(start + length(body), 0);
    *out.last_mut().expect("invariant: a record has bytes") = TRAILER;
    let record = &mut out[start..];
    record[..4].copy_from_slice(&size.to_le_bytes());
    record[4..8].copy_from_slice(&1_u32.to_le_bytes());
    record[8..12].copy_from_slice(&chain.last.to_le_bytes());
    let sum = body_sum(record, body);
    record[12..16].copy_from_slice(&sum.to_le_bytes());
    let head = head_sum(record, chain.salt);
    record[16..20].copy_from_slice(&head.to_le_bytes());
    Chain { last: sum, ..chain }
}

/// Says what is at `at` of a segment's bytes.
pub(crate) fn read(segment: &[u8], at: usize, chain: Chain) -> Found {
    let rest = &segment[at..];
    match whole(rest, chain) {
        Ok((body, sum)) => {
            let next = at + length(body);
            let body = at + HEADER..at + HEADER + body;
            Found::Record { body, next, chain: Chain { last: sum, ..chain } }
        }
        Err(why) => match rest.iter().rposition(|byte| *byte != 0) {
            None => Found::End,
            Some(last) => judge(segment, at, last + 1, chain.salt, why),
        },
    }
}

/// The length and checksum of the body of the record at the front, when it is whole and follows `chain`.
fn whole(rest: &[u8], chain: Chain) -> Result<(usize, u32), &'static str> {
    let body = claimed(rest, chain.salt).ok_or("the header's checksum does not match")?;
    if word(rest, 4) != 1 {
        return Err("the record is of an unknown kind");
    }
    if word(rest, 8) != chain.last {
        return Err("the record does not follow the one before");
    }
    let record = rest.get(..length(body)).ok_or("the record goes beyond the end of the file")?;
    let sum = body_sum(record, body);
    if sum != word(rest, 12) && !planted::is(Bug::TornRecordServed) {
        return Err("the record's checksum does not match");
    }
    Ok((body, sum))
}

/// Torn or corrupt? `used` is how far there are bytes other than zero, from `at`.
fn judge(segment: &[u8], at: usize, used: usize, salt: u32, why: &'static str) -> Found {
    let rest = &segment[at..];
    let later = (ALIGN..used).step_by(ALIGN).any(|behind| claimed(&rest[behind..], salt).is_some());
    if later {
        return Found::Corrupt(why);
    }
    // A write that stopped: zeros from some point before the record's end on.
    let stopped = match claimed(rest, salt) {
        Some(body) => used < length(body),
        None => used <= HEADER,
    };
    // A disk that lost power wrote some sectors and not others: one of them still holds the zeros from before.
    let first = at.next_multiple_of(SECTOR);
    let end = at + used;
    let missing = (first..end).step_by(SECTOR).any(|sector| {
        sector + SECTOR <= segment.len() && segment[sector..sector + SECTOR].iter().all(|byte| *byte == 0)
    });
    let head_missing = at < first && first < end && segment[at..first].iter().all(|byte| *byte == 0);
    if stopped || missing || head_missing { Found::Torn } else { Found::Corrupt(why) }
}

/// The body length in a header, when its checksum says that it is one.
fn claimed(rest: &[u8], salt: u32) -> Option<usize> {
    let header = rest.get(..HEADER)?;
    let body = usize::try_from(word(header, 0)).ok()?;
    (body <= MAX_BODY && head_sum(header, salt) == word(header, 16)).then_some(body)
}

fn head_sum(record: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&record[..16]);
    // Never the checksum of nothing, so that zeros are no header whatever the salt.
    hasher.finalize() | 1
}

fn body_sum(record: &[u8], body: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..12]);
    hasher.update(&record[HEADER..length(body)]);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes are four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { salt: 0x5eed, last: 7 };

    /// A segment of zeros with these bodies from the start; where each record starts, and the end.
    fn segment(bodies: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        let (mut out, mut chain, mut starts) = (Vec::new(), CHAIN, vec![0]);
        for body in bodies {
            begin(&mut out);
            out.extend_from_slice(body);
            chain = seal(&mut out, starts[starts.len() - 1], chain);
            starts.push(out.len());
        }
        out.resize(out.len() + 4096, 0);
        (out, starts)
    }

    fn read_all(segment: &[u8]) -> (usize, Found) {
        let (mut at, mut chain, mut records) = (0, CHAIN, 0);
        loop {
            match read(segment, at, chain) {
                Found::Record { next, chain: then, .. } => (at, chain, records) = (next, then, records + 1),
                end => return (records, end),
            }
        }
    }

    /// Bodies that end in zeros, that are empty, and that span sectors: the hard cases for a tail.
    fn bodies() -> [Vec<u8>; 3] {
        [vec![9; 100], Vec::new(), [vec![3; 1500], vec![0; 40]].concat()]
    }

    #[test]
    fn whole_records_are_read_back() {
        let bodies = bodies();
        let (segment, _) = segment(&bodies.each_ref().map(Vec::as_slice));
        assert_eq!(read_all(&segment), (3, Found::End));
    }

    #[test]
    fn a_write_that_stopped_at_any_byte_is_torn() {
        let bodies = bodies();
        let (whole, starts) = segment(&bodies.each_ref().map(Vec::as_slice));
        for cut in starts[2] + 1..starts[3] {
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            let nothing = zeroed[starts[2]..].iter().all(|byte| *byte == 0);
            let want = if nothing { Found::End } else { Found::Torn };
            assert_eq!(read_all(&zeroed), (2, want), "zeros from {cut}");
            assert_eq!(read_all(&whole[..cut]).0, 2, "file ends at {cut}");
            assert!(!matches!(read_all(&whole[..cut]).1, Found::Corrupt(_)), "file ends at {cut}");
        }
    }

    #[test]
    fn a_write_that_missed_any_sector_is_torn() {
        let body: Vec<u8> = (0..6000_u32).map(|i| i.to_le_bytes()[0] | 1).collect();
        let (whole, starts) = segment(&[&[1; 77], &body]);
        for sector in (0..whole.len()).step_by(SECTOR).filter(|sector| *sector < starts[2]) {
            let mut lost = whole.clone();
            let from = sector.max(starts[1]);
            if sector + SECTOR <= starts[1] {
                continue;
            }
            lost[from..sector + SECTOR].fill(0);
            assert_eq!(read_all(&lost), (1, Found::Torn), "lost sector at {sector}");
        }
    }

    #[test]
    fn any_flipped_bit_is_corrupt() {
        let bodies = bodies();
        let (whole, starts) = segment(&bodies.each_ref().map(Vec::as_slice));
        for byte in 0..starts[3] {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[byte] ^= 1 << bit;
                let broken = starts.iter().filter(|start| **start <= byte).count() - 1;
                let (records, found) = read_all(&flipped);
                assert_eq!(records, broken, "byte {byte} bit {bit}");
                assert!(matches!(found, Found::Corrupt(_)), "byte {byte} bit {bit}: {found:?}");
            }
        }
    }

    #[test]
    fn a_record_of_another_segment_or_place_is_not_read() {
        let (whole, starts) = segment(&[b"one", b"two", b"three"]);
        let mut moved = whole.clone();
        moved.copy_within(starts[2]..starts[3], starts[1]);
        assert_eq!(read_all(&moved).0, 1, "the third in place of the second");
        let other = read(&whole, 0, Chain { salt: 1, ..CHAIN });
        assert!(matches!(other, Found::Corrupt(_)), "{other:?}");
    }
}
