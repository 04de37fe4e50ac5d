//! What a model has said before: predictions by model digest and text, in a state store of their own.
//!
//! A prediction is durable before the `predict` step hands it on, hence before the record that it belongs to is
//! committed: whatever crashes then, a replay finds the same answer, and a remote model is not paid twice. A crash in
//! between leaves the entry there and the record to be done again, with a hit. Failures are not kept.
//!
//! No record hangs on what a request to the server was told: such predictions gather in memory, up to
//! [`LATER_BYTES_MAX`], and [`ModelCache::keep_what_waits`] writes them in a commit of their own. A crash loses them.
//!
//! An entry is used for `ttl` after it was written, by the pipeline's clock; [`ModelCache::sweep`] deletes those that
//! are over, and the oldest beyond `max_entries`. An entry that does not read back is a miss and is written again.

mod entry;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_core::{Clock, Error, ErrorKind, Result};
use millstream_models::{CacheConfig, ModelInfo, Prediction};
use millstream_storage::state::{State, StateOptions, Writes, local_store};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

/// How often entries that are over are looked for.
pub const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long predictions that nobody waits for gather for a commit.
pub const LATER: Duration = Duration::from_millis(200);
/// Bytes of them that may gather; what comes on top is not kept.
const LATER_BYTES_MAX: usize = 16 << 20;
/// Keys that an entry takes: its own, and the one in the index.
const WRITES_PER_ENTRY: u64 = 2;
/// Entries that one commit of a sweep deletes at most.
const SWEEP_ENTRIES: usize = 4096;

/// The predictions of one model.
pub struct ModelCache {
    model: Arc<str>,
    state: State,
    clock: Arc<dyn Clock>,
    ttl_us: i64,
    entries_max: Option<u64>,
    /// Entries of the index: as many as predictions, and those that were written again after they were over.
    entries: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    pending: Mutex<Pending>,
    /// The last write that is durable. Whoever holds it commits for all who wait.
    durable: tokio::sync::Mutex<u64>,
    /// Writes that nobody waits for.
    later: Mutex<Writes>,
    is_later: Notify,
}

/// Writes that wait for the next commit.
#[derive(Default)]
struct Pending {
    writes: Writes,
    last: u64,
}

/// What a cache has done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Records that were answered from it, or by the answer to the same text in the same batch.
    pub hits: u64,
    /// Texts that the model was asked for.
    pub misses: u64,
}

impl ModelCache {
    /// Opens the cache of the model called `model` below `folder`.
    ///
    /// # Errors
    /// As [`State::open`].
    pub async fn open(
        (folder, options): (&std::path::Path, &StateOptions),
        model: &Arc<str>,
        config: CacheConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let doing = |e: Error| e.context(format!("open the cache of model {model}"));
        let store = local_store(folder).map_err(doing)?;
        let state = State::open(store, model, options).await.map_err(doing)?;
        let cache = Self {
            model: model.clone(),
            state,
            clock,
            ttl_us: i64::try_from(config.ttl.0.as_micros()).unwrap_or(i64::MAX),
            entries_max: config.max_entries,
            entries: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            pending: Mutex::default(),
            durable: tokio::sync::Mutex::new(0),
            later: Mutex::default(),
            is_later: Notify::new(),
        };
        if cache.entries_max.is_some() {
            cache.entries.store(cache.count().await.map_err(doing)?, Ordering::Relaxed);
        }
        Ok(cache)
    }

    /// What the model in `info` said about each of `texts`, where that is known and not over.
    ///
    /// # Errors
    /// The state can't be read. What does not read back is only missing.
    pub async fn lookup(&self, info: &ModelInfo, texts: &[&str]) -> Result<Vec<Option<Prediction>>> {
        let keys: Vec<Bytes> = texts.iter().map(|text| entry::key(&info.digest, text)).collect();
        let values = match self.state.get_many(&keys).await {
            Err(e) if e.kind() == ErrorKind::Corruption => {
                tracing::warn!(model = %self.model, "the cache does not read back, the model is asked again: {e}");
                return Ok(vec![None; texts.len()]);
            }
            read => read?,
        };
        let now_us = self.clock.now_us();
        let found = keys.iter().zip(values).map(|(key, value)| {
            let value = value?;
            let Some((written_at_us, prediction)) = entry::decode(key, &value, info) else {
                tracing::warn!(model = %self.model, "a cached prediction does not read back; the model is asked again");
                return None;
            };
            (!self.is_over(written_at_us, now_us)).then_some(prediction)
        });
        Ok(found.collect())
    }

    /// Keeps what the model with that digest says about texts. Durable when this returns; commits of callers at the
    /// same time are one.
    ///
    /// # Errors
    /// As [`State::commit`].
    pub async fn keep<'a>(&self, said: impl Iterator<Item = (&'a str, &'a str, &'a Prediction)>) -> Result<()> {
        let last = self.put(said);
        let mut durable = self.durable.lock().await;
        if *durable >= last {
            return Ok(());
        }
        let Pending { writes, last: newest } = {
            let mut pending = self.pending.lock();
            let newest = pending.last;
            std::mem::replace(&mut *pending, Pending { writes: Writes::new(), last: newest })
        };
        if writes.is_empty() {
            return Err(Error::bug(format!("a commit to the cache of model {} was lost", self.model)));
        }
        self.state.commit(writes).await.map_err(|e| e.context(format!("keep predictions of model {}", self.model)))?;
        *durable = newest;
        Ok(())
    }

    /// Keeps the same a moment later, when [`ModelCache::keep_what_waits`] is called. Never waits; what finds no room
    /// is not kept.
    pub fn keep_later<'a>(&self, said: impl Iterator<Item = (&'a str, &'a str, &'a Prediction)>) {
        let now_us = self.clock.now_us();
        let mut later = self.later.lock();
        for (digest, text, prediction) in said {
            if later.bytes() >= LATER_BYTES_MAX {
                break;
            }
            add(&mut later, now_us, digest, text, prediction);
        }
        drop(later);
        self.is_later.notify_one();
    }

    /// Resolves when something waits to be kept.
    pub async fn something_waits(&self) {
        self.is_later.notified().await;
    }

    /// Writes what [`ModelCache::keep_later`] was given so far. What can't be written is lost.
    ///
    /// # Errors
    /// As [`State::commit`].
    pub async fn keep_what_waits(&self) -> Result<()> {
        // As any other commit: not while a sweep looks.
        let _one_at_a_time = self.durable.lock().await;
        let writes = std::mem::take(&mut *self.later.lock());
        if writes.is_empty() {
            return Ok(());
        }
        let added = writes.len() as u64 / WRITES_PER_ENTRY;
        self.state.commit(writes).await.map_err(|e| e.context(format!("keep predictions of model {}", self.model)))?;
        self.entries.fetch_add(added, Ordering::Relaxed);
        Ok(())
    }

    /// Queues writes; the number of the last one.
    fn put<'a>(&self, said: impl Iterator<Item = (&'a str, &'a str, &'a Prediction)>) -> u64 {
        let now_us = self.clock.now_us();
        let mut pending = self.pending.lock();
        let before = pending.writes.len();
        for (digest, text, prediction) in said {
            add(&mut pending.writes, now_us, digest, text, prediction);
        }
        let added = pending.writes.len() - before;
        if added == 0 {
            return 0;
        }
        self.entries.fetch_add(added as u64 / WRITES_PER_ENTRY, Ordering::Relaxed);
        pending.last += 1;
        pending.last
    }

    /// Counts records that were answered, and texts that the model was asked for.
    pub fn count_lookups(&self, hits: u64, misses: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// What the cache has done.
    pub fn stats(&self) -> CacheStats {
        CacheStats { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Deletes entries that are over, and the oldest beyond the limit. Gives how many.
    ///
    /// # Errors
    /// As [`State::commit`].
    pub async fn sweep(&self) -> Result<u64> {
        let mut swept = 0;
        loop {
            let deleted = self.sweep_some().await?;
            swept += deleted as u64;
            if deleted < SWEEP_ENTRIES {
                return Ok(swept);
            }
        }
    }

    async fn sweep_some(&self) -> Result<usize> {
        // No commit in between: an entry that is written again while this looks would be deleted with the old one.
        let _no_commits = self.durable.lock().await;
        let now_us = self.clock.now_us();
        let mut too_many =
            self.entries_max.map_or(0, |max| self.entries.load(Ordering::Relaxed).saturating_sub(max)) as usize;
        let mut scan = self.state.scan(entry::index_range()).await?;
        let mut writes = Writes::new();
        let mut deleted = 0;
        while deleted < SWEEP_ENTRIES
            && let Some((index_key, _)) = scan.next().await?
        {
            let known = entry::of_index_key(&index_key);
            if let Some((written_at_us, key)) = known {
                if too_many == 0 && !self.is_over(written_at_us, now_us) {
                    break;
                }
                // Written again since then: it has a later place in the index.
                let value = self.state.get(&key).await?;
                let is_newer = value
                    .and_then(|value| entry::written_at_us(&key, &value))
                    .is_some_and(|newest| newest != written_at_us);
                if !is_newer {
                    writes.delete(key);
                }
            }
            writes.delete(index_key);
            too_many = too_many.saturating_sub(1);
            deleted += 1;
        }
        self.state.commit(writes).await?;
        // Saturating: two who wrote the same text at the same moment have counted it twice.
        let _ = self
            .entries
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entries| Some(entries.saturating_sub(deleted as u64)));
        Ok(deleted)
    }

    async fn count(&self) -> Result<u64> {
        let mut scan = self.state.scan(entry::index_range()).await?;
        let mut entries = 0;
        while scan.next().await?.is_some() {
            entries += 1;
        }
        Ok(entries)
    }

    fn is_over(&self, written_at_us: i64, now_us: i64) -> bool {
        written_at_us.saturating_add(self.ttl_us) <= now_us
    }

    /// Writes what waits, and closes the state.
    ///
    /// # Errors
    /// As [`State::commit`] and [`State::close`].
    pub async fn close(&self) -> Result<()> {
        let kept = self.keep_what_waits().await;
        kept.and(self.state.close().await)
    }
}

/// An entry, and its place in the index.
fn add(writes: &mut Writes, now_us: i64, digest: &str, text: &str, prediction: &Prediction) {
    let key = entry::key(digest, text);
    writes.put(entry::index_key(&key, now_us), Bytes::new());
    writes.put(key.clone(), entry::encode(&key, now_us, prediction));
}

impl std::fmt::Debug for ModelCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelCache({})", self.model)
    }
}

#[cfg(test)]
mod tests;
