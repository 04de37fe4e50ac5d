//! What has been read of one feed, so that each entry is read once.
//!
//! Cursor, `<feed>` being the XXH3 of the feed's address in hexadecimal:
//!
//! * `feed:<feed>` → JSON `{"etag"?, "last_modified"?}`, the last answer's validators, stored with its last entry.
//! * `feed:<feed>:<id>` → 16 bytes: XXH3 of the entry's content, and a number that grows with each entry read (both
//!   little endian). `<id>` is the XXH3-128 of the entry's id.
//!
//! At most `remember` entries are kept; the ones read longest ago go first, but none that the feed still holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use millstream_core::{Cursor, CursorDelta, Error, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::fetch::Validators;
use crate::format::feed::FeedEntry;

/// An entry that is new or has changed.
#[derive(Debug)]
pub(crate) struct NewEntry {
    key: u128,
    content: u64,
    /// The record.
    pub json: Vec<u8>,
}

/// The memory of one feed.
#[derive(Debug)]
pub(crate) struct Seen {
    prefix: String,
    remember: usize,
    entries: HashMap<u128, (u64, u64)>,
    /// By the number of each entry: the ones read longest ago first.
    by_number: BTreeMap<u64, u128>,
    pub validators: Validators,
}

impl Seen {
    /// What the cursor says about the feed at `url`.
    ///
    /// # Errors
    /// `Corruption`: an entry does not read back.
    pub(crate) fn new(url: &str, remember: usize, cursor: &Cursor) -> Result<Self> {
        let prefix = format!("feed:{:016x}", xxh3_64(url.as_bytes()));
        let wrong =
            |key: &str| Error::corruption(format!("the stored place `{key}` of a feed source does not read back"));
        let validators = match cursor.get(&prefix) {
            Some(value) => serde_json::from_slice(value).map_err(|_| wrong(&prefix))?,
            None => Validators::default(),
        };
        let mut seen = Self { prefix, remember, entries: HashMap::new(), by_number: BTreeMap::new(), validators };
        let ids = format!("{}:", seen.prefix);
        for (key, value) in cursor.range(ids.clone()..).take_while(|(key, _)| key.starts_with(&ids)) {
            let id = u128::from_str_radix(&key[ids.len()..], 16).map_err(|_| wrong(key))?;
            let (content, number) = value
                .split_first_chunk::<8>()
                .and_then(|(content, rest)| Some((content, <&[u8; 8]>::try_from(rest).ok()?)))
                .ok_or_else(|| wrong(key))?;
            seen.remember(id, u64::from_le_bytes(*content), u64::from_le_bytes(*number));
        }
        Ok(seen)
    }

    /// The entries of a document that are new or have changed, oldest first, and the ids of all of them.
    pub(crate) fn news(&self, entries: Vec<FeedEntry>) -> (Vec<NewEntry>, HashSet<u128>) {
        let mut times_used: HashMap<u128, u32> = HashMap::new();
        for entry in &entries {
            *times_used.entry(xxh3_128(entry.id.as_bytes())).or_default() += 1;
        }
        let dated = entries.iter().all(|entry| time(entry).is_some());
        let mut news = Vec::new();
        let mut held = HashSet::new();
        // Feeds have their newest entry on top.
        for mut entry in entries.into_iter().rev() {
            let content = content_hash(&mut entry);
            let id = xxh3_128(entry.id.as_bytes());
            // An id that several entries share says nothing; they are told apart by content. An entry that had the id
            // for itself when it was read is not read again.
            let shared = xxh3_128(&[entry.id.as_bytes(), b"\0", &content.to_le_bytes()].concat());
            let key = if times_used.get(&id).is_some_and(|n| *n > 1) { shared } else { id };
            let known = |key| self.entries.get(key).is_some_and(|(known, _)| *known == content);
            let new = !known(&id) && !known(&shared) && !held.contains(&shared);
            held.extend([id, shared]);
            if new {
                news.push((time(&entry), NewEntry { key, content, json: entry.to_json() }));
            }
        }
        if dated {
            news.sort_by_key(|(time, _)| *time);
        }
        (news.into_iter().map(|(_, entry)| entry).collect(), held)
    }

    /// Remembers that `entry` has been handed out.
    pub(crate) fn note(&mut self, entry: &NewEntry, changes: &mut CursorDelta) {
        let number = self.by_number.last_key_value().map_or(0, |(last, _)| last + 1);
        self.remember(entry.key, entry.content, number);
        let value = [entry.content.to_le_bytes(), number.to_le_bytes()].concat();
        changes.push((self.key(entry.key), Some(Bytes::from(value))));
    }

    /// Remembers the validators of a document that has been handed out to its end, and forgets what is too long ago.
    pub(crate) fn note_end(&mut self, validators: Validators, held: &HashSet<u128>, changes: &mut CursorDelta) {
        if self.validators != validators {
            let value = serde_json::to_vec(&validators).map_or_else(|_| Bytes::new(), Bytes::from);
            changes.push((self.prefix.clone(), Some(value)));
            self.validators = validators;
        }
        let surplus = self.entries.len().saturating_sub(self.remember);
        let old: Vec<(u64, u128)> = self
            .by_number
            .iter()
            .filter(|(_, id)| !held.contains(id))
            .take(surplus)
            .map(|(number, id)| (*number, *id))
            .collect();
        for (number, id) in old {
            self.by_number.remove(&number);
            self.entries.remove(&id);
            changes.push((self.key(id), None));
        }
    }

    /// A document that is no feed, as if it were an entry: it is handed out once, however often it comes.
    pub(crate) fn bad_document(&self, bytes: &[u8]) -> Option<NewEntry> {
        let key = xxh3_128(b"the document itself, which is no feed");
        let content = xxh3_64(bytes);
        let new = self.entries.get(&key).is_none_or(|(known, _)| *known != content);
        new.then(|| NewEntry { key, content, json: Vec::new() })
    }

    fn remember(&mut self, id: u128, content: u64, number: u64) {
        if let Some((_, before)) = self.entries.insert(id, (content, number)) {
            self.by_number.remove(&before);
        }
        self.by_number.insert(number, id);
    }

    fn key(&self, id: u128) -> String {
        format!("{}:{id:032x}", self.prefix)
    }
}

fn time(entry: &FeedEntry) -> Option<i64> {
    entry.published.or(entry.updated)
}

/// The hash of what the entry itself says: not of its feed's title and address, which may change for all at once.
fn content_hash(entry: &mut FeedEntry) -> u64 {
    let (title, url) = (entry.feed_title.take(), entry.feed_url.take());
    let hash = xxh3_64(&entry.to_json());
    (entry.feed_title, entry.feed_url) = (title, url);
    hash
}
