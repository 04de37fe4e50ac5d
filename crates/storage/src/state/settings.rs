//! How the engine is set: small, so that one process can hold many states.

use std::time::Duration;

use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, CompressionCodec, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, ObjectStoreCacheOptions, Settings,
};

use crate::keyed::MemoryBudget;

/// Waits of 0.1, 0.2, 0.4, 0.8 and 1 s, each with up to as much again at random, then the error comes out.
const STORE_RETRIES_MAX: u32 = 5;
/// Tables of the engine that have not been merged yet. Writers wait at this number.
const L0_TABLES_MAX: usize = 16;

/// Tables of the engine with fewer keys have no filter: it would be read as often as the keys.
const FILTER_KEYS_MIN: u32 = 64;
/// So many states look for background work as often as one alone would.
const STATES_AT_FULL_PACE: usize = 16;

/// Sizes of one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Committed entries are kept in memory up to this size, then written out as a sorted table. A table of this size
    /// may be waiting for the disk while the next one fills.
    pub memtable_bytes: usize,
    /// Where blocks, indexes and filters of sorted tables are kept in memory, and what tables keep.
    pub memory: MemoryBudget,
    /// How often merging looks for work, and the state for what was merged. Each look lists a folder of the store.
    pub compaction_interval: Duration,
    /// How long files that are no longer needed stay, for readers in other processes.
    pub garbage_min_age: Duration,
    /// How often such files are looked for.
    pub garbage_interval: Duration,
}

/// Those of a state that is alone in its process.
impl Default for StateOptions {
    fn default() -> Self {
        MemoryBudget::default().share(1)
    }
}

impl StateOptions {
    /// Those of each of `states` states in one process. The more there are, the less often each looks for background
    /// work, so that they don't take the processor when nothing happens.
    pub(crate) fn with_memory(memory: MemoryBudget, states: usize) -> Self {
        let times = (states / STATES_AT_FULL_PACE).clamp(1, 8) as u32;
        Self {
            memtable_bytes: 8 << 20,
            memory,
            compaction_interval: Duration::from_millis(500) * times,
            garbage_min_age: Duration::from_secs(60),
            garbage_interval: Duration::from_secs(10) * times,
        }
    }

    pub(super) fn engine(&self) -> Settings {
        Settings {
            // Each commit asks for its flush; no timer.
            flush_interval: None,
            manifest_poll_interval: self.compaction_interval * 2,
            manifest_update_timeout: Duration::from_secs(30),
            l0_sst_size_bytes: self.memtable_bytes,
            max_unflushed_bytes: self.memtable_bytes * 3,
            min_filter_keys: FILTER_KEYS_MIN,
            l0_max_ssts: L0_TABLES_MAX,
            l0_max_ssts_per_key: L0_TABLES_MAX,
            l0_flush_parallelism: 1,
            // What is new was compressed in the log that it came from, and is merged soon: only merged tables are.
            compression_codec: None,
            // Our own cache holds blocks; a second copy on the same disk helps nobody.
            object_store_cache_options: ObjectStoreCacheOptions { root_folder: None, ..Default::default() },
            compactor_options: Some(self.compactor()),
            garbage_collector_options: Some(self.garbage_collector()),
            object_store_max_retries: Some(STORE_RETRIES_MAX),
            ..Settings::default()
        }
    }

    fn compactor(&self) -> CompactorOptions {
        CompactorOptions {
            poll_interval: self.compaction_interval,
            commit_compacted_interval: self.compaction_interval,
            manifest_update_timeout: Duration::from_secs(30),
            max_concurrent_compactions: 1,
            object_store_max_retries: Some(STORE_RETRIES_MAX),
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: 1,
                min_filter_keys: FILTER_KEYS_MIN,
                compactions_poll_interval: self.compaction_interval,
                max_sst_size: 64 << 20,
                max_fetch_tasks: 1,
                bytes_to_fetch: 512 << 10,
                max_subcompactions: 1,
                compression_codec: Some(CompressionCodec::Lz4),
                object_store_max_retries: Some(STORE_RETRIES_MAX),
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }
    }

    fn garbage_collector(&self) -> GarbageCollectorOptions {
        let older = |times, min_age| {
            let interval = Some(self.garbage_interval * times);
            Some(GarbageCollectorDirectoryOptions { interval, min_age, dry_run: false })
        };
        let every = |times| older(times, self.garbage_min_age);
        GarbageCollectorOptions {
            manifest_options: every(3),
            wal_options: every(1),
            // Every start leaves one. It keeps a writer out that had it in mind to write there before; none waits as
            // long.
            wal_fence_options: older(6, self.garbage_min_age * 10),
            compacted_options: every(3),
            compactions_options: every(3),
            object_store_max_retries: Some(STORE_RETRIES_MAX),
            ..GarbageCollectorOptions::default()
        }
    }
}
