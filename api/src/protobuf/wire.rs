//! The wire: numbered fields, each a number or bytes (protobuf.dev/programming-guides/encoding).

/// What breaks the rules of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a field.
    #[error("the bytes end early")]
    Short,
    /// A number of more than 64 bits.
    #[error("a number is too long")]
    Long,
    /// A group, or what no version of protobuf has.
    #[error("wire type {0} is not supported")]
    WireType(u8),
    /// The field holds another type.
    #[error("the value is of another type")]
    Type,
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8")]
    Text,
}

/// What stands behind the number of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A varint.
    Number(u64),
    /// A text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which no message of Kubernetes has.
    Fixed,
}

impl<'a> Part<'a> {
    /// The number.
    pub fn number(self) -> Result<i64, Error> {
        match self {
            // negative numbers, of 32 bits too, are sent as their 64 bits
            Self::Number(number) => Ok(number.cast_signed()),
            _ => Err(Error::Type),
        }
    }

    /// The bytes.
    pub fn bytes(self) -> Result<&'a [u8], Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::Type),
        }
    }

    /// The text.
    pub fn text(self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Text)
    }
}

/// The fields of a message in the order of the wire: number and value. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The fields in these bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next number by itself, as packed lists have them; none at the end.
    pub fn packed(&mut self) -> Option<Result<i64, Error>> {
        (!self.rest.is_empty()).then(|| self.varint().map(u64::cast_signed))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Error::Short)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Error::Long);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::Long)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let count = usize::try_from(count).map_err(|_| Error::Short)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Error::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn part(&mut self) -> Result<(u64, Part<'a>), Error> {
        let tag = self.varint()?;
        let part = match (tag & 7) as u8 {
            0 => Part::Number(self.varint()?),
            1 => self.take(8).map(|_| Part::Fixed)?,
            2 => {
                let count = self.varint()?;
                Part::Bytes(self.take(count)?)
            }
            5 => self.take(4).map(|_| Part::Fixed)?,
            other => return Err(Error::WireType(other)),
        };
        Ok((tag >> 3, part))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u64, Part<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.rest = &[];
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_their_order() {
        let parts: Vec<_> = Parts::of(&[0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i']).collect();
        assert_eq!(parts, [Ok((1, Part::Number(150))), Ok((2, Part::Bytes(b"hi")))]);
        let minus_one = [[0x08].as_slice(), &[0xff; 9], &[0x01]].concat();
        assert_eq!(Parts::of(&minus_one).next().unwrap().unwrap().1.number(), Ok(-1));
    }

    #[test]
    fn broken_bytes_are_refused() {
        let first = |bytes: &[u8]| Parts::of(bytes).last().unwrap().unwrap_err();
        assert_eq!(first(&[0x12, 0x05, b'h']), Error::Short);
        assert_eq!(first(&[0x08]), Error::Short);
        assert_eq!(first(&[0xff; 11]), Error::Long);
        assert_eq!(first(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Error::Short);
        assert_eq!(first(&[0x0b]), Error::WireType(3));
    }
}
