//! Files by their content: which of the known ones a new file begins as.

use std::collections::{BTreeMap, HashMap};

use super::identity::{FileId, HEAD_BYTES_MAX, Place, head_hash};

/// The shortest content that is taken for a copy without another sign: two files that agree in it agree by no chance.
pub(crate) const COPY_BYTES_MIN: u64 = HEAD_BYTES_MAX as u64;

/// The known files by their first bytes.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    by_hash: HashMap<(u64, u64), Vec<FileId>>,
    /// How many files there are of each length of head.
    lens: BTreeMap<u64, usize>,
}

impl Heads {
    /// The file has been read as far as `place`.
    pub(crate) fn insert(&mut self, id: FileId, place: &Place) {
        if place.head_len > 0 {
            self.by_hash.entry((place.head_len, place.head_hash)).or_default().push(id);
            *self.lens.entry(place.head_len).or_default() += 1;
        }
    }

    /// The file is not at `place` any more.
    pub(crate) fn remove(&mut self, id: FileId, place: &Place) {
        let key = (place.head_len, place.head_hash);
        let Some(files) = self.by_hash.get_mut(&key) else { return };
        let Some(at) = files.iter().position(|other| *other == id) else { return };
        files.swap_remove(at);
        if files.is_empty() {
            self.by_hash.remove(&key);
        }
        if let Some(count) = self.lens.get_mut(&place.head_len) {
            *count -= 1;
            if *count == 0 {
                self.lens.remove(&place.head_len);
            }
        }
    }

    /// True where no file begins with as many as `len_min` known bytes.
    pub(crate) fn is_empty(&self, len_min: u64) -> bool {
        self.lens.range(len_min..).next().is_none()
    }

    /// The files that begin as `head` does, in at least `len_min` bytes.
    pub(crate) fn like(&self, head: &[u8], len_min: u64) -> Vec<FileId> {
        let lens = self.lens.range(len_min.min(head.len() as u64)..=head.len() as u64).map(|(len, _)| *len);
        lens.filter(|len| *len >= len_min)
            .filter_map(|len| self.by_hash.get(&(len, head_hash(head.get(..len as usize)?))))
            .flatten()
            .copied()
            .collect()
    }

    /// The files whose head is exactly this one.
    pub(crate) fn exactly(&self, place: &Place) -> Vec<FileId> {
        self.by_hash.get(&(place.head_len, place.head_hash)).cloned().unwrap_or_default()
    }
}
