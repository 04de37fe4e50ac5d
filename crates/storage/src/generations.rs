//! A bounded cache in two generations.
//!
//! New entries go to the young generation. When that holds half of the bound, it becomes the old one, and what was old
//! and has not been asked for since is gone. A hit in the old generation moves the entry to the young one. This is close
//! to least-recently-used, with one hash map operation per call, and entries that were inserted together leave
//! together, so that slices of one buffer free it.

use std::hash::{BuildHasher, Hash};
use std::mem;

use hashbrown::{DefaultHashBuilder, HashMap};

/// A cache that holds at most about `bytes_max` bytes, as told by the caller for each entry.
#[derive(Debug)]
pub(crate) struct Generations<K, V, S = DefaultHashBuilder> {
    young: HashMap<K, (V, usize), S>,
    old: HashMap<K, (V, usize), S>,
    young_bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq + Clone, V: Clone, S: BuildHasher + Default> Generations<K, V, S> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), young_bytes: 0, bytes_max }
    }

    /// The value of `key`. `keep` makes the value that is kept when the entry moves to the young generation: a copy,
    /// where values are slices of buffers that should be freed.
    pub(crate) fn get(&mut self, key: &K, keep: impl FnOnce(&V) -> V) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(key)?;
        self.insert(key.clone(), keep(&value), bytes);
        Some(value)
    }

    /// Puts a value in, of about `bytes` bytes.
    pub(crate) fn insert(&mut self, key: K, value: V, bytes: usize) {
        if self.young_bytes + bytes > self.bytes_max / 2 {
            mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.young_bytes = 0;
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
        self.old.remove(key);
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
        let mut cache: Generations<u32, u32> = Generations::new(1000);
        for key in 0..10_000 {
            cache.insert(key, key * 2, 10);
            assert!(cache.len() <= 100, "{} entries", cache.len());
            assert!(cache.get(&0, |v| *v).is_some(), "the hot entry is gone at {key}");
        }
        assert_eq!(cache.get(&9_999, |v| *v), Some(19_998));
        assert_eq!(cache.get(&5_000, |v| *v), None);
        cache.remove(&9_999);
        assert_eq!(cache.get(&9_999, |v| *v), None);
    }

    #[test]
    fn a_new_value_hides_the_one_of_the_old_generation() {
        let mut cache: Generations<u32, &str> = Generations::new(40);
        cache.insert(1, "old", 10);
        cache.insert(2, "x", 10);
        cache.insert(3, "x", 10);
        cache.insert(1, "new", 10);
        assert_eq!(cache.get(&1, |v| *v), Some("new"));
    }
}
