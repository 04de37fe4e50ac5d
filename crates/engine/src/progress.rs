//! How far every task and sink is: read by ingest (back pressure), retention, metrics, and the end of a bounded run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millstream_storage::log::Log;
use tokio::sync::Notify;

/// Positions of one reader (a stage or a sink) of one stream.
#[derive(Debug)]
pub struct ReaderProgress {
    /// Stage id or `sink:name`.
    pub reader: Arc<str>,
    /// The stream it reads.
    pub stream: Arc<str>,
    /// True for stages, which hold back ingest when they fall behind; sinks delay only themselves.
    pub holds_back: bool,
    offsets: Vec<AtomicU64>,
}

impl ReaderProgress {
    /// The offset below which everything is committed and handed on.
    pub fn offset(&self, partition: u32) -> u64 {
        self.offsets[partition as usize].load(Ordering::Acquire)
    }

    /// Number of partitions.
    pub fn partitions(&self) -> u32 {
        self.offsets.len() as u32
    }
}

/// The positions of all readers, and which sources are at their end.
#[derive(Debug, Default)]
pub struct Progress {
    readers: Vec<Arc<ReaderProgress>>,
    sources: BTreeMap<Arc<str>, AtomicBool>,
    /// Woken at every move.
    moved: Notify,
}

impl Progress {
    /// Registers a reader. All of them are registered before anything runs.
    pub fn add_reader(
        &mut self,
        reader: Arc<str>,
        stream: Arc<str>,
        partitions: u32,
        holds_back: bool,
    ) -> Arc<ReaderProgress> {
        let offsets = (0..partitions).map(|_| AtomicU64::new(0)).collect();
        let progress = Arc::new(ReaderProgress { reader, stream, holds_back, offsets });
        self.readers.push(progress.clone());
        progress
    }

    /// Registers a source, not yet at its end.
    pub fn add_source(&mut self, source: Arc<str>) {
        self.sources.insert(source, AtomicBool::new(false));
    }

    /// Says how far a reader is.
    pub fn advance(&self, reader: &ReaderProgress, partition: u32, offset: u64) {
        reader.offsets[partition as usize].store(offset, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Says that a source has read all there is, or that there is more again.
    pub fn set_source_at_end(&self, source: &str, at_end: bool) {
        if let Some(flag) = self.sources.get(source) {
            flag.store(at_end, Ordering::Release);
            self.moved.notify_waiters();
        }
    }

    /// True where every source has read all there is.
    pub fn sources_at_end(&self) -> bool {
        self.sources.values().all(|flag| flag.load(Ordering::Acquire))
    }

    /// All readers.
    pub fn readers(&self) -> &[Arc<ReaderProgress>] {
        &self.readers
    }

    /// The lowest offset that a reader of `stream` still needs; `u64::MAX` where nobody reads it.
    pub fn lowest_offset(&self, stream: &str, partition: u32) -> u64 {
        let of_stream = self.readers.iter().filter(|r| &*r.stream == stream && partition < r.partitions());
        of_stream.map(|r| r.offset(partition)).min().unwrap_or(u64::MAX)
    }

    /// Bytes that the slowest stage is behind in `log`: sinks delay only themselves.
    pub fn backlog(&self, log: &Log) -> u64 {
        let held_back = self.readers.iter().filter(|reader| reader.holds_back && *reader.stream == *log.name());
        let behind =
            |r: &Arc<ReaderProgress>| (0..r.partitions()).map(|p| log.bytes_behind(p, r.offset(p))).sum::<u64>();
        held_back.map(behind).max().unwrap_or(0)
    }

    /// Waits for the next move, at most about 100 ms, so that no wake-up can be missed for good.
    pub async fn moved(&self) {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), self.moved.notified()).await;
    }
}
