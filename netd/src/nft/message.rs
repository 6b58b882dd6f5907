//! The bytes of an nf_tables transaction: netlink messages of nested attributes between a begin and an end.
//!
//! Layout and numbers are those of the kernel's `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`, which are
//! a stable interface.

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Create or confirm a table.
    NewTable = 0,
    /// Delete a table and all in it.
    DelTable = 2,
    /// Create or confirm a chain.
    NewChain = 3,
    /// Delete a chain.
    DelChain = 5,
    /// Append a rule.
    NewRule = 6,
    /// Delete a rule, or all of a chain.
    DelRule = 8,
    /// Create a set or map.
    NewSet = 9,
    /// Put elements into a set or map.
    NewElement = 12,
    /// Take elements out.
    DelElement = 14,
}

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_IPV4: u8 = 2; // NFPROTO_IPV4
const REQUEST: u16 = 0x1; // NLM_F_REQUEST
const CREATE: u16 = 0x400; // NLM_F_CREATE
const APPEND: u16 = 0x800; // NLM_F_APPEND
const NESTED: u16 = 0x8000; // NLA_F_NESTED
const HEADER: usize = 16;

/// A transaction that is being written.
pub struct Batch {
    bytes: Vec<u8>,
    /// For messages: what each message is about, by sequence number.
    subjects: Vec<String>,
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), subjects: Vec::new() };
        batch.header(BATCH_BEGIN, 0, 0, SUBSYSTEM, |_| ());
        batch.subjects.push("begin".to_owned());
        batch
    }

    /// Appends a message about `subject`.
    pub fn message(&mut self, kind: Kind, subject: impl Into<String>, body: impl FnOnce(&mut Attributes<'_>)) {
        let flags = match kind {
            Kind::NewTable | Kind::NewChain | Kind::NewSet | Kind::NewElement => CREATE,
            Kind::NewRule => CREATE | APPEND,
            Kind::DelTable | Kind::DelChain | Kind::DelRule | Kind::DelElement => 0,
        };
        self.header(SUBSYSTEM << 8 | kind as u16, flags, FAMILY_IPV4, 0, body);
        self.subjects.push(subject.into());
    }

    /// The bytes, ended, and what each message is about.
    pub fn finish(mut self) -> (Vec<u8>, Vec<String>) {
        self.header(BATCH_END, 0, 0, SUBSYSTEM, |_| ());
        self.subjects.push("end".to_owned());
        (self.bytes, self.subjects)
    }

    fn header(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        let sequence =
            u32::try_from(self.subjects.len()).expect("invariant: a transaction has fewer than 2^32 messages");
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]); // the kernel fills in our port
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        body(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - start).expect("invariant: a message is smaller than 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        debug_assert_eq!(HEADER % 4, 0);
    }
}

/// The attributes of a message or of a nest.
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// Raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.put(kind, |inner| inner.bytes.extend(value))
    }

    /// A string, ended by zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, |inner| {
            inner.bytes.extend(value.as_bytes());
            inner.bytes.push(0);
        })
    }

    /// A number in network order, as nf_tables wants all of its own.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes within an attribute.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.put(kind | NESTED, body)
    }

    fn put(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        body(&mut Attributes { bytes: self.bytes });
        let length =
            u16::try_from(self.bytes.len() - start).expect("invariant: callers cut elements into pieces of 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// The error messages in a datagram, as (sequence number, positive error number); acknowledgements are left out.
pub fn errors(mut datagram: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let Some((length, kind, sequence, body)) = split(datagram) {
        if kind == 2
            && let Some(code) = body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes))
            && code != 0
        {
            found.push((sequence, -code));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The first message of a datagram: length, type, sequence number, body.
pub fn split(datagram: &[u8]) -> Option<(usize, u16, u32, &[u8])> {
    let (header, _) = datagram.split_first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    Some((length, kind, sequence, datagram.get(HEADER..length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_their_length_is_not() {
        let mut batch = Batch::new();
        batch.message(Kind::NewTable, "table", |m| {
            m.nest(4, |m| {
                m.text(1, "abc").bytes(2, &[7]);
            });
        });
        let (bytes, subjects) = batch.finish();
        let nested = [20, 0, 4, 0x80, 8, 0, 1, 0, b'a', b'b', b'c', 0, 5, 0, 2, 0, 7, 0, 0, 0];
        assert_eq!(&bytes[20..40], [40, 0, 0, 0, 0, 10, 1, 4, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(bytes[40..60], nested);
        assert_eq!(subjects, ["begin", "table", "end"]);
    }

    #[test]
    fn errors_are_found_and_acknowledgements_left_out() {
        let message = |sequence: u32, code: i32| {
            let head = [20_u32.to_ne_bytes(), [2, 0, 0, 0], sequence.to_ne_bytes(), [0; 4], code.to_ne_bytes()];
            head.concat()
        };
        let datagram = [message(3, 0), message(4, -17)].concat();
        assert_eq!(errors(&datagram), [(4, 17)]);
        assert_eq!(errors(&datagram[..30]), [], "a torn message is no message");
    }
}
