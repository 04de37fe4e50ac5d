//! What stands behind the bytes of every object in a folder: how many they are, when they were written, and their
//! checksum.
//!
//! ```text
//! the object's bytes | length u64 LE | written at, ms of the state's clock, i64 LE | XXH3-64 of the bytes u64 LE
//!                    | CRC-32C of these 24 bytes u32 LE | "MSO1"
//! ```
//!
//! An object of the engine may be empty (a fence in its write-ahead log is), and a file that was cut to nothing would
//! look like one. With the seal it does not; nor does one that was cut off, grown, or written over.

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a seal.
pub(super) const SEAL_BYTES: u64 = 32;
const MAGIC: [u8; 4] = *b"MSO1";

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    /// Bytes of the object.
    pub(super) length: u64,
    /// When it was written, by the state's clock.
    pub(super) written_ms: i64,
    checksum: u64,
}

impl Seal {
    /// The seal of bytes that `hash` has seen all of.
    pub(super) fn of(hash: &Xxh3, length: u64, written_ms: i64) -> Self {
        Self { length, written_ms, checksum: hash.digest() }
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(SEAL_BYTES as usize);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.written_ms.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(&MAGIC);
        out.into()
    }

    /// Reads the last bytes of a file of `file_bytes`.
    ///
    /// # Errors
    /// What is wrong with the file, in a few words.
    pub(super) fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self, &'static str> {
        let Some((words, magic)) = bytes.split_last_chunk::<4>().filter(|(words, _)| words.len() == 28) else {
            return Err(if file_bytes == 0 { "is empty" } else { "is cut off" });
        };
        if *magic != MAGIC {
            return Err("is cut off or written over at its end");
        }
        let word = |at: usize| words[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        if words[24..] != crc32c::crc32c(&words[..24]).to_le_bytes() {
            return Err("is damaged at its end");
        }
        let seal = Self { length: word(0), written_ms: word(8) as i64, checksum: word(16) };
        match file_bytes.checked_sub(SEAL_BYTES) {
            Some(length) if length == seal.length => Ok(seal),
            _ => Err("has not the length that it was written with"),
        }
    }

    /// Compares the whole object with what was written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, object: &[u8]) -> Result<(), &'static str> {
        if object.len() as u64 == self.length && xxh3_64(object) == self.checksum {
            Ok(())
        } else {
            Err("is damaged: its bytes are not those that were written")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(object: &[u8]) -> Vec<u8> {
        let mut hash = Xxh3::new();
        hash.update(object);
        let mut file = object.to_vec();
        file.extend_from_slice(&Seal::of(&hash, object.len() as u64, -7).encode());
        file
    }

    fn read(file: &[u8]) -> Result<Seal, &'static str> {
        let tail = file.len().saturating_sub(SEAL_BYTES as usize);
        let seal = Seal::decode(&file[tail..], file.len() as u64)?;
        seal.check(&file[..tail])?;
        Ok(seal)
    }

    #[test]
    fn every_change_of_a_byte_or_of_the_length_is_noticed() {
        for object in [&b""[..], b"x", b"some bytes of an object"] {
            let whole = sealed(object);
            assert_eq!(read(&whole).unwrap().written_ms, -7);
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(read(&flipped).is_err(), "bit {bit} of byte {at}");
                }
                assert!(read(&whole[..at]).is_err(), "cut to {at}");
                assert!(read(&whole[at + 1..]).is_err(), "without its beginning");
            }
            assert!(read(&[&whole[..], b"\0"].concat()).is_err());
        }
    }
}
