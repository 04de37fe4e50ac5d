//! Blocks, indexes and filters of SlateDB's sorted tables in memory, within a bound.

use std::fmt;

use async_trait::async_trait;
use parking_lot::Mutex;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

use crate::generations::Generations;

/// What an entry costs besides its data.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// A cache of at most about `bytes_max` bytes. Without any, each read would fetch and parse index and filter of each
/// table that may hold its key.
pub(super) struct BlockCache(Mutex<Generations<CachedKey, CachedEntry>>);

impl BlockCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Generations::new(bytes_max)))
    }

    fn get(&self, key: &CachedKey) -> Option<CachedEntry> {
        self.0.lock().get(key, CachedEntry::clone)
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").finish_non_exhaustive()
    }
}

#[async_trait]
impl DbCache for BlockCache {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        let bytes = value.size() + ENTRY_OVERHEAD_BYTES;
        self.0.lock().insert(key, value, bytes);
    }

    async fn remove(&self, key: &CachedKey) {
        self.0.lock().remove(key);
    }

    fn entry_count(&self) -> u64 {
        self.0.lock().len() as u64
    }
}
