//! Who this member is: written once, when it is born, and never changed.

use bytes::Bytes;

use super::disk::{Disk, failed};
use super::roster::{decode_member, encode_member};
use crate::backend::Error;
use crate::members::{Member, MemberId};
use crate::mvcc::codec::{Malformed, Reader, Writer};

const NAME: &str = "identity";
pub(crate) const TEMPORARY: &str = "identity.tmp";
const MAGIC: [u8; 8] = *b"orlopmbr";
const VERSION: u64 = 1;

/// Who a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Names the cluster for ever.
    pub(crate) cluster: u64,
    pub(crate) member: MemberId,
    /// It was there from the beginning, and `known` are all who were; else it joined, and is told by the leader who
    /// the members are.
    pub(crate) founder: bool,
    /// The members as of its birth.
    pub(crate) known: Vec<Member>,
}

impl Identity {
    /// Reads it; none when this directory has none.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>, Error> {
        let path = disk.path(NAME);
        if !disk.has(NAME).map_err(failed("list", disk.path("")))? {
            return Ok(None);
        }
        let bytes = disk.read(NAME).map_err(failed("read", path.clone()))?;
        match Self::decode(bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(why) => Err(Error::Corrupt { path, offset: 0, why: why.0.to_owned() }),
        }
    }

    /// Writes it, durably.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), Error> {
        let written = disk.create(TEMPORARY).and_then(|file| {
            file.write_all_at(&self.encode(), 0)?;
            file.sync()
        });
        written.map_err(failed("write", disk.path(TEMPORARY)))?;
        disk.rename(TEMPORARY, NAME).map_err(failed("rename", disk.path(NAME)))?;
        disk.sync_dir().map_err(failed("sync", disk.path("")))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer(MAGIC.to_vec());
        out.number(VERSION);
        out.number(self.cluster);
        out.number(self.member);
        out.byte(u8::from(self.founder));
        out.number(self.known.len() as u64);
        self.known.iter().for_each(|member| encode_member(&mut out, member));
        let sum = crc32fast::hash(&out.0);
        out.0.extend_from_slice(&sum.to_le_bytes());
        out.0
    }

    fn decode(mut bytes: Vec<u8>) -> Result<Self, Malformed> {
        let body = bytes.len().checked_sub(4).ok_or(Malformed("it ends early"))?;
        let sum = bytes.split_off(body);
        if sum != crc32fast::hash(&bytes).to_le_bytes() || !bytes.starts_with(&MAGIC) {
            return Err(Malformed("its checksum does not match"));
        }
        let mut from = Reader::new(Bytes::from(bytes).slice(MAGIC.len()..));
        if from.number()? != VERSION {
            return Err(Malformed("it is of an unknown version"));
        }
        Ok(Self {
            cluster: from.number()?,
            member: from.number()?,
            founder: from.byte()? != 0,
            known: (0..from.count()?).map(|_| decode_member(&mut from)).collect::<Result<_, _>>()?,
        })
    }
}
