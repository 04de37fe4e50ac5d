//! What the writer publishes and readers see. No I/O happens under the lock.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use millstream_core::disk::Disk;
use millstream_core::{Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::index::{SegmentIndex, between};
use super::limits::no_partition;
use super::tail::Tail;
use super::{DEAD_LETTERS, ProducerState, Retention};

/// One open stream.
#[derive(Debug)]
pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub name: String,
    pub partitions: u32,
    pub retention: Retention,
    pub read_only: bool,
    pub state: RwLock<State>,
    /// Old segments (first group, length) that are out of the list but may still be on disk.
    pub doomed: Mutex<VecDeque<(u64, u64)>>,
    /// Per slot, the end offset, for those who wait.
    pub progress: Vec<watch::Sender<Progress>>,
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub end: u64,
    /// No more will come.
    pub stopped: bool,
}

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    /// Oldest first; the last one is being written.
    pub segments: VecDeque<Segment>,
    /// Of the last segment; its length is how far readers may read.
    pub active: SegmentIndex,
    /// Per slot, the next offset.
    pub ends: Vec<u64>,
    /// Per slot, payload bytes of all segments since the log was opened, those deleted since included.
    pub payload_bytes: Vec<u64>,
    pub producers: HashMap<Arc<str>, ProducerState>,
    pub tail: Tail,
    pub stopped: Option<Stopped>,
}

/// What must be known of a segment without reading it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub base_group: u64,
    /// Of a sealed segment; the active one's is in its index.
    pub len: u64,
    /// When its last frame was appended; of a sealed segment.
    pub last_time_ms: i64,
    /// Per slot, the next offset when it was begun.
    pub starts: Vec<u64>,
    /// Per slot, [`State::payload_bytes`] when it was begun.
    pub payload_bytes_before: Vec<u64>,
}

/// Why no more is written.
#[derive(Debug, Clone)]
pub(super) enum Stopped {
    Closed,
    Failed(ErrorKind, String),
}

impl State {
    /// The first offset that is kept.
    pub fn start(&self, slot: usize) -> u64 {
        self.segments.front().map_or(0, |segment| segment.starts[slot])
    }

    /// The size of all segments.
    pub fn bytes(&self) -> u64 {
        let sealed = self.segments.len().saturating_sub(1);
        self.segments.iter().take(sealed).map(|s| s.len).sum::<u64>() + self.active.len
    }

    /// The number of the segment that holds `offset`, or would hold it next. `offset` is not below the start.
    pub fn segment_of(&self, slot: usize, offset: u64) -> usize {
        self.segments.partition_point(|s| s.starts[slot] <= offset).saturating_sub(1)
    }

    /// How far segment number `i` may be read.
    pub fn segment_len(&self, i: usize) -> u64 {
        if i + 1 == self.segments.len() { self.active.len } else { self.segments[i].len }
    }

    /// About how many payload bytes lie between `offset` and the end.
    pub fn bytes_behind(&self, slot: usize, offset: u64) -> u64 {
        let offset = offset.clamp(self.start(slot), self.ends[slot]);
        let i = self.segment_of(slot, offset);
        let segment = &self.segments[i];
        let before = match self.segments.get(i + 1) {
            Some(next) => between(
                offset,
                (segment.starts[slot], segment.payload_bytes_before[slot]),
                (next.starts[slot], next.payload_bytes_before[slot]),
            ),
            None => {
                let partition = if slot + 1 == self.ends.len() { DEAD_LETTERS } else { slot as u32 };
                segment.payload_bytes_before[slot] + self.active.payload_bytes_before(partition, offset)
            }
        };
        self.payload_bytes[slot] - before
    }
}

impl Shared {
    /// The place of a partition in the per-partition lists; dead letters come last.
    ///
    /// # Errors
    /// `Bug` where there is no such partition.
    pub fn slot(&self, partition: u32) -> Result<usize> {
        slot(partition, self.partitions).ok_or_else(|| no_partition(&self.name, partition))
    }

    /// Ends writing, for ever, and tells everyone who waits. The first reason stays.
    pub fn stop(&self, why: Stopped) {
        self.state.write().stopped.get_or_insert(why);
        for progress in &self.progress {
            progress.send_modify(|p| p.stopped = true);
        }
    }

    /// The error that stopped the log, if one did.
    pub fn failure(&self) -> Option<Error> {
        match &self.state.read().stopped {
            Some(Stopped::Failed(kind, message)) => Some(Error::new(
                *kind,
                format!(
                    "stream `{}` takes no more records since a write failed: {message}; nothing that was \
                     acknowledged is lost: remove the cause and start again",
                    self.name
                ),
            )),
            _ => None,
        }
    }

    /// The error for a caller who wants more from a log that has stopped.
    pub fn stopped(&self) -> Error {
        self.failure().unwrap_or_else(|| {
            Error::environment(format!("stream `{}` is closed, or was opened to be read only", self.name))
        })
    }

    pub async fn changed(&self, partition: u32, end_seen: u64) -> Result<()> {
        let slot = self.slot(partition)?;
        let mut progress = self.progress[slot].subscribe();
        let seen = progress.wait_for(|p| p.end > end_seen || p.stopped).await.map_err(|_| self.stopped())?;
        if seen.end > end_seen { Ok(()) } else { Err(self.stopped()) }
    }
}

/// See [`Shared::slot`].
pub(super) fn slot(partition: u32, partitions: u32) -> Option<usize> {
    match partition {
        DEAD_LETTERS => Some(partitions as usize),
        _ if partition < partitions => Some(partition as usize),
        _ => None,
    }
}

/// The partition of each slot.
pub(super) fn partition_of_slot(partitions: u32) -> impl Iterator<Item = u32> {
    (0..partitions).chain([DEAD_LETTERS])
}
