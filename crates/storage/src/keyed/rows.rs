//! Values that were written or read lately, of all keyed states of a process.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::budget::MemoryBudget;
use super::generations::Generations;
use super::keys::copy;

/// What an entry costs besides key and value.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Parts with a lock each, so that tasks seldom wait for one another. A power of two.
const PARTS: usize = 32;

/// A key with its value; none is a key that is known to be absent.
type Entry = (Bytes, Option<Bytes>);
type Part = Generations<Place, Entry, BuildHasherDefault<AsIs>>;

/// The cache.
#[derive(Debug)]
pub(super) struct RowCache {
    parts: Vec<Mutex<Part>>,
    bytes: AtomicUsize,
    hits: AtomicUsize,
}

/// Whose entry it is, and the fingerprint of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    scope: u32,
    fingerprint: u64,
}

impl RowCache {
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::new(Generations::new())).collect(),
            bytes: AtomicUsize::new(0),
            hits: AtomicUsize::new(0),
        }
    }

    /// Counts a hit.
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The hits since the last call.
    pub(super) fn take_hits(&self) -> usize {
        self.hits.swap(0, Ordering::Relaxed)
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What `act` gives, and whether a part has let go of what it had not been asked for. Of all parts, only the first
    /// counts: they do so at about the same time.
    fn with<T>(&self, place: Place, act: impl FnOnce(&mut Part) -> T) -> (T, bool) {
        // Not the bits that the maps of a part tell their entries apart with.
        let index = (place.hash() >> 32) as usize % PARTS;
        let mut part = self.parts[index].lock();
        let (before, turns) = (part.bytes(), part.turns());
        let done = act(&mut part);
        let turned = index == 0 && part.turns() != turns;
        let after = part.bytes();
        match after.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
        (done, turned)
    }
}

/// The part of one keyed state in the cache of its process.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    budget: MemoryBudget,
    scope: u32,
}

impl Rows {
    pub(super) fn new(budget: &MemoryBudget) -> Self {
        Self { budget: budget.clone(), scope: budget.scope() }
    }

    /// The value of `key`: outside, none where it is not known here; inside, none where it is known to be absent.
    pub(super) fn get(&self, fingerprint: u64, key: &[u8]) -> Option<Option<Bytes>> {
        let (place, max) = (Place { scope: self.scope, fingerprint }, self.bytes_max());
        let keep = |(key, value): &Entry| (copy(key), value.as_ref().map(copy));
        let (found, _) = self.budget.rows().with(place, |part| part.get(&place, max, keep));
        let (_, value) = found.filter(|(own, _)| own == key)?;
        self.budget.rows().hit();
        Some(value)
    }

    /// Keeps the value of a key.
    pub(super) fn insert(&self, fingerprint: u64, key: Bytes, value: Option<Bytes>) {
        let (place, max) = (Place { scope: self.scope, fingerprint }, self.bytes_max());
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
        let ((), turned) = self.budget.rows().with(place, |part| part.insert(place, (key, value), bytes, max));
        if turned {
            self.budget.balance();
        }
    }

    /// Of a part.
    fn bytes_max(&self) -> usize {
        self.budget.rows_max() / PARTS
    }
}

impl Place {
    fn hash(self) -> u64 {
        self.fingerprint ^ u64::from(self.scope).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

impl std::hash::Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(Place::hash(*self));
    }
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = super::keys::fingerprint(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::fingerprint;
    use super::*;

    #[test]
    fn two_states_share_the_room_but_not_the_keys() {
        let budget = MemoryBudget::new(1 << 20);
        let (busy, idle) = (Rows::new(&budget), Rows::new(&budget));
        let key = Bytes::from("key");
        idle.insert(fingerprint(&key), key.clone(), Some("idle".into()));
        busy.insert(fingerprint(&key), key.clone(), None);
        assert_eq!(idle.get(fingerprint(&key), &key), Some(Some("idle".into())));
        assert_eq!(busy.get(fingerprint(&key), &key), Some(None));
        assert_eq!(idle.get(fingerprint(&key), b"other key"), None, "the key is compared, not only its fingerprint");
        for i in 0..100_000_u32 {
            let key = Bytes::copy_from_slice(&i.to_le_bytes());
            busy.insert(fingerprint(&key), key, Some("value".into()));
        }
        assert_eq!(idle.get(fingerprint(&key), &key), None, "what nobody asked for has given way");
        let held = budget.rows().bytes();
        assert!(held > budget.rows_max() / 3 && held <= budget.rows_max(), "{held} bytes");
    }
}
