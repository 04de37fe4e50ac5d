//! Keyed state of one partition of one stage: an ordered map from bytes to bytes, changed by atomic, durable commits.
//!
//! The engine is SlateDB over an object store; this module is the only one that names it. One [`State`] is one path.
//! Opening a path takes it over: a writer that had it open is fenced, and its next commit fails. What was not committed
//! is never seen by a read, here or elsewhere.
//!
//! Limits: keys of 1 to 65,535 bytes, values up to 4 GiB − 1. Memory: about four times `memtable_bytes`, and what all
//! states of the process share ([`MemoryBudget`]).

mod cache;
mod check;
mod clock;
mod closed;
mod damage;
mod failure;
mod local;
mod open_files;
mod parts;
mod reader;
mod seal;
mod settings;
mod whole;

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::{Error, Result, ResultExt};
use slatedb::config::{DurabilityLevel, ReadOptions, ScanOptions, SstBlockSize};
use slatedb::{Db, DbIterator, WriteBatch};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;

pub(crate) use cache::BlockCache;
pub use local::{StateStore, local_store};
pub use reader::{StateReader, StateView};
pub use settings::StateOptions;

use crate::keyed::MemoryBudget;
use failure::Home;

/// Key of the format marker. Tables and tasks use keys that begin with a letter; this one sorts in front of them.
const FORMAT_KEY: &[u8] = b"\0format";
const FORMAT: u8 = 1;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// How many reads a task of [`State::get_many`] has in flight.
const READS_IN_FLIGHT: usize = 32;
/// So few keys are read by one task.
const KEYS_PER_TASK_MIN: usize = 64;
/// A commit that has not become durable by then never will: its retries are long over.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Blocks of the engine's tables. An index of smaller ones would not stay in memory with millions of keys.
const BLOCK_SIZE: SstBlockSize = SstBlockSize::Block16Kib;
/// What a scan reads at a time, per table of the engine.
const SCAN_READ_AHEAD_BYTES: usize = 256 << 10;

/// The state of one partition of one stage. Clones are handles to the same state.
#[derive(Clone)]
pub struct State {
    db: Db,
    home: Home,
    memory: MemoryBudget,
}

impl State {
    /// Opens the state at `path` of `store`, creates it where there is none, and fences whoever has it open.
    ///
    /// # Errors
    /// `Environment` where the store can't be used or the state was written by a newer version; `Corruption` where
    /// stored data does not read back.
    pub async fn open(store: StateStore, path: &str, options: &StateOptions) -> Result<Self> {
        store.damage.forget(path);
        let home = Home::new(store, path);
        home.check_whole().await?;
        let builder = Db::builder(path, home.store.objects.clone())
            .with_settings(options.engine())
            .with_sst_block_size(BLOCK_SIZE)
            .with_system_clock(home.store.clock.clone())
            .with_db_cache(cache::BudgetedBlocks::new(&options.memory), options.memory.scope().into());
        // Boxed: the engine's futures are large, and callers hold many of ours.
        let db = home.started(Box::pin(builder.build()), "open").await?;
        let state = Self { db, home, memory: options.memory.clone() };
        match state.get(FORMAT_KEY).await? {
            Some(format) => check_format(&format).doing(|| format!("open state {path}"))?,
            None => {
                let mut writes = Writes::new();
                writes.put(FORMAT_KEY, vec![FORMAT]);
                state.commit(writes).await?;
            }
        }
        Ok(state)
    }

    /// The committed value of `key`.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let got = Box::pin(self.db.get_with_options(key, &read_options())).await;
        self.home.told(got, "read").await
    }

    /// The committed values of `keys`, in their order; the reads run side by side, a bounded number at a time.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let state = self.clone();
        side_by_side(keys, move |key| {
            let state = state.clone();
            async move { state.get(&key).await }
        })
        .await
    }

    /// The committed entries with keys in `range`, in key order, as they are now: later commits do not show.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub async fn scan(&self, range: impl RangeBounds<Bytes>) -> Result<StateScan> {
        let (range, options) = (bounds(&range), scan_options());
        let iter = Box::pin(self.db.scan_with_options(range, &options)).await;
        let iter = self.home.told(iter, "scan").await?;
        Ok(StateScan { iter, home: self.home.clone() })
    }

    /// Applies all writes in one step. They are durable when this returns; a crash before that leaves all or none.
    ///
    /// # Errors
    /// `Environment` where the disk is full or read-only, or another process has taken the state over: this handle is
    /// then of no further use. Whether the writes will be seen after the next open is unknown.
    pub async fn commit(&self, writes: Writes) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let Writes { batch, after, .. } = writes;
        let commit = async {
            self.db.write(batch).await?;
            // The engine would wait for its flush interval to pass; we ask for the write-ahead log now.
            self.db.flush().await
        };
        match tokio::time::timeout(COMMIT_TIMEOUT, Box::pin(commit)).await {
            Ok(done) => {
                self.home.told(done, "commit to").await?;
                after.into_iter().for_each(|(who, group)| who.durable(group));
                Ok(())
            }
            Err(_) => Err(Error::environment(format!(
                "commit to state {}: writes did not become durable within {} s: check the disk or the object store",
                self.path(),
                COMMIT_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Writes out what is only in the write-ahead log, so that the next open is fast, and stops the background work.
    /// Nothing is lost without it.
    ///
    /// # Errors
    /// As for [`Self::commit`].
    pub async fn close(&self) -> Result<()> {
        let closed = Box::pin(self.db.close()).await;
        self.home.told(closed, "close").await
    }

    /// The memory that it shares with all states of the process.
    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Where the state lives in its store.
    pub fn path(&self) -> &str {
        &self.home.path
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("path", &self.home.path).finish_non_exhaustive()
    }
}

/// Who shows writes before they are durable.
pub(crate) trait AfterCommit: std::fmt::Debug + Send + Sync {
    /// The writes of `group` are durable, and reads see them.
    fn durable(&self, group: u64);
}

/// Writes that are committed together. The last write to a key wins.
#[derive(Debug, Default)]
pub struct Writes {
    batch: WriteBatch,
    len: usize,
    bytes: usize,
    /// Who is told when they are durable, with its own number for them.
    after: Vec<(Arc<dyn AfterCommit>, u64)>,
}

impl Writes {
    /// No writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`. The key is 1 to [`KEY_BYTES_MAX`] bytes long.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.len += 1;
        self.bytes += key.len() + value.len();
        self.batch.put_bytes(key, value);
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        self.len += 1;
        self.bytes += key.len();
        self.batch.delete(key);
    }

    /// The number that `who` has for these writes, made by `begin` where it has none yet. It is told when they are
    /// durable.
    pub(crate) fn group(&mut self, who: Arc<dyn AfterCommit>, begin: impl FnOnce() -> u64) -> u64 {
        let is_known =
            |known: &&(Arc<dyn AfterCommit>, u64)| std::ptr::addr_eq(Arc::as_ptr(&known.0), Arc::as_ptr(&who));
        if let Some((_, group)) = self.after.iter().find(is_known) {
            return *group;
        }
        let group = begin();
        self.after.push((who, group));
        group
    }

    /// Number of calls of [`Self::put`] and [`Self::delete`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Entries in key order.
pub struct StateScan {
    iter: DbIterator,
    home: Home,
}

impl StateScan {
    /// The next entry; `None` behind the last.
    ///
    /// # Errors
    /// As for [`State::open`].
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        let next = self.iter.next().await;
        let next = self.home.told(next, "scan").await?;
        Ok(next.map(|entry| (entry.key, entry.value)))
    }
}

impl std::fmt::Debug for StateScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateScan").field("path", &self.home.path).finish_non_exhaustive()
    }
}

/// What `read` gives for each of `keys`, in their order. What lies side by side is read by one task, which finds it in
/// the same blocks; there is one for each thread of the runtime where the keys are many, since blocks must be checked
/// and unpacked.
async fn side_by_side<F>(
    keys: &[Bytes],
    read: impl Fn(Bytes) -> F + Clone + Send + 'static,
) -> Result<Vec<Option<Bytes>>>
where
    F: Future<Output = Result<Option<Bytes>>> + Send + 'static,
{
    let read = move |key| {
        let read = read.clone();
        async move {
            // Most reads find what they need in memory: without this, other tasks would wait for all of them.
            consume_budget().await;
            read(key).await
        }
    };
    let read = |keys: &[Bytes]| stream::iter(keys.to_vec()).map(read.clone()).buffered(READS_IN_FLIGHT).try_collect();
    let tasks = Handle::current().metrics().num_workers().min(keys.len() / KEYS_PER_TASK_MIN);
    if tasks <= 1 {
        return read(keys).await;
    }
    // They end with this future.
    let mut running = JoinSet::new();
    for (part, keys) in keys.chunks(keys.len().div_ceil(tasks)).enumerate() {
        let read = read(keys);
        running.spawn(async move { (part, read.await) });
    }
    let mut parts = running.join_all().await;
    parts.sort_unstable_by_key(|(part, _)| *part);
    let mut values = Vec::with_capacity(keys.len());
    for (_, read) in parts {
        let read: Vec<Option<Bytes>> = read?;
        values.extend(read);
    }
    Ok(values)
}

fn check_format(marker: &[u8]) -> Result<()> {
    match marker {
        [FORMAT] => Ok(()),
        [newer] if *newer > FORMAT => Err(Error::environment(format!(
            "written by a newer Millstream (state format {newer}, this one reads up to {FORMAT}): use that version"
        ))),
        _ => Err(Error::corruption("the format marker does not read back")),
    }
}

/// Reads see only what is durable: what a crash could still take back is not visible.
fn read_options() -> ReadOptions {
    ReadOptions::new().with_durability_filter(DurabilityLevel::Remote)
}

fn scan_options() -> ScanOptions {
    ScanOptions::new().with_durability_filter(DurabilityLevel::Remote).with_read_ahead_bytes(SCAN_READ_AHEAD_BYTES)
}

fn bounds(range: &impl RangeBounds<Bytes>) -> (Bound<Bytes>, Bound<Bytes>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

#[cfg(test)]
mod tests;
