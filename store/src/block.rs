//! Blocks: pieces of a stream or file, each behind its length and a checksum that goes on from the block before. So a whole
//! block proves that everything before it is as it was written, in that order. What snapshots, images and backups are made of;
//! `docs/format.md` has the layout.

/// Bytes before each block: its length and its checksum.
pub(crate) const PREFIX: usize = 8;

/// What stands before a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    length: u32,
    sum: u32,
}

impl Prefix {
    pub(crate) fn parse(bytes: [u8; PREFIX]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { length: u32::from_le_bytes([a, b, c, d]), sum: u32::from_le_bytes([e, f, g, h]) }
    }

    /// Bytes that the block claims to have.
    pub(crate) fn length(self) -> usize {
        self.length as usize
    }
}

/// The checksum of all blocks so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain(u32);

impl Chain {
    /// What goes before the next block, which is below 4 GiB.
    pub(crate) fn seal(&mut self, block: &[u8]) -> [u8; PREFIX] {
        let length = u32::try_from(block.len()).expect("invariant: a block holds little more than one item");
        self.0 = self.sum(length, block);
        let ([a, b, c, d], [e, f, g, h]) = (length.to_le_bytes(), self.0.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// Whether this is the next block, as it was written.
    pub(crate) fn follows(&mut self, prefix: Prefix, block: &[u8]) -> bool {
        self.0 = self.sum(prefix.length, block);
        self.0 == prefix.sum && block.len() == prefix.length()
    }

    fn sum(self, length: u32, block: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(&length.to_le_bytes());
        hasher.update(block);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_follows_only_what_it_was_written_after() {
        let mut chain = Chain::default();
        let sealed = [b"one", b"two"].map(|block| (Prefix::parse(chain.seal(block)), block));
        let follow = |order: &[usize]| {
            let mut chain = Chain::default();
            order.iter().all(|at| chain.follows(sealed[*at].0, sealed[*at].1))
        };
        assert!(follow(&[0, 1]));
        assert!(!follow(&[1]), "the first is missing");
        assert!(!follow(&[0, 0]), "one is there twice");
        assert!(!Chain::default().follows(sealed[0].0, b"onf"));
        assert!(!Chain::default().follows(sealed[0].0, b"on"));
    }
}
