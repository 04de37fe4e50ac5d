//! The memory that all states of a process share.
//!
//! ```text
//! budget ─┬─ a quarter: memtables, in equal parts for the states that are open
//!         └─ the rest:  key filters, as many as find room, up to half of it
//!                       rows and blocks, in what is left: each may have what the other does not hold
//! ```
//!
//! One cache of rows serves all tables and operators, and one cache of blocks all states: what is used stays, whoever
//! it belongs to. Where both are full, the line between them moves to the side of the one that has fewer hits, up to a
//! quarter of the room. A filter that finds no room is left out, and its keys are looked up instead.

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

/// The line between rows and blocks moves by one of so many parts of the room at a time.
const PARTS: usize = 16;
/// A hit of a row saves a look-up, which asks for about so many filters, indexes and blocks.
const BLOCKS_PER_ROW: usize = 8;

/// The memory budget of a process. Clones are handles to the same budget.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    bytes: usize,
    filters: AtomicUsize,
    /// How many of [`PARTS`] parts of the room are the rows' where both caches want all of it.
    line: AtomicUsize,
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
            line: AtomicUsize::new(PARTS / 2),
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
        let (room, of_rows) = self.room();
        of_rows.max(room.saturating_sub(self.0.blocks.bytes()))
    }

    /// What blocks may hold now.
    pub(crate) fn blocks_max(&self) -> usize {
        let (room, of_rows) = self.room();
        (room - of_rows).max(room.saturating_sub(self.0.rows.bytes()))
    }

    /// What rows and blocks may hold together, and what of it is the rows' where both want all.
    fn room(&self) -> (usize, usize) {
        let caches = self.caches();
        let room = caches - self.0.filters.load(Ordering::Relaxed).min(caches / 2);
        (room, room / PARTS * self.0.line.load(Ordering::Relaxed))
    }

    /// To be called when a cache has let go of what it had not been asked for: moves the line.
    pub(crate) fn balance(&self) {
        let (rows, blocks) = (self.0.rows.take_hits() * BLOCKS_PER_ROW, self.0.blocks.take_hits());
        let moved = |line: usize| match rows.cmp(&blocks) {
            std::cmp::Ordering::Greater => (line < PARTS * 3 / 4).then_some(line + 1),
            std::cmp::Ordering::Less => (line > PARTS / 4).then(|| line - 1),
            std::cmp::Ordering::Equal => None,
        };
        let _ = self.0.line.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
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
    use bytes::Bytes;

    use super::super::keys::fingerprint;
    use super::super::rows::Rows;
    use super::*;

    #[test]
    fn filters_take_from_the_caches_up_to_half_of_them_and_give_it_back() {
        let budget = MemoryBudget::new(400);
        assert_eq!((budget.rows_max(), budget.blocks_max()), (300, 300), "nobody holds anything");
        let mut claim = budget.claim();
        assert!(claim.grow(100) && !claim.grow(51) && claim.grow(50));
        let mut other = budget.claim();
        assert!(!other.grow(1));
        assert_eq!((budget.rows_max(), budget.blocks_max()), (150, 150));
        drop(claim);
        assert!(other.grow(1));
        assert_eq!(budget.rows_max(), 299);
    }

    #[test]
    fn who_has_no_hits_gives_way_up_to_a_quarter() {
        let budget = MemoryBudget::new(64 << 20);
        let rows = Rows::new(&budget);
        for i in 0..400_000_u32 {
            let key = Bytes::copy_from_slice(&i.to_le_bytes());
            rows.insert(fingerprint(&key), key, None);
        }
        let (room, of_rows) = budget.room();
        assert!(budget.rows().bytes() > of_rows / 2 && of_rows == room / 2, "{} bytes", budget.rows().bytes());
        assert!(budget.blocks_max() >= room / 2, "half of it is there for whoever comes");
        for _ in 0..PARTS {
            budget.0.rows.hit();
            budget.balance();
        }
        assert_eq!(budget.room(), (room, room / 4 * 3));
        for _ in 0..PARTS {
            budget.0.blocks.hit();
            budget.balance();
        }
        assert_eq!(budget.room(), (room, room / 4));
        budget.balance();
        assert_eq!(budget.room(), (room, room / 4), "nobody had hits");
    }

    #[test]
    fn memtables_are_smaller_where_there_are_more_states() {
        let budget = MemoryBudget::default();
        let of = |states| budget.share(states).memtable_bytes;
        assert_eq!((of(0), of(2), of(8), of(256)), (8 << 20, 4 << 20, 1 << 20, 512 << 10));
        assert!(budget.share(256).compaction_interval > budget.share(2).compaction_interval);
    }
}
