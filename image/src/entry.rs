//! Entry: one member of a tar stream, read without trust.
//!
//! Knows ustar, GNU long names and numbers, and PAX. Headers that extend others are bounded by [`EXTENSION_MAX`], so that
//! a stream cannot make the reader hold more. GNU sparse files are refused.

use std::{
    io::{self, Read},
    path::PathBuf,
};

/// Longest extended header, bytes.
const EXTENSION_MAX: u64 = 1 << 20;
/// A tar record, bytes.
const BLOCK: usize = 512;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A member's header.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) link: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Extended attributes, `SCHILY.xattr.` of PAX.
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// The members of a stream, one after the other.
pub(crate) struct Entries<R> {
    reader: R,
    /// Body bytes of the current member not read yet.
    remaining: u64,
    /// Zeros after it.
    padding: u64,
    /// Bytes consumed.
    offset: u64,
}

/// What extended headers said about the next member.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(reader: R) -> Self {
        Entries { reader, remaining: 0, padding: 0, offset: 0 }
    }

    /// Where the current member's body starts in the stream, bytes; valid before its body is read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The reader, wherever it stands.
    pub(crate) fn into_inner(self) -> R {
        self.reader
    }

    /// The next member; what is left of the current body is skipped. None at the end of the archive.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            self.skip_body()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            let kind = header.entry_type();
            self.remaining = size;
            self.padding = size.next_multiple_of(BLOCK as u64) - size;
            match kind.as_byte() {
                b'L' => extended.path = Some(self.text()?),
                b'K' => extended.link = Some(self.text()?),
                b'x' => {
                    let records = self.extension()?;
                    pax(&records, &mut extended)?;
                }
                b'g' => drop(self.extension()?),
                b'S' => return Err(invalid("sparse files are not supported")),
                _ => return self.member(&header, extended).map(Some),
            }
        }
    }

    fn member(&mut self, header: &tar::Header, extended: Extended) -> io::Result<Entry> {
        if let Some(size) = extended.size {
            self.remaining = size;
            self.padding = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| invalid("size overflows"))? - size;
        }
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extended.link.or_else(|| header.link_name_bytes().map(|name| name.into_owned())).unwrap_or_default();
        let device = || -> io::Result<(u32, u32)> {
            Ok((header.device_major()?.unwrap_or_default(), header.device_minor()?.unwrap_or_default()))
        };
        let kind = match header.entry_type().as_byte() {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(invalid(&format!("unknown type {:?}", other as char))),
        };
        if !matches!(kind, Kind::File) && self.remaining > 0 && !matches!(kind, Kind::Hardlink) {
            return Err(invalid("a member that is no file has a body"));
        }
        let block = header.as_bytes();
        // Fields that are left empty mean 0, as all readers of tar have it.
        let number = |field: std::ops::Range<usize>, value: io::Result<u64>| {
            if block[field].iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { value }
        };
        let owner = |field, value| u32::try_from(number(field, value)?).map_err(|_| invalid("owner is out of range"));
        let mode = number(100..108, header.mode().map(u64::from))?;
        Ok(Entry {
            path: bytes_path(path),
            link: bytes_path(link),
            kind,
            mode: mode as u32 & 0o7777,
            uid: extended.uid.map_or_else(|| owner(108..116, header.uid()), Ok)?,
            gid: extended.gid.map_or_else(|| owner(116..124, header.gid()), Ok)?,
            size: self.remaining,
            mtime: match extended.mtime {
                Some(time) => time,
                None => (i64::try_from(number(136..148, header.mtime())?).unwrap_or_default(), 0),
            },
            xattrs: extended.xattrs,
        })
    }

    /// A header block with a right checksum, or none at two zero blocks or the end of the stream.
    fn header(&mut self) -> io::Result<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.offset += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if header.cksum()? != sum {
            return Err(invalid("not a tar archive, or a damaged one: wrong header checksum"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.remaining > EXTENSION_MAX {
            return Err(invalid("extended header is longer than 1 MiB"));
        }
        let mut bytes = vec![0; self.remaining as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = self.extension()?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn skip_body(&mut self) -> io::Result<()> {
        let skip = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(skip), &mut io::sink())?;
        self.offset += skipped;
        if skipped < skip {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

/// Reads the current member's body.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= read as u64;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Records `LENGTH KEY=VALUE\n`; values may hold any byte.
fn pax(records: &[u8], extended: &mut Extended) -> io::Result<()> {
    let mut rest = records;
    while !rest.is_empty() && rest[0] != 0 {
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(|| invalid("malformed PAX record"))?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .filter(|length| *length > space + 1 && *length <= rest.len())
            .ok_or_else(|| invalid("malformed PAX record"))?;
        let record = &rest[space + 1..length - 1];
        rest = &rest[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| invalid("malformed PAX record"))?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let text = || std::str::from_utf8(value).map_err(|_| invalid("malformed PAX value"));
        let number = || text()?.parse::<u64>().map_err(|_| invalid("malformed PAX number"));
        let owner = || u32::try_from(number()?).map_err(|_| invalid("owner is out of range"));
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => extended.size = Some(number()?),
            b"uid" => extended.uid = Some(owner()?),
            b"gid" => extended.gid = Some(owner()?),
            b"mtime" => extended.mtime = Some(time(text()?)?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(invalid("sparse files are not supported")),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extended.xattrs.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// `seconds[.fraction]`
fn time(text: &str) -> io::Result<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = seconds.parse().map_err(|_| invalid("malformed PAX time"))?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Ok((seconds, digits.parse().map_err(|_| invalid("malformed PAX time"))?))
}

fn bytes_path(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(bytes).into()
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}
