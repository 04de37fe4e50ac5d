//! Says of most keys that are not in a state that they are not, from memory.
//!
//! A chain of split-block Bloom filters (as in the Parquet format: blocks of 8 × 32 bits, one bit in each word), each
//! four times as large as the one before, with 16 bits per key: about one key in a thousand is taken for one that was
//! seen. Keys are never removed.

const FIRST_LEVEL_KEYS: usize = 4 << 10;
const GROWTH: usize = 4;
const BITS_PER_KEY: usize = 16;
const BLOCK_BITS: usize = 256;

/// Odd constants of the Parquet format, one per word of a block.
const SALT: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A set of 64-bit fingerprints that may claim to hold one that it does not, but never the reverse.
#[derive(Debug, Default)]
pub(super) struct KeyFilter {
    levels: Vec<Level>,
    keys: u64,
}

#[derive(Debug)]
struct Level {
    blocks: Vec<[u32; 8]>,
    room: usize,
}

impl KeyFilter {
    /// False: certainly not inserted.
    pub(super) fn may_contain(&self, fingerprint: u64) -> bool {
        self.levels.iter().rev().any(|level| level.may_contain(fingerprint))
    }

    /// Bytes that the next insertion needs besides those that are held.
    pub(super) fn bytes_wanted(&self) -> usize {
        let full = self.levels.last().is_none_or(|level| level.room == 0);
        if full { self.keys_of_next() * BITS_PER_KEY / 8 } else { 0 }
    }

    /// Inserts a key. The caller has seen to it that there is memory for [`Self::bytes_wanted`].
    pub(super) fn insert(&mut self, fingerprint: u64) {
        self.keys += 1;
        if self.levels.last().is_none_or(|level| level.room == 0) {
            let keys = self.keys_of_next();
            self.levels.push(Level { blocks: vec![[0; 8]; keys * BITS_PER_KEY / BLOCK_BITS], room: keys });
        }
        if let Some(level) = self.levels.last_mut() {
            level.insert(fingerprint);
        }
    }

    /// Keys that were inserted; one that came twice counts twice.
    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    fn keys_of_next(&self) -> usize {
        FIRST_LEVEL_KEYS * GROWTH.pow(self.levels.len() as u32)
    }
}

impl Level {
    fn block(&self, fingerprint: u64) -> usize {
        (((fingerprint >> 32) * self.blocks.len() as u64) >> 32) as usize
    }

    fn may_contain(&self, fingerprint: u64) -> bool {
        let block = &self.blocks[self.block(fingerprint)];
        block.iter().zip(SALT).all(|(word, salt)| word & bit(fingerprint, salt) != 0)
    }

    fn insert(&mut self, fingerprint: u64) {
        let block = self.block(fingerprint);
        self.blocks[block].iter_mut().zip(SALT).for_each(|(word, salt)| *word |= bit(fingerprint, salt));
        self.room -= 1;
    }
}

fn bit(fingerprint: u64, salt: u32) -> u32 {
    1 << ((fingerprint as u32).wrapping_mul(salt) >> 27)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(i: u64) -> u64 {
        super::super::keys::fingerprint(&i.to_le_bytes())
    }

    #[test]
    fn what_was_inserted_is_found_and_little_else() {
        let (mut filter, mut bytes) = (KeyFilter::default(), 0);
        for i in 0..400_000 {
            bytes += filter.bytes_wanted();
            filter.insert(fingerprint(i));
        }
        assert_eq!(filter.keys(), 400_000);
        assert!((0..400_000).all(|i| filter.may_contain(fingerprint(i))));
        let wrong = (400_000..500_000).filter(|&i| filter.may_contain(fingerprint(i))).count();
        assert!(wrong < 1000, "{wrong} of 100,000 unknown keys were taken for known ones");
        let held: usize = filter.levels.iter().map(|level| level.blocks.len() * size_of::<[u32; 8]>()).sum();
        assert_eq!(held, bytes, "it says what it needs");
        assert!(bytes < 400_000 * 8, "{bytes} bytes");
    }
}
