//! Digest: the name of content.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::Error;

/// `sha256:` and 64 hexadecimal digits; the only algorithm that registries use. Safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(hex::encode(Sha256::digest(bytes)))
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Digest(hex.to_owned()));
        }
        Err(Error::Unsupported { subject: text.to_owned(), why: "not a sha256 digest".into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// A reader that hashes and counts what passes through it.
pub(crate) struct Hashing<R> {
    reader: R,
    hash: Sha256,
    /// Bytes read so far.
    pub(crate) count: u64,
}

impl<R: std::io::Read> Hashing<R> {
    pub(crate) fn new(reader: R) -> Self {
        Hashing { reader, hash: Sha256::new(), count: 0 }
    }

    /// Reads the rest, of which there may be so many bytes, and says what it all was.
    pub(crate) fn finish(mut self, rest_max: u64) -> std::io::Result<Digest> {
        let mut rest = [0; 16 * 1024];
        let end = self.count.saturating_add(rest_max);
        while std::io::Read::read(&mut self, &mut rest)? > 0 {
            if self.count > end {
                let why = format!("more than {rest_max} bytes follow its end");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
            }
        }
        Ok(Digest(hex::encode(self.hash.finalize())))
    }
}

impl<R: std::io::Read> std::io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.count += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_lower_case_sha256_is_a_digest() {
        let good = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(good.parse::<Digest>().unwrap(), Digest::of(b""));
        for bad in ["", "sha256:", "sha256:abc", "sha512:00", &good.to_uppercase(), "sha256:../../etc", &good[..70]] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
