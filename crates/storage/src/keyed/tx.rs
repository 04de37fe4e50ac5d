//! What one look-up found, and what is made of it.

use bytes::Bytes;

use super::keys::{KeySet, Slot, copy};

/// The values of the keys of one [`KeySet`]: read together, then used and changed without waiting. Nothing of it is
/// seen elsewhere before [`super::KeyedState::write`].
#[derive(Debug)]
pub struct StateTx {
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) fingerprint: u64,
    pub(super) value: Option<Bytes>,
    /// True where the key had a value when it was looked up.
    pub(super) was_there: bool,
    /// True where the state was asked: the value is a slice of a block of the engine.
    pub(super) was_read: bool,
    pub(super) is_written: bool,
}

impl StateTx {
    pub(super) fn new(wanted: KeySet) -> Self {
        let entry = |wanted: super::keys::Wanted| Entry {
            key: wanted.key,
            fingerprint: wanted.fingerprint,
            value: None,
            was_there: false,
            was_read: false,
            is_written: false,
        };
        Self { entries: wanted.keys.into_iter().map(entry).collect() }
    }

    /// The key of a slot.
    pub fn key(&self, slot: Slot) -> &Bytes {
        &self.entries[slot.0 as usize].key
    }

    /// The value now, after what was put and deleted here.
    pub fn get(&self, slot: Slot) -> Option<&Bytes> {
        self.entries[slot.0 as usize].value.as_ref()
    }

    /// Sets the value.
    pub fn put(&mut self, slot: Slot, value: Bytes) {
        let entry = &mut self.entries[slot.0 as usize];
        (entry.value, entry.is_written) = (Some(value), true);
    }

    /// Takes the value away, and gives it.
    pub fn delete(&mut self, slot: Slot) -> Option<Bytes> {
        let entry = &mut self.entries[slot.0 as usize];
        let old = entry.value.take();
        entry.is_written |= old.is_some();
        old
    }

    /// Another form of the value that is there, which means the same. It is kept in memory, not written.
    pub(crate) fn replace(&mut self, slot: Slot, value: Bytes) {
        self.entries[slot.0 as usize].value = Some(value);
    }

    /// The keys that had no value when they were looked up, and have one now.
    pub fn new_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().filter(|e| !e.was_there && e.value.is_some()).map(|e| &e.key)
    }

    /// The slots whose values came from the state, not from memory.
    pub(crate) fn read_slots(&self) -> Vec<Slot> {
        let read = self.entries.iter().enumerate().filter(|(_, e)| e.was_read && e.value.is_some());
        read.map(|(i, _)| Slot(i as u32)).collect()
    }

    /// To be called where keys and values are slices of buffers of `buffers` bytes, before they are written: what is
    /// written stays in memory for a while, and a slice keeps all of its buffer. That is only good where most of it is
    /// needed.
    pub fn unshare(&mut self, buffers: usize) {
        let written = || self.entries.iter().filter(|e| e.is_written);
        let kept: usize = written().map(|e| e.key.len() + e.value.as_ref().map_or(0, Bytes::len)).sum();
        if kept * 2 < buffers {
            for entry in self.entries.iter_mut().filter(|e| e.is_written) {
                (entry.key, entry.value) = (copy(&entry.key), entry.value.as_ref().map(copy));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_and_deleted_is_seen_at_once() {
        let mut keys = KeySet::default();
        let (a, b) = (keys.insert("a".into()), keys.insert("b".into()));
        let mut tx = StateTx::new(keys);
        tx.put(a, "1".into());
        assert_eq!((tx.get(a), tx.get(b)), (Some(&"1".into()), None));
        assert_eq!(tx.new_keys().collect::<Vec<_>>(), [&Bytes::from("a")]);
        assert_eq!(tx.delete(b), None);
        assert_eq!(tx.delete(a), Some("1".into()));
        assert_eq!(tx.new_keys().count(), 0);
        assert!(tx.entries[0].is_written && !tx.entries[1].is_written, "nothing was there to delete");
    }

    #[test]
    fn a_small_part_of_a_large_buffer_is_copied() {
        let buffer = Bytes::from(vec![7; 1000]);
        let mut keys = KeySet::default();
        let a = keys.insert(buffer.slice(0..10));
        let mut tx = StateTx::new(keys);
        tx.put(a, buffer.slice(10..20));
        tx.unshare(1000);
        assert_ne!(tx.get(a).unwrap().as_ptr(), buffer.slice(10..).as_ptr());
        tx.put(a, buffer.slice(10..1000));
        tx.unshare(1000);
        assert_eq!(tx.get(a).unwrap().as_ptr(), buffer.slice(10..).as_ptr());
    }
}
