//! A bounded cache in two generations.
//!
//! New entries go to the young generation. When that holds half of the bound, it becomes the old one, and what was old
//! and has not been asked for since is gone. A hit in the old generation moves the entry to the young one. This is
//! close to least-recently-used, with one hash map operation per call, and entries that were inserted together leave
//! together, so that slices of one buffer free it.

use std::hash::{BuildHasher, Hash};
use std::mem;

use hashbrown::{DefaultHashBuilder, HashMap};

/// A cache that holds at most about so many bytes, as told by the caller for each entry. The bound may be another at
/// each call: where it is lower than before, the next insertions bring the cache below it.
#[derive(Debug)]
pub(crate) struct Generations<K, V, S = DefaultHashBuilder> {
    young: HashMap<K, (V, usize), S>,
    old: HashMap<K, (V, usize), S>,
    young_bytes: usize,
    old_bytes: usize,
    turns: u64,
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Default> Generations<K, V, S> {
    pub(crate) fn new() -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), young_bytes: 0, old_bytes: 0, turns: 0 }
    }

    /// The value of `key`. `keep` makes the value that is kept when the entry moves to the young generation: a copy,
    /// where values are slices of buffers that should be freed.
    pub(crate) fn get(&mut self, key: &K, bytes_max: usize, keep: impl FnOnce(&V) -> V) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(key)?;
        self.old_bytes -= bytes;
        self.insert(key.clone(), keep(&value), bytes, bytes_max);
        Some(value)
    }

    /// Puts a value in, of about `bytes` bytes. One that is larger than half of the bound is not kept.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize, bytes_max: usize) {
        if bytes > bytes_max / 2 {
            return self.remove(&key);
        }
        if self.young_bytes + bytes > bytes_max / 2 {
            mem::swap(&mut self.young, &mut self.old);
            // Anew: a table of the largest size that it ever had would stay otherwise.
            self.young = HashMap::default();
            self.old_bytes = mem::take(&mut self.young_bytes);
            self.turns += 1;
        }
        self.young_bytes += bytes;
        if let Some((_, replaced)) = self.young.insert(key, (value, bytes)) {
            self.young_bytes -= replaced;
        }
    }

    /// Forgets `key`.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((_, bytes)) = self.young.remove(key) {
            self.young_bytes -= bytes;
        }
        if let Some((_, bytes)) = self.old.remove(key) {
            self.old_bytes -= bytes;
        }
    }

    /// Bytes of all entries; one that is in both generations counts twice.
    pub(crate) fn bytes(&self) -> usize {
        self.young_bytes + self.old_bytes
    }

    /// How often the young generation became the old one.
    pub(crate) fn turns(&self) -> u64 {
        self.turns
    }

    /// Number of entries; one that is in both generations counts twice.
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_is_asked_for_stays() {
        let mut cache: Generations<u32, u32> = Generations::new();
        for key in 0..10_000 {
            cache.insert(key, key * 2, 10, 1000);
            assert!(cache.len() <= 100 && cache.bytes() <= 1000, "{} entries", cache.len());
            assert!(cache.get(&0, 1000, |v| *v).is_some(), "the hot entry is gone at {key}");
        }
        assert_eq!(cache.get(&9_999, 1000, |v| *v), Some(19_998));
        assert_eq!(cache.get(&5_000, 1000, |v| *v), None);
        cache.remove(&9_999);
        assert_eq!(cache.get(&9_999, 1000, |v| *v), None);
    }

    #[test]
    fn a_new_value_hides_the_one_of_the_old_generation() {
        let mut cache: Generations<u32, &str> = Generations::new();
        for (key, value) in [(1, "old"), (2, "x"), (3, "x"), (1, "new")] {
            cache.insert(key, value, 10, 40);
        }
        assert_eq!(cache.get(&1, 40, |v| *v), Some("new"));
        cache.insert(1, "too large", 30, 40);
        assert_eq!(cache.get(&1, 40, |v| *v), None, "neither the large value nor the one before it");
    }

    #[test]
    fn a_bound_that_sinks_is_kept_after_a_few_insertions() {
        let mut cache: Generations<u32, u32> = Generations::new();
        (0..100).for_each(|key| cache.insert(key, key, 10, 1000));
        (100..120).for_each(|key| cache.insert(key, key, 10, 100));
        assert!(cache.bytes() <= 100, "{} bytes", cache.bytes());
    }
}
