//! The log: a durable, partitioned, replayable stream of batches of records.
//!
//! # Promises
//!
//! * [`StreamLog::append`] answers when everything in the [`Append`] (chunks of any partitions, dead letters, the
//!   producer's sequence and cursor) is durable and visible; after a crash all of it is there or none of it.
//! * Offsets of a partition are dense and start at 0: the next chunk begins where the last one ended. A record takes one
//!   offset, and so does a control chunk, which has no records (see [`Chunk`]).
//! * Every chunk names its producer, sequence and number in its append, so that readers can drop repeats themselves.
//! * An append whose sequence is not above its producer's last one is dropped and answered as a duplicate.
//! * Bytes that do not read back as written are an error that names file and position, never silence and never wrong
//!   data. The one exception is the end of the newest segment: a frame there that is not whole was never acknowledged
//!   (or can't be told from one that was not) and is cut off when the log is opened, with a warning.
//! * After a failed write or sync the log takes no more appends; nothing is tried again on the same file.
//!
//! # Limits
//!
//! One process at a time. A chunk holds up to 1 GiB and 2^32 - 1 records, an append up to 65,536 chunks, a target or
//! producer id up to 65,535 bytes, the cursors of all producers of a stream together about 1 GiB. Appends in flight are
//! bounded by 32 MiB, or one append where that is larger; recent chunks kept for readers by 8 MiB.
//!
//! # Files
//!
//! ```text
//! {dir}/format                     text: "millstream log format 2\n"
//! {dir}/{base_group:020}.seg       frames, one after another; only the last segment grows
//! {dir}/{base_group:020}.idx       where what is in a sealed segment; rebuilt from it when missing or damaged
//! {dir}/*.tmp                      left by a crash, removed at open
//! ```
//!
//! A segment is shared by all partitions, so that one sync makes a group of appends durable, whatever partitions they
//! touch. The unit of writing is a **frame**: one group commit. Frames are numbered (*groups*) without a gap across the
//! segments of a stream; a segment is named by its first. That first frame is a *snapshot*: every producer's sequence
//! and cursor, and every partition's next offset. Hence only the last segment is read through at open, and old segments
//! can be deleted without losing state.
//!
//! # Bytes of a frame (little-endian)
//!
//! ```text
//! header, 64 bytes
//!    0  4  magic "MSLF"
//!    4  2  format version, 2
//!    6  2  kind: 0 data, 1 snapshot
//!    8  8  group
//!   16  8  position of this header in the segment
//!   24  8  append time, ms since the epoch; never decreases
//!   32  4  meta length            36  4  CRC32C of meta
//!   40  8  frame length: header + meta + payloads + zeros up to a multiple of 8
//!   48  4  chunks (data) or partitions (snapshot) in meta
//!   52  4  producers in meta      56  4  partitions of the stream      60  4  CRC32C of bytes 0..60
//! meta
//!   per append (data) or producer (snapshot): id length u16, id, flags u8 (1 sequence, 2 cursor), [sequence u64]
//!   data, per chunk: append u32, partition u32, records u32, first offset u64, schema u64, payload length u32,
//!                    payload CRC32C u32, flags u8 (1 event time, 2 target, 4 watermark, 8 idle),
//!                    [event time µs i64], [target length u16, target], [watermark µs i64]
//!   snapshot, per partition: partition u32, next offset u64
//!   per append or producer with a cursor: entries u32, and per entry:
//!                 key length u32, key, flag u8 (0 removed, 1 set), [value length u32, value]
//! payloads, in the order of the chunks
//! ```
//!
//! One chain of CRCs covers a frame: the header's covers the meta's, which covers the payloads'. A reader of one
//! partition can so skip the payloads of others without reading them. A header is believed only at the position that it
//! names, so that a payload that contains a frame is not taken for one.
//!
//! # Recovery
//!
//! A frame is written only after the one before it is durable. So when the last segment ends in something that is not a
//! whole frame, and nothing behind it shows that it once was (a later header, bytes beyond its end), then it was never
//! acknowledged and is cut off. Everything else that does not check is corruption. The last good frame is written and
//! synced once more, since a crash between write and sync may have left it in the page cache only.

mod check;
mod frame;
mod index;
mod reader;
mod recovery;
mod retention;
mod segment;
mod shared;
mod tail;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::disk::Disk;
use millstream_core::{Clock, Error, Result};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::check::damage;
pub use self::reader::Reader;
pub use self::retention::RetainReport;
use self::shared::Shared;
pub use self::types::{Append, Appended, Chunk, LogChunk, LogOptions, ProducerState, Retention, Watermark};
use self::writer::Request;

/// The partition that holds a stream's dead letters.
pub const DEAD_LETTERS: u32 = u32::MAX;

/// The largest payload of a chunk.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const CHUNKS_PER_APPEND_MAX: usize = 1 << 16;
const META_BYTES_MAX: usize = 1 << 30;
const TAG_BYTES_MAX: usize = u16::MAX as usize;
const IN_FLIGHT_KIB_MAX: u32 = 32 << 10;
const REQUESTS_WAITING_MAX: usize = 256;

/// A stream's log. Clones are the same log; the writer stops when the last one is dropped.
#[derive(Debug, Clone)]
pub struct StreamLog {
    shared: Arc<Shared>,
    /// None where the log was opened at rest.
    requests: Option<mpsc::Sender<Request>>,
    /// Bounds the payload bytes of appends under way, in KiB.
    in_flight: Arc<Semaphore>,
}

impl StreamLog {
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

    /// Opens the log of a stream that no process is writing, to look at it. Changes nothing on disk; a torn tail is just
    /// not seen. Blocks.
    ///
    /// # Errors
    /// As [`StreamLog::open`]; also where there is no log in `dir`.
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
        let bytes = self.check(&append)?;
        let requests = self.requests.as_ref().ok_or_else(|| self.shared.stopped())?;
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, IN_FLIGHT_KIB_MAX);
        let permit = self.in_flight.clone().acquire_many_owned(kib).await.map_err(|_| self.shared.stopped())?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Append { append, reply, _permit: permit };
        requests.send(request).await.map_err(|_| self.shared.stopped())?;
        answer.await.map_err(|_| self.shared.stopped())?
    }

    /// Checks an append against the limits; its size in bytes, roughly.
    fn check(&self, append: &Append) -> Result<usize> {
        let name = &self.shared.name;
        if append.chunks.len() > CHUNKS_PER_APPEND_MAX || append.producer.len() > TAG_BYTES_MAX {
            return Err(Error::bug(format!("append to `{name}` with too many chunks or too long a producer id")));
        }
        let mut payload = 0;
        let mut meta: usize = append.cursor.iter().map(|(k, v)| 9 + k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
        for chunk in &append.chunks {
            self.shared.slot(chunk.partition)?;
            if let Some(fault) = chunk.fault() {
                return Err(Error::bug(format!("append to `{name}` with {fault}")));
            }
            let tag = chunk.target.as_ref().map_or(0, |t| t.len());
            if chunk.payload.len() > PAYLOAD_BYTES_MAX || tag > TAG_BYTES_MAX {
                return Err(Error::input(format!(
                    "a batch of {} bytes for stream `{name}` is beyond the limit of {PAYLOAD_BYTES_MAX} bytes",
                    chunk.payload.len()
                )));
            }
            meta += tag + 64;
            payload += chunk.payload.len();
        }
        if meta > META_BYTES_MAX {
            return Err(Error::input(format!("an append to stream `{name}` has a cursor or targets beyond 1 GiB")));
        }
        Ok(meta + payload)
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
