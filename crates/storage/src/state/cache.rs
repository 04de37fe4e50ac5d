//! Blocks, indexes and filters of SlateDB's sorted tables in memory: one cache for all states of a process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

use crate::keyed::{Generations, MemoryBudget};

/// What an entry costs besides its data.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The cache. Without any, each read would fetch and parse index and filter of each table that may hold its key.
pub(crate) struct BlockCache {
    entries: Mutex<Generations<CachedKey, CachedEntry>>,
    bytes: AtomicUsize,
    hits: AtomicUsize,
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

    fn with<T>(&self, act: impl FnOnce(&mut Generations<CachedKey, CachedEntry>) -> T) -> T {
        let mut entries = self.entries.lock();
        let done = act(&mut entries);
        self.bytes.store(entries.bytes(), Ordering::Relaxed);
        done
    }
}

impl Default for BlockCache {
    fn default() -> Self {
        Self { entries: Mutex::new(Generations::new()), bytes: AtomicUsize::new(0), hits: AtomicUsize::new(0) }
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
        let found = self.0.blocks().with(|entries| entries.get(key, max, CachedEntry::clone))?;
        self.0.blocks().hit();
        Some(found)
    }
}

#[async_trait]
impl DbCache for BudgetedBlocks {
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
        let max = self.0.blocks_max();
        let turned = self.0.blocks().with(|entries| {
            let before = entries.turns();
            entries.insert(key, value, bytes, max);
            entries.turns() != before
        });
        if turned {
            self.0.balance();
        }
    }

    async fn remove(&self, key: &CachedKey) {
        self.0.blocks().with(|entries| entries.remove(key));
    }

    fn entry_count(&self) -> u64 {
        self.0.blocks().with(|entries| entries.len()) as u64
    }
}
