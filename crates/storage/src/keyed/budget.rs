//! The memory that all states of a process share.
//!
//! ```text
//! budget ─┬─ a quarter: memtables, in equal parts for the states that are open
//!         └─ the rest:  key filters, as many as find room, up to half of it
//!                       rows and blocks, in what is left: each has a quarter for certain, and what the other does not hold
//! ```
//!
//! One cache of rows serves all tables and operators, and one cache of blocks all states: what is used stays, whoever
//! it belongs to. A filter that finds no room is left out, and its keys are looked up instead.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::rows::RowCache;
use crate::state::{BlockCache, StateOptions};

/// What a process takes unless told otherwise, in bytes.
pub const MEMORY_BYTES: usize = 128 << 20;
/// Below this a memtable is written out for too few entries, above it is none the better.
const MEMTABLE_BYTES: std::ops::RangeInclusive<usize> = 512 << 10..=8 << 20;
/// What a state needs at most, in memtables: one that fills, others that are being written out, and their overhead.
const MEMTABLES_PER_STATE: usize = 4;

/// The memory budget of a process. Clones are handles to the same budget.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    bytes: usize,
    filters: AtomicUsize,
    rows: RowCache,
    blocks: Arc<BlockCache>,
    scopes: AtomicU32,
    /// Filters that are being built: one at a time, since that reads all keys of a state.
    builds: Semaphore,
}

impl MemoryBudget {
    /// A budget of about `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            bytes,
            filters: AtomicUsize::new(0),
            rows: RowCache::new(),
            blocks: Arc::default(),
            scopes: AtomicU32::new(0),
            builds: Semaphore::new(1),
        }))
    }

    /// The settings of each of `states` states that share this budget.
    pub fn share(&self, states: usize) -> StateOptions {
        let memtable = self.0.bytes / 4 / MEMTABLES_PER_STATE / states.max(1);
        StateOptions {
            memtable_bytes: memtable.clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end()),
            ..StateOptions::with_memory(self.clone(), states)
        }
    }

    /// What rows may hold now.
    pub(super) fn rows_max(&self) -> usize {
        self.beside(self.0.blocks.bytes())
    }

    /// What blocks may hold now.
    pub(crate) fn blocks_max(&self) -> usize {
        self.beside(self.0.rows.bytes())
    }

    /// What one cache may hold where the other holds `other` bytes.
    fn beside(&self, other: usize) -> usize {
        let caches = self.caches();
        let left = caches - self.0.filters.load(Ordering::Relaxed).min(caches / 2);
        left.saturating_sub(other).clamp(caches / 4, (left - caches / 4).max(caches / 4))
    }

    fn caches(&self) -> usize {
        self.0.bytes - self.0.bytes / 4
    }

    pub(super) fn rows(&self) -> &RowCache {
        &self.0.rows
    }

    pub(crate) fn blocks(&self) -> &Arc<BlockCache> {
        &self.0.blocks
    }

    /// A number that no one else in this process has for what it keeps in a cache.
    pub(crate) fn scope(&self) -> u32 {
        self.0.scopes.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn builds(&self) -> &Semaphore {
        &self.0.builds
    }

    /// Room for a filter; none where filters have their share already.
    pub(super) fn claim(&self) -> Claim {
        Claim { budget: self.clone(), bytes: 0 }
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(MEMORY_BYTES)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget({} bytes)", self.0.bytes)
    }
}

impl PartialEq for MemoryBudget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for MemoryBudget {}

/// What a filter holds of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    budget: MemoryBudget,
    bytes: usize,
}

impl Claim {
    /// Takes `bytes` more. False where there is no room for them: nothing is taken then.
    #[must_use]
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let max = self.budget.caches() / 2;
        let fits = |held: usize| held.checked_add(bytes).filter(|all| *all <= max);
        let grown = self.budget.0.filters.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        self.bytes += if grown { bytes } else { 0 };
        grown
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.0.filters.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_from_the_caches_up_to_half_of_them_and_give_it_back() {
        let budget = MemoryBudget::new(400);
        assert_eq!((budget.rows_max(), budget.blocks_max()), (225, 225));
        let mut claim = budget.claim();
        assert!(claim.grow(100) && !claim.grow(51) && claim.grow(50));
        let mut other = budget.claim();
        assert!(!other.grow(1));
        assert_eq!((budget.rows_max(), budget.blocks_max()), (75, 75), "each has its quarter");
        drop(claim);
        assert!(other.grow(1));
        assert_eq!(budget.rows_max(), 224);
    }

    #[test]
    fn memtables_are_smaller_where_there_are_more_states() {
        let budget = MemoryBudget::default();
        let of = |states| budget.share(states).memtable_bytes;
        assert_eq!((of(0), of(2), of(8), of(256)), (8 << 20, 4 << 20, 1 << 20, 512 << 10));
        assert!(budget.share(256).compaction_interval > budget.share(2).compaction_interval);
    }
}
