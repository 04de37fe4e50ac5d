//! Writes that are not durable yet, for those who must see them before that.
//!
//! A state shows what is durable. A task that computes its next batch before the last commit is durable, or several
//! batches for one commit, reads through an overlay. What goes into one [`Writes`] is a group; when the commit of that
//! is durable, the state tells the overlay, which lets the group go. Where it never becomes durable, the overlay keeps
//! showing what was never written: it must be dropped then, with all that was computed from it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::rows::Rows;
use crate::state::{AfterCommit, Writes};

/// Groups that are not durable yet, oldest first.
#[derive(Debug, Default)]
struct Groups {
    last: u64,
    open: VecDeque<u64>,
}

impl Groups {
    fn begin(&mut self) -> u64 {
        self.last += 1;
        self.open.push_back(self.last);
        self.last
    }

    /// Ends a group, and gives the oldest one that is still open. What an older one wrote is let go of first: it would
    /// come to light again otherwise.
    fn end(&mut self, group: u64) -> u64 {
        self.open.retain(|open| *open != group);
        self.open.front().copied().unwrap_or(self.last + 1)
    }
}

/// The group of `writes` in `overlay`, begun where this is its first entry.
fn group_of<O: AfterCommit + 'static>(overlay: &Arc<O>, writes: &mut Writes, begin: impl FnOnce() -> u64) -> u64 {
    let known: Arc<dyn AfterCommit> = overlay.clone();
    writes.group(known, begin)
}

/// Values by key; when they are durable, they go into the row cache.
pub(super) struct Overlay {
    rows: Rows,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: HashTable<Entry>,
    groups: Groups,
}

struct Entry {
    key: Bytes,
    fingerprint: u64,
    value: Option<Bytes>,
    group: u64,
}

impl Overlay {
    pub(super) fn new(rows: Rows) -> Arc<Self> {
        Arc::new(Self { rows, inner: Mutex::default() })
    }

    /// What is known of each of these keys without reading; `found` is told in their order. One lock for all.
    pub(super) fn get_each<'a>(
        &self,
        keys: impl Iterator<Item = (u64, &'a [u8])>,
        mut found: impl FnMut(Option<Option<Bytes>>),
    ) {
        let inner = self.inner.lock();
        for (fingerprint, key) in keys {
            // In this order: what leaves the overlay meanwhile is in the cache, or durable.
            let entry = inner.entries.find(fingerprint, |entry| entry.key == key);
            found(entry.map(|entry| entry.value.clone()).or_else(|| self.rows.get(fingerprint, key)));
        }
    }

    /// Fingerprints of all keys that have a value which is not durable yet.
    pub(super) fn fingerprints(&self) -> Vec<u64> {
        let inner = self.inner.lock();
        inner.entries.iter().filter(|entry| entry.value.is_some()).map(|entry| entry.fingerprint).collect()
    }

    /// Keeps what was read from the state (fingerprint, key, value): it is durable.
    pub(super) fn keep_read(&self, entries: impl Iterator<Item = (u64, Bytes, Option<Bytes>)>) {
        entries.for_each(|(fingerprint, key, value)| self.rows.insert(fingerprint, key, value));
    }

    /// Shows `entries` (fingerprint, key, value) until `writes` are durable.
    pub(super) fn insert(
        self: &Arc<Self>,
        entries: impl Iterator<Item = (u64, Bytes, Option<Bytes>)>,
        writes: &mut Writes,
    ) {
        let mut inner = self.inner.lock();
        let Inner { entries: table, groups } = &mut *inner;
        let group = group_of(self, writes, || groups.begin());
        for (fingerprint, key, value) in entries {
            let entry = Entry { key, fingerprint, value, group };
            match table.find_mut(fingerprint, |known| known.key == entry.key) {
                Some(known) => *known = entry,
                None => {
                    table.insert_unique(fingerprint, entry, |entry| entry.fingerprint);
                }
            }
        }
    }
}

impl AfterCommit for Overlay {
    fn durable(&self, group: u64) {
        let mut inner = self.inner.lock();
        let oldest = inner.groups.end(group);
        let done = if inner.groups.open.is_empty() {
            std::mem::take(&mut inner.entries).into_iter().collect::<Vec<_>>()
        } else {
            inner.entries.extract_if(|entry| entry.group < oldest).collect()
        };
        for Entry { key, fingerprint, value, .. } in done {
            self.rows.insert(fingerprint, key, value);
        }
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({} entries)", self.inner.lock().entries.len())
    }
}

/// Entries in key order, for those who read ranges.
#[derive(Debug, Default)]
pub(super) struct OrderedOverlay(Mutex<Ordered>);

#[derive(Debug, Default)]
struct Ordered {
    /// A value, none where it was deleted, and the group.
    entries: BTreeMap<Bytes, (Option<Bytes>, u64)>,
    groups: Groups,
}

impl OrderedOverlay {
    /// Writes an entry, or deletes it, and shows that until `writes` are durable.
    pub(super) fn write(self: &Arc<Self>, key: Bytes, value: Option<Bytes>, writes: &mut Writes) {
        let mut ordered = self.0.lock();
        let Ordered { entries, groups } = &mut *ordered;
        let group = group_of(self, writes, || groups.begin());
        entries.insert(key.clone(), (value.clone(), group));
        drop(ordered);
        match value {
            Some(value) => writes.put(key, value),
            None => writes.delete(key),
        }
    }

    /// What is written and deleted in `range`, not durable yet. To be asked before the state is.
    pub(super) fn range(&self, range: Range<Bytes>) -> Vec<(Bytes, Option<Bytes>)> {
        let ordered = self.0.lock();
        ordered.entries.range(range).map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }
}

impl AfterCommit for OrderedOverlay {
    fn durable(&self, group: u64) {
        let mut ordered = self.0.lock();
        let oldest = ordered.groups.end(group);
        ordered.entries.retain(|_, (_, group)| *group >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::MemoryBudget;
    use super::super::keys::fingerprint;
    use super::*;

    fn get(overlay: &Overlay, key: &str) -> Option<Option<Bytes>> {
        let mut got = None;
        let key = key.as_bytes();
        overlay.get_each([(fingerprint(key), key)].into_iter(), |found| got = found);
        got
    }

    fn put(overlay: &Arc<Overlay>, key: &'static str, value: Option<&'static str>, writes: &mut Writes) {
        let entry = (fingerprint(key.as_bytes()), Bytes::from(key), value.map(Bytes::from));
        overlay.insert([entry].into_iter(), writes);
    }

    fn shown(overlay: &Overlay) -> usize {
        overlay.inner.lock().entries.len()
    }

    #[test]
    fn writes_are_seen_at_once_and_let_go_of_when_all_before_them_are_durable() {
        let overlay = Overlay::new(Rows::new(&MemoryBudget::new(1 << 20)));
        let (mut first, mut second) = (Writes::new(), Writes::new());
        put(&overlay, "a", Some("1"), &mut first);
        put(&overlay, "b", Some("1"), &mut first);
        put(&overlay, "a", None, &mut second);
        put(&overlay, "c", Some("2"), &mut second);
        assert_eq!(get(&overlay, "a"), Some(None));
        assert_eq!(get(&overlay, "b"), Some(Some("1".into())));
        assert_eq!(get(&overlay, "d"), None);
        overlay.durable(2);
        assert_eq!(shown(&overlay), 3, "the first one is not durable yet");
        overlay.durable(1);
        assert_eq!(shown(&overlay), 0);
        assert_eq!(get(&overlay, "a"), Some(None), "the cache knows");
        assert_eq!(get(&overlay, "c"), Some(Some("2".into())));
    }

    #[test]
    fn what_is_written_twice_stays_until_the_later_write_is_durable() {
        let overlay = Overlay::new(Rows::new(&MemoryBudget::new(0)));
        let (mut first, mut second) = (Writes::new(), Writes::new());
        put(&overlay, "a", Some("1"), &mut first);
        put(&overlay, "a", Some("2"), &mut second);
        overlay.durable(1);
        assert_eq!(get(&overlay, "a"), Some(Some("2".into())));
        overlay.durable(2);
        assert_eq!(get(&overlay, "a"), None, "there is no room in the cache: the state is asked");
    }

    #[test]
    fn ranges_show_what_was_written_and_what_was_deleted() {
        let overlay = Arc::new(OrderedOverlay::default());
        let (mut first, mut second) = (Writes::new(), Writes::new());
        overlay.write("b".into(), Some("1".into()), &mut first);
        overlay.write("a".into(), Some("1".into()), &mut first);
        overlay.write("b".into(), None, &mut second);
        let all = || overlay.range("a".into().."z".into());
        assert_eq!(all(), [("a".into(), Some("1".into())), ("b".into(), None)]);
        assert_eq!((first.len(), second.len()), (2, 1));
        overlay.durable(1);
        assert_eq!(all(), [("b".into(), None)]);
        overlay.durable(2);
        assert_eq!(all(), []);
    }
}
