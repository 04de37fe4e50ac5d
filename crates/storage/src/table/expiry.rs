//! When rows expire.
//!
//! An index entry lists keys of rows that were written at about the same time:
//!
//! ```text
//! prefix | time, µs, i64 BE with the sign bit flipped | XXH3-64 of the value, BE → (key length LEB128 | key without prefix)*
//! ```
//!
//! The index is lazy: a row gets into it when it is inserted, not when it is written again. When an entry is due, the
//! rows themselves say when they were last written; those that are not due yet go into a later entry. So an update
//! costs nothing, and an insert a few bytes of an entry that it shares with its batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::decode::Cursor;
use super::row::append_length;
use crate::state::Writes;

/// Rows that were written this close together share an entry when they are put back.
const QUANTUM_US_MAX: i64 = 1_000_000;
/// Keys in an entry.
const ENTRY_KEYS_MAX: usize = 8192;

/// The expiry index of one table.
#[derive(Debug, Clone)]
pub(super) struct Expiry {
    pub(super) ttl_us: i64,
    prefix: Vec<u8>,
    /// No entry is earlier. May be too early, never too late.
    pub(super) head_us: Option<i64>,
}

impl Expiry {
    pub(super) fn new(ttl_us: i64, prefix: Vec<u8>) -> Self {
        Self { ttl_us, prefix, head_us: None }
    }

    /// True where a row that was last written at `written_at_us` is over.
    pub(super) fn is_over(&self, written_at_us: i64, now_us: i64) -> bool {
        written_at_us.saturating_add(self.ttl_us) <= now_us
    }

    /// When to look next.
    pub(super) fn next_us(&self) -> Option<i64> {
        self.head_us.map(|head| head.saturating_add(self.ttl_us))
    }

    /// Lists `keys` (without the table's prefix) as written at `time_us`.
    pub(super) fn add<'a>(&mut self, time_us: i64, keys: impl IntoIterator<Item = &'a [u8]>, writes: &mut Writes) {
        let (mut value, mut count) = (Vec::new(), 0);
        let mut flush = |value: &mut Vec<u8>| {
            if !value.is_empty() {
                writes.put(self.key(time_us, value), std::mem::take(value));
            }
        };
        for key in keys {
            append_length(key.len(), &mut value);
            value.extend_from_slice(key);
            count += 1;
            if count % ENTRY_KEYS_MAX == 0 {
                flush(&mut value);
            }
        }
        flush(&mut value);
        if count > 0 {
            self.head_us = Some(self.head_us.map_or(time_us, |head| head.min(time_us)));
        }
    }

    /// Lists rows that were written again since, each with the time of that.
    pub(super) fn put_back(&mut self, rows: Vec<(i64, Bytes)>, writes: &mut Writes) {
        let quantum = (self.ttl_us / 16).clamp(1, QUANTUM_US_MAX);
        let mut groups: BTreeMap<i64, (i64, Vec<Bytes>)> = BTreeMap::new();
        for (time_us, key) in rows {
            let group = groups.entry(time_us.div_euclid(quantum)).or_insert((time_us, Vec::new()));
            // The latest of the group: it is then looked at once more, when all of it is over.
            group.0 = group.0.max(time_us);
            group.1.push(key);
        }
        for (time_us, keys) in groups.into_values() {
            self.add(time_us, keys.iter().map(|k| k.as_ref()), writes);
        }
    }

    /// Where a scan for due entries begins, and where it ends: entries of `now_us − TTL` and before.
    pub(super) fn due(&self, now_us: i64) -> Option<std::ops::Range<Bytes>> {
        let (head, last) = (self.head_us?, now_us.saturating_sub(self.ttl_us));
        (head <= last).then(|| self.start_of(head)..self.start_of(last.saturating_add(1)))
    }

    /// All entries from `time_us` on.
    pub(super) fn from(&self, time_us: i64) -> std::ops::Range<Bytes> {
        self.start_of(time_us)..super::spec::range_of(&self.prefix).end
    }

    /// The time of an entry, by its key.
    pub(super) fn time_of(&self, key: &[u8]) -> Option<i64> {
        let time = key.strip_prefix(self.prefix.as_slice())?.get(..8)?.try_into().ok()?;
        Some((u64::from_be_bytes(time) ^ (1 << 63)) as i64)
    }

    /// The keys that an entry lists, without the table's prefix.
    pub(super) fn keys_of(value: &Bytes) -> Option<Vec<Bytes>> {
        let (mut cursor, mut keys) = (Cursor(value), Vec::new());
        while !cursor.0.is_empty() {
            let len = cursor.length()?;
            keys.push(value.slice_ref(cursor.take(len)?));
        }
        Some(keys)
    }

    fn start_of(&self, time_us: i64) -> Bytes {
        [self.prefix.as_slice(), &((time_us as u64) ^ (1 << 63)).to_be_bytes()].concat().into()
    }

    fn key(&self, time_us: i64, value: &[u8]) -> Bytes {
        // The same keys at the same time are the same entry: writing it twice does no harm.
        [self.start_of(time_us).as_ref(), &xxh3_64(value).to_be_bytes()].concat().into()
    }
}
