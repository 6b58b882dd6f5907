//! SPDY header blocks: name/value pairs, compressed by zlib with a dictionary that both sides know, over the whole life of
//! the connection (SPDY/3.1, 2.6.10).

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::Error;

/// A block says no more than this, bytes.
const BLOCK: usize = 64 * 1024;

/// Pairs of a block; names in lower case.
pub type Headers = Vec<(String, String)>;

/// The names in the dictionary, each preceded by its length.
const NAMES: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary of SPDY/3.
static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for name in NAMES.split(' ') {
        let name = name.replace('_', " ");
        bytes.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes.extend(REST.as_bytes());
    bytes
});

/// Writes blocks.
#[derive(Debug)]
pub struct Writer {
    zlib: Compress,
}

impl Default for Writer {
    fn default() -> Self {
        let mut zlib = Compress::new(Compression::fast(), true);
        // invariant: a fresh compressor takes a dictionary
        zlib.set_dictionary(&DICTIONARY).expect("a fresh compressor takes a dictionary");
        Self { zlib }
    }
}

impl Writer {
    /// The next block of the connection.
    pub fn block(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, Error> {
        let mut plain = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(number(text.len()));
            plain.extend(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let begin = self.zlib.total_in();
        loop {
            let taken = usize::try_from(self.zlib.total_in() - begin).unwrap_or(plain.len());
            let written = out.len();
            self.zlib
                .compress_vec(&plain[taken..], &mut out, FlushCompress::Sync)
                .map_err(|_| Error::Protocol("headers cannot be compressed"))?;
            let all = usize::try_from(self.zlib.total_in() - begin).unwrap_or(0) == plain.len();
            if all && out.len() < out.capacity() {
                return Ok(out);
            }
            if out.len() == written && all {
                return Ok(out);
            }
            out.reserve(64);
        }
    }
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads blocks.
#[derive(Debug)]
pub struct Reader {
    zlib: Decompress,
}

impl Default for Reader {
    fn default() -> Self {
        Self { zlib: Decompress::new(true) }
    }
}

impl Reader {
    /// The next block of the connection.
    pub fn block(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        let bad = Error::Protocol("malformed header block");
        let mut plain = Vec::with_capacity(1024);
        let begin = self.zlib.total_in();
        loop {
            let taken = usize::try_from(self.zlib.total_in() - begin).unwrap_or(compressed.len());
            let before = (taken, plain.len());
            match self.zlib.decompress_vec(&compressed[taken..], &mut plain, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| Error::Protocol("unknown header dictionary"))?;
                    continue;
                }
                Err(_) => return Err(bad),
            }
            let taken = usize::try_from(self.zlib.total_in() - begin).unwrap_or(compressed.len());
            if plain.len() > BLOCK {
                return Err(Error::Protocol("header block is too large"));
            }
            let spare = plain.capacity() > plain.len();
            let idle = before == (taken, plain.len());
            if spare && (idle || taken == compressed.len()) {
                break;
            }
            plain.reserve(1024);
        }
        pairs(&plain).ok_or(bad)
    }
}

fn pairs(plain: &[u8]) -> Option<Headers> {
    let mut rest = plain;
    let count = take_number(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        headers.push((take_text(&mut rest)?, take_text(&mut rest)?));
    }
    Some(headers)
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    usize::try_from(u32::from_be_bytes(*head)).ok()
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = take_number(rest)?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_standards() {
        assert_eq!(DICTIONARY.len(), 1423);
        let mut zlib = Compress::new(Compression::fast(), true);
        assert_eq!(zlib.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_share_their_compressor() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for word in ["error", "stdin", "stdout"] {
            let headers = vec![("streamtype".to_owned(), word.to_owned()), ("x".to_owned(), "y".repeat(3000))];
            let block = writer.block(&headers).unwrap();
            assert_eq!(reader.block(&block).unwrap(), headers);
        }
        assert!(Reader::default().block(b"no zlib").is_err());
    }
}
