//! Which file is which, and how far each has been read.
//!
//! A path is no identity: log rotation gives the same path to another file, and another path to the same file. A file
//! is known by its device and inode, and its content by hashes of its first bytes and of the last that were read, since
//! inodes are used again, files are cut and rewritten, and copies have inodes of their own.
//!
//! Cursor, one entry per file: key `file:<device>-<inode>` (hexadecimal), value JSON
//! `{"path", "offset", "head_len", "head_hash", "tail_len", "tail_hash", "mtime_ns"?, "disk_size"?}`:
//!
//! * `offset`: the first byte that has not been read; a record begins there. In a compressed file it counts the bytes
//!   that the file holds.
//! * `head_len`, `head_hash`: XXH3 of the first `head_len` bytes, at most [`HEAD_BYTES_MAX`] and never beyond `offset`.
//!   For files that are one record, of the whole content.
//! * `tail_len`, `tail_hash`: the same of the last bytes before `offset`. Both lengths are 0 where nothing is known.
//! * `mtime_ns`: there when the file had been read to its end; its modification time then.
//! * `disk_size`: with it, where the size on the disk is not `offset`.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use millstream_core::{Cursor, Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// The most bytes that tell one file's content from another's.
pub(crate) const HEAD_BYTES_MAX: usize = 1024;

const KEY_PREFIX: &str = "file:";

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub dev: u64,
    pub inode: u64,
}

impl FileId {
    /// The key of this file's entry in the cursor.
    pub(crate) fn key(self) -> String {
        format!("{KEY_PREFIX}{self}")
    }

    fn parse(key: &str) -> Option<Self> {
        let (dev, inode) = key.strip_prefix(KEY_PREFIX)?.split_once('-')?;
        Some(Self { dev: u64::from_str_radix(dev, 16).ok()?, inode: u64::from_str_radix(inode, 16).ok()? })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.dev, self.inode)
    }
}

/// What a file's content is known by: hashes of its first bytes, and of the last before an offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Print {
    pub offset: u64,
    pub head_len: u64,
    pub head_hash: u64,
    pub tail_len: u64,
    pub tail_hash: u64,
}

impl Print {
    /// The print of what lies before `offset`.
    pub(crate) fn of(offset: u64, head: &[u8], tail: &[u8]) -> Self {
        Self {
            offset,
            head_len: head.len() as u64,
            head_hash: head_hash(head),
            tail_len: tail.len() as u64,
            tail_hash: head_hash(tail),
        }
    }

    /// True where these are the bytes it was taken of.
    pub(crate) fn is_of(&self, head: &[u8], tail: &[u8]) -> bool {
        let same =
            |len: u64, hash: u64, bytes: &[u8]| len == 0 || (len == bytes.len() as u64 && head_hash(bytes) == hash);
        same(self.head_len, self.head_hash, head) && same(self.tail_len, self.tail_hash, tail)
    }
}

/// How far a file has been read; see the module for the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub path: String,
    pub offset: u64,
    pub head_len: u64,
    pub head_hash: u64,
    #[serde(default)]
    pub tail_len: u64,
    #[serde(default)]
    pub tail_hash: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<u64>,
}

impl Place {
    /// The first byte of a file that nothing is known of.
    pub(crate) fn beginning(path: &Path) -> Self {
        Self::behind(path, Print::default())
    }

    /// The place behind what `print` was taken of.
    pub(crate) fn behind(path: &Path, print: Print) -> Self {
        let Print { offset, head_len, head_hash, tail_len, tail_hash } = print;
        let path = path.to_string_lossy().into_owned();
        Self { path, offset, head_len, head_hash, tail_len, tail_hash, mtime_ns: None, disk_size: None }
    }

    /// The same, of a file with this size on the disk.
    pub(crate) fn of_disk_size(self, size: u64) -> Self {
        Self { disk_size: (size != self.offset).then_some(size), ..self }
    }

    /// What the content before the place is known by.
    pub(crate) fn print(&self) -> Print {
        let Self { offset, head_len, head_hash, tail_len, tail_hash, .. } = *self;
        Print { offset, head_len, head_hash, tail_len, tail_hash }
    }

    /// True where the file was read to its end when it had this size and time.
    pub(crate) fn is_done_at(&self, size: u64, mtime_ns: i64) -> bool {
        self.disk_size.unwrap_or(self.offset) == size && self.mtime_ns == Some(mtime_ns)
    }

    /// The value of the entry in the cursor.
    pub(crate) fn to_value(&self) -> Bytes {
        serde_json::to_vec(self).map_or_else(|_| Bytes::new(), Bytes::from)
    }
}

/// The hash of a file's first bytes.
pub(crate) fn head_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Reads the places out of a cursor.
///
/// # Errors
/// `Corruption`: an entry does not read back.
pub(crate) fn places(cursor: &Cursor) -> Result<Vec<(FileId, Place)>> {
    cursor
        .iter()
        .filter(|(key, _)| key.starts_with(KEY_PREFIX))
        .map(|(key, value)| {
            let place = serde_json::from_slice(value).ok();
            FileId::parse(key).zip(place).ok_or_else(|| {
                Error::corruption(format!("the stored place `{key}` of a file source does not read back"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_cursor_and_a_broken_one_is_not_taken_for_the_beginning() {
        let id = FileId { dev: 0xfd00, inode: u64::MAX };
        let place = Place {
            path: "a\"b".into(),
            offset: 7,
            head_len: 7,
            head_hash: u64::MAX,
            mtime_ns: Some(-1),
            ..Place::default()
        };
        let mut cursor = Cursor::from([(id.key(), place.to_value()), ("other".into(), Bytes::new())]);
        assert_eq!(places(&cursor).unwrap(), [(id, place)]);
        cursor.insert(id.key(), Bytes::from_static(b"{"));
        assert!(places(&cursor).is_err());
    }
}
