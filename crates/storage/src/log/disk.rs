//! The log in files: see the parent module for what is in them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::disk::Disk;
use millstream_core::{Clock, Error, Result};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::limits::{IN_FLIGHT_KIB_MAX, check_append};
use super::reader::Reader;
use super::shared::Shared;
use super::writer::{self, Request};
use super::{Append, Appended, LogOptions, ProducerState, RetainReport, reader, recovery, retention, segment};

const REQUESTS_WAITING_MAX: usize = 256;

/// A stream's log in files. Clones are the same log; the writer stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct DiskLog {
    shared: Arc<Shared>,
    /// None where the log was opened at rest.
    requests: Option<mpsc::Sender<Request>>,
    /// Bounds the payload bytes of appends under way, in KiB.
    in_flight: Arc<Semaphore>,
}

impl DiskLog {
    /// Opens or creates the log in folder `dir`, recovers it from a crash, and starts its writer thread. Blocks.
    ///
    /// # Errors
    /// `Config`: the stream has more partitions than `options` says. `Corruption`: the files do not check.
    /// `Environment`: the disk refuses, or the folder was written by a newer version.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        name: &str,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let doing = |e: Error| e.context(format!("open stream `{name}` in {}", dir.display()));
        let (shared, active) = recovery::open(disk, dir, name, &options, clock.as_ref()).map_err(doing)?;
        let shared = Arc::new(shared);
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        writer::start(shared.clone(), active, options, clock, waiting).map_err(doing)?;
        Ok(Self::assemble(shared, Some(requests)))
    }

    /// Opens the log of a stream that no process is writing, to look at it. Changes nothing on disk; a torn tail is
    /// just not seen. Blocks.
    ///
    /// # Errors
    /// As [`DiskLog::open`]; also where there is no log in `dir`.
    pub fn open_read_only(disk: Arc<dyn Disk>, dir: &Path, name: &str) -> Result<Self> {
        let shared = recovery::open_read_only(disk, dir, name)
            .map_err(|e| e.context(format!("read stream `{name}` in {}", dir.display())))?;
        Ok(Self::assemble(Arc::new(shared), None))
    }

    fn assemble(shared: Arc<Shared>, requests: Option<mpsc::Sender<Request>>) -> Self {
        Self { shared, requests, in_flight: Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX as usize)) }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The number of partitions, dead letters not counted.
    pub fn partitions(&self) -> u32 {
        self.shared.partitions
    }

    /// Stores an append; answers when it is durable and visible to readers. Waits while too much is in flight.
    ///
    /// Appends that are awaited one after another are stored in that order. Where the call is dropped half-way, the
    /// append may or may not be stored.
    ///
    /// # Errors
    /// `Environment`: the disk refused, now or earlier (the log is then of no more use), or the log is closed. `Input`:
    /// larger than the limits. `Bug`: no such partition, or a chunk with neither records nor a watermark.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        let bytes = check_append(&self.shared.name, self.shared.partitions, &append)?;
        let requests = self.requests.as_ref().ok_or_else(|| self.shared.stopped())?;
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, IN_FLIGHT_KIB_MAX);
        let permit = self.in_flight.clone().acquire_many_owned(kib).await.map_err(|_| self.shared.stopped())?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Append { append, reply, _permit: permit };
        requests.send(request).await.map_err(|_| self.shared.stopped())?;
        answer.await.map_err(|_| self.shared.stopped())?
    }

    /// What is stored of a producer; none where it has stored neither a sequence nor a cursor.
    pub fn producer(&self, id: &str) -> Option<ProducerState> {
        self.shared.state.read().producers.get(id).cloned()
    }

    /// The first offset of a partition that is still kept; 0 for an unknown partition.
    pub fn start_offset(&self, partition: u32) -> u64 {
        self.shared.slot(partition).map_or(0, |slot| self.shared.state.read().start(slot))
    }

    /// The offset that the next record of a partition will have; everything below it is durable. 0 for an unknown
    /// partition.
    pub fn end_offset(&self, partition: u32) -> u64 {
        self.shared.slot(partition).map_or(0, |slot| self.shared.state.read().ends[slot])
    }

    /// The first offset whose chunk was appended at or after `time_ms`; the end where there is none. Reads files.
    pub fn offset_at(&self, partition: u32, time_ms: i64) -> Result<u64> {
        reader::offset_at(&self.shared, partition, time_ms)
    }

    /// A reader of a partition from offset `from`, or from the start where that has been deleted.
    ///
    /// # Errors
    /// `Input` where `from` lies beyond the end; `Bug` where there is no such partition.
    pub fn reader(&self, partition: u32, from: u64) -> Result<Reader> {
        Reader::new(self.shared.clone(), partition, from)
    }

    /// Waits until the end of a partition is beyond `end_seen`.
    ///
    /// # Errors
    /// The log has failed, is closed, or was opened at rest, and no more will come.
    pub async fn changed(&self, partition: u32, end_seen: u64) -> Result<()> {
        self.shared.changed(partition, end_seen).await
    }

    /// Deletes the oldest segments that are past their age or size, as long as no consumer still needs them: one that
    /// holds an offset of partition `p` at or above `keep_from(p)` stays, and so do all after it. The newest segment
    /// always stays. Blocks.
    pub fn retain(&self, now_ms: i64, keep_from: &dyn Fn(u32) -> u64) -> Result<RetainReport> {
        retention::retain(&self.shared, now_ms, keep_from)
    }

    /// The file that is being written, where nothing has its name any more: somebody removed or moved it.
    pub fn missing(&self) -> Option<PathBuf> {
        let base_group = self.shared.state.read().active.base_group;
        let path = segment::segment_path(&self.shared.dir, base_group);
        matches!(self.shared.disk.exists(&path), Ok(false)).then_some(path)
    }

    /// The size of the segments, in bytes.
    pub fn bytes(&self) -> u64 {
        self.shared.state.read().bytes()
    }

    /// About how many payload bytes a partition holds from `offset` to its end.
    pub fn bytes_behind(&self, partition: u32, offset: u64) -> u64 {
        self.shared.slot(partition).map_or(0, |slot| self.shared.state.read().bytes_behind(slot, offset))
    }

    /// Stores what was appended before and stops the writer. Later appends are refused; reading goes on working.
    ///
    /// # Errors
    /// The log had failed.
    pub async fn close(&self) -> Result<()> {
        let Some(requests) = &self.requests else { return Ok(()) };
        let (reply, answer) = oneshot::channel();
        if requests.send(Request::Close { reply }).await.is_ok() {
            // An answer that never comes means that the writer has stopped already.
            let _ = answer.await;
        }
        self.shared.failure().map_or(Ok(()), Err)
    }
}
