//! Blocks, indexes and filters of SlateDB's sorted tables in memory: one cache for all states of a process.
//!
//! Every read asks for filters and an index, whichever block it then needs. A look-up of thousands of random keys
//! brings in more blocks than there is room for, each used once, and asks for the index of one table only while it
//! passes that table: among the blocks, it would be gone before the next look-up. So indexes and filters have a part of
//! their own, from which blocks take nothing. They are large, and made ready at some cost: those who need the same one
//! wait for the first.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use slatedb::db_cache::{CacheFetch, CacheLoader, CachedEntry, CachedKey, DbCache};
use xxhash_rust::xxh3::Xxh3;

use crate::keyed::{Generations, MemoryBudget};

/// What an entry costs besides its data.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Locks for the loading of indexes and filters: by key, so that few wait for another's.
const TURNS: usize = 16;

/// The cache. Without any, each read would fetch and parse index and filter of each table that may hold its key.
pub(crate) struct BlockCache {
    /// Nothing awaits while it is held.
    parts: Mutex<Parts<CachedKey, CachedEntry>>,
    bytes: AtomicUsize,
    hits: AtomicUsize,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

/// Of an upper bound that is told at each call, what is kept of tables may hold three quarters, and blocks what that
/// does not hold.
struct Parts<K, V> {
    blocks: Generations<K, V>,
    /// Indexes, filters and what else is known of a whole table.
    tables: Generations<K, V>,
}

impl<K: Hash + Eq + Clone, V: Clone> Parts<K, V> {
    fn new() -> Self {
        Self { blocks: Generations::new(), tables: Generations::new() }
    }

    fn block(&mut self, key: &K, max: usize) -> Option<V> {
        self.blocks.get(key, max.saturating_sub(self.tables.bytes()), V::clone)
    }

    fn of_table(&mut self, key: &K, max: usize) -> Option<V> {
        self.tables.get(key, max / 4 * 3, V::clone)
    }

    /// True where blocks that nobody had asked for were let go of.
    fn insert_block(&mut self, key: K, value: V, bytes: usize, max: usize) -> bool {
        let turns = self.blocks.turns();
        self.blocks.insert(key, value, bytes, max.saturating_sub(self.tables.bytes()));
        self.blocks.turns() != turns
    }

    fn insert_of_table(&mut self, key: K, value: V, bytes: usize, max: usize) {
        self.tables.insert(key, value, bytes, max / 4 * 3);
    }

    fn bytes(&self) -> usize {
        self.blocks.bytes() + self.tables.bytes()
    }
}

impl BlockCache {
    /// Counts a hit.
    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// The hits since the last call.
    pub(crate) fn take_hits(&self) -> usize {
        self.hits.swap(0, Ordering::Relaxed)
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Parts<CachedKey, CachedEntry>) -> T) -> T {
        let mut parts = self.parts.lock();
        let done = act(&mut parts);
        self.bytes.store(parts.bytes(), Ordering::Relaxed);
        done
    }
}

impl Default for BlockCache {
    fn default() -> Self {
        Self {
            parts: Mutex::new(Parts::new()),
            bytes: AtomicUsize::new(0),
            hits: AtomicUsize::new(0),
            turns: Default::default(),
        }
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockCache({} bytes)", self.bytes())
    }
}

/// The cache within the budget of its process, as a state uses it. The engine tells states apart by a number that each
/// is given when it is opened.
pub(super) struct BudgetedBlocks(MemoryBudget);

impl BudgetedBlocks {
    pub(super) fn new(budget: &MemoryBudget) -> Arc<Self> {
        Arc::new(Self(budget.clone()))
    }

    fn get(&self, key: &CachedKey) -> Option<CachedEntry> {
        let max = self.0.blocks_max();
        self.found(|parts| parts.block(key, max))
    }

    fn get_of_table(&self, key: &CachedKey) -> Option<CachedEntry> {
        let max = self.0.blocks_max();
        self.found(|parts| parts.of_table(key, max))
    }

    fn found(
        &self,
        get: impl FnOnce(&mut Parts<CachedKey, CachedEntry>) -> Option<CachedEntry>,
    ) -> Option<CachedEntry> {
        let found = self.0.blocks().with(get)?;
        self.0.blocks().hit();
        Some(found)
    }

    async fn fetch_of_table(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, slatedb::Error> {
        if let Some(entry) = self.get_of_table(&key) {
            return Ok(CacheFetch::hit(entry));
        }
        // In a task of its own: the engine does not go on with all that it has begun, and nobody may wait for a turn
        // that is held by what it has set aside.
        let all = Self(self.0.clone());
        match tokio::spawn(async move { all.load_of_table(key, loader).await }).await {
            Ok(fetched) => fetched,
            Err(e) => Err(slatedb::Error::unavailable(format!("an index or filter was not loaded: {e}"))),
        }
    }

    async fn load_of_table(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, slatedb::Error> {
        let turn = BuildHasherDefault::<Xxh3>::default().hash_one(&key) as usize % TURNS;
        let _turn = self.0.blocks().turns[turn].lock().await;
        // It may have been loaded meanwhile.
        if let Some(entry) = self.get_of_table(&key) {
            return Ok(CacheFetch::hit(entry));
        }
        let entry = loader().await?;
        let (bytes, max) = (entry.size() + ENTRY_OVERHEAD_BYTES, self.0.blocks_max());
        self.0.blocks().with(|parts| parts.insert_of_table(key, entry.clone(), bytes, max));
        Ok(CacheFetch::miss(entry))
    }
}

#[async_trait]
impl DbCache for BudgetedBlocks {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get_of_table(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get_of_table(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.get_of_table(key))
    }

    async fn fetch_index(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, slatedb::Error> {
        self.fetch_of_table(key, loader).await
    }

    async fn fetch_filter(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, slatedb::Error> {
        self.fetch_of_table(key, loader).await
    }

    async fn fetch_stats(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, slatedb::Error> {
        self.fetch_of_table(key, loader).await
    }

    /// Of a block: what is known of tables comes by the calls above.
    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        let bytes = value.size() + ENTRY_OVERHEAD_BYTES;
        let max = self.0.blocks_max();
        if self.0.blocks().with(|parts| parts.insert_block(key, value, bytes, max)) {
            self.0.balance();
        }
    }

    async fn remove(&self, key: &CachedKey) {
        self.0.blocks().with(|parts| {
            parts.blocks.remove(key);
            parts.tables.remove(key);
        });
    }

    fn entry_count(&self) -> u64 {
        self.0.blocks().with(|parts| parts.blocks.len() + parts.tables.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_tables_stays_while_blocks_pass() {
        let (mut parts, max) = (Parts::new(), 10_000);
        for table in 0..8_u32 {
            parts.insert_of_table(table, table, 400, max);
        }
        for block in 1000..50_000 {
            parts.insert_block(block, block, 100, max);
            assert!(parts.bytes() <= max, "{} bytes", parts.bytes());
            // Each once while twice as many blocks pass as there is room for.
            if block % 200 == 0 {
                let table = block / 200 % 8;
                assert_eq!(parts.of_table(&table, max), Some(table), "at block {block}");
            }
        }
        assert_eq!(parts.block(&49_999, max), Some(49_999));
        assert_eq!(parts.block(&1000, max), None);
        for table in 100..200 {
            parts.insert_of_table(table, table, 400, max);
        }
        for block in 1..50 {
            parts.insert_block(block, block, 100, max);
        }
        assert!(parts.bytes() <= max && parts.block(&49, max).is_some(), "a quarter is left for blocks");
    }
}
