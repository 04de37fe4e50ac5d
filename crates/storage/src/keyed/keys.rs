//! The keys that one look-up asks for.

use bytes::Bytes;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// 64 bits that stand for a key in memory.
pub(crate) fn fingerprint(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Bytes of their own, where `bytes` may be a slice of something large.
pub(crate) fn copy(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A key of a [`KeySet`], and its value in the [`super::StateTx`] that is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(super) u32);

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: Bytes,
    pub(super) fingerprint: u64,
}

/// Distinct keys, in the order in which they came.
#[derive(Debug, Default)]
pub struct KeySet {
    pub(super) keys: Vec<Wanted>,
    by_key: HashTable<u32>,
}

impl KeySet {
    /// None, with room for `keys`.
    pub fn with_capacity(keys: usize) -> Self {
        Self { keys: Vec::with_capacity(keys), by_key: HashTable::with_capacity(keys) }
    }

    /// Adds `key` and gives its slot: the same for the same key. `own` makes the bytes that are kept where it is new.
    pub fn insert_with(&mut self, key: &[u8], own: impl FnOnce() -> Bytes) -> Slot {
        let (keys, fingerprint) = (&mut self.keys, fingerprint(key));
        let is_same = |&slot: &u32| keys[slot as usize].key == key;
        let hash = |&slot: &u32| keys[slot as usize].fingerprint;
        let slot = *self.by_key.entry(fingerprint, is_same, hash).or_insert(keys.len() as u32).get();
        if slot as usize == keys.len() {
            keys.push(Wanted { key: own(), fingerprint });
        }
        Slot(slot)
    }

    /// [`Self::insert_with`] of bytes that are kept as they are.
    pub fn insert(&mut self, key: Bytes) -> Slot {
        self.insert_with(&key, || key.clone())
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_has_the_same_slot() {
        let mut keys = KeySet::with_capacity(2);
        let slots: Vec<Slot> = ["a", "b", "a", "c", "b"].map(|key| keys.insert(key.into())).to_vec();
        assert_eq!(slots, [Slot(0), Slot(1), Slot(0), Slot(2), Slot(1)]);
        assert_eq!((keys.len(), keys.is_empty()), (3, false));
    }
}
