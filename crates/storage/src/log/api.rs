//! The log as everybody but this module knows it: few promises, so that another system can stand in for the files. What
//! each of them must keep is in `docs/adr/0007-what-a-log-promises.md`, and in the tests that all of them pass
//! (`tests/conformance.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::blocking::apart;
use millstream_core::disk::Disk;
use millstream_core::{Clock, Result};

use super::memory::{MemoryLog, MemoryReader};
use super::reader::Reader;
use super::{Append, Appended, DiskLog, LogChunk, LogOptions, ProducerState, RetainReport};

/// A stream's log. Clones are the same log.
#[derive(Debug, Clone)]
pub enum Log {
    /// In files of this machine.
    Disk(DiskLog),
    /// In the memory of this process.
    Memory(MemoryLog),
}

impl Log {
    /// Opens or creates the log in folder `dir`: see [`DiskLog::open`]. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        name: &str,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        DiskLog::open(disk, dir, name, options, clock).map(Self::Disk)
    }

    /// Opens the log of a stream that no process is writing: see [`DiskLog::open_read_only`]. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn open_read_only(disk: Arc<dyn Disk>, dir: &Path, name: &str) -> Result<Self> {
        DiskLog::open_read_only(disk, dir, name).map(Self::Disk)
    }

    /// A new log in memory.
    pub fn memory(name: &str, options: LogOptions, clock: Arc<dyn Clock>) -> Self {
        Self::Memory(MemoryLog::new(name, options, clock))
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Disk(log) => log.name(),
            Self::Memory(log) => log.name(),
        }
    }

    /// The number of partitions, dead letters not counted.
    pub fn partitions(&self) -> u32 {
        match self {
            Self::Disk(log) => log.partitions(),
            Self::Memory(log) => log.partitions(),
        }
    }

    /// Stores an append; answers when it is durable and visible to readers. Waits while too much is in flight.
    ///
    /// Appends that are awaited one after another are stored in that order. Where the call is dropped half-way, the
    /// append may or may not be stored.
    ///
    /// # Errors
    /// `Environment`: the log refused, now or earlier (it is then of no more use), or is closed. `Input`: larger than
    /// the limits. `Bug`: no such partition, or a chunk with neither records nor a watermark.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        match self {
            Self::Disk(log) => log.append(append).await,
            Self::Memory(log) => log.append(append),
        }
    }

    /// What is stored of a producer; none where it has stored neither a sequence nor a cursor.
    pub fn producer(&self, id: &str) -> Option<ProducerState> {
        match self {
            Self::Disk(log) => log.producer(id),
            Self::Memory(log) => log.producer(id),
        }
    }

    /// The first offset of a partition that is still kept; 0 for an unknown partition.
    pub fn start_offset(&self, partition: u32) -> u64 {
        match self {
            Self::Disk(log) => log.start_offset(partition),
            Self::Memory(log) => log.bounds(partition).0,
        }
    }

    /// The offset that the next record of a partition will have; everything below it is durable. 0 for an unknown
    /// partition.
    pub fn end_offset(&self, partition: u32) -> u64 {
        match self {
            Self::Disk(log) => log.end_offset(partition),
            Self::Memory(log) => log.bounds(partition).1,
        }
    }

    /// The first offset whose chunk was appended at or after `time_ms`; the end where there is none.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub async fn offset_at(&self, partition: u32, time_ms: i64) -> Result<u64> {
        match self.clone() {
            Self::Disk(log) => apart(move || log.offset_at(partition, time_ms)).await,
            Self::Memory(log) => log.offset_at(partition, time_ms),
        }
    }

    /// A reader of a partition from offset `from` on. Whoever goes on reading keeps it: it knows its place.
    ///
    /// # Errors
    /// `Input` where `from` lies beyond the end; `Bug` where there is no such partition.
    pub fn reader(&self, partition: u32, from: u64) -> Result<LogReader> {
        Ok(LogReader(match self {
            Self::Disk(log) => Kind::Disk(log.reader(partition, from)?),
            Self::Memory(log) => Kind::Memory(log.reader(partition, from)?),
        }))
    }

    /// Waits until the end of a partition is beyond `end_seen`.
    ///
    /// # Errors
    /// The log has failed, is closed, or was opened at rest, and no more will come.
    pub async fn changed(&self, partition: u32, end_seen: u64) -> Result<()> {
        match self {
            Self::Disk(log) => log.changed(partition, end_seen).await,
            Self::Memory(log) => log.changed(partition, end_seen).await,
        }
    }

    /// Deletes the oldest records that are past their age or size, as long as no reader still needs them: what holds an
    /// offset of partition `p` at or above `keep_from(p)` stays, and so does all after it. The newest part always
    /// stays. Blocks.
    ///
    /// # Errors
    /// The log was opened to be read only, or its disk refuses.
    pub fn blocking_retain(&self, now_ms: i64, keep_from: &dyn Fn(u32) -> u64) -> Result<RetainReport> {
        match self {
            Self::Disk(log) => log.retain(now_ms, keep_from),
            Self::Memory(log) => Ok(log.retain(now_ms, keep_from)),
        }
    }

    /// The file that is being written, where nothing has its name any more: somebody removed or moved it.
    pub fn missing(&self) -> Option<PathBuf> {
        match self {
            Self::Disk(log) => log.missing(),
            Self::Memory(_) => None,
        }
    }

    /// How much it holds, in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Disk(log) => log.bytes(),
            Self::Memory(log) => log.bytes(),
        }
    }

    /// About how many payload bytes a partition holds from `offset` to its end.
    pub fn bytes_behind(&self, partition: u32, offset: u64) -> u64 {
        match self {
            Self::Disk(log) => log.bytes_behind(partition, offset),
            Self::Memory(log) => log.bytes_behind(partition, offset),
        }
    }

    /// Stores what was appended before and takes no more. Later appends are refused; reading goes on working.
    ///
    /// # Errors
    /// The log had failed.
    pub async fn close(&self) -> Result<()> {
        match self {
            Self::Disk(log) => log.close().await,
            Self::Memory(log) => {
                log.close();
                Ok(())
            }
        }
    }
}

/// Reads the chunks of one partition, in order. Not tied to the writer: it can be used after the log is closed.
#[derive(Debug)]
pub struct LogReader(Kind);

#[derive(Debug)]
enum Kind {
    Disk(Reader),
    Memory(MemoryReader),
}

impl LogReader {
    /// The offset that comes next.
    pub fn position(&self) -> u64 {
        match &self.0 {
            Kind::Disk(reader) => reader.position(),
            Kind::Memory(reader) => reader.position,
        }
    }

    /// Goes to another offset. One below the start is moved up to it by the next read, one at or beyond the end reads
    /// nothing until the log gets there.
    pub fn seek(&mut self, offset: u64) {
        match &mut self.0 {
            Kind::Disk(reader) => reader.seek(offset),
            Kind::Memory(reader) => reader.position = offset,
        }
    }

    /// How many offsets this reader has missed since the last call: retention had removed them before it got there.
    pub fn skipped(&mut self) -> u64 {
        match &mut self.0 {
            Kind::Disk(reader) => reader.skipped(),
            Kind::Memory(reader) => std::mem::take(&mut reader.skipped),
        }
    }

    /// The next chunks, whole and in order: as many as are at hand and within `bytes_max`, but at least one; none at
    /// the end. The first may begin before the wanted offset. What is not in memory is read on a thread for that. Where
    /// the call is dropped, nothing has been read.
    ///
    /// # Errors
    /// `Corruption` names file and position; `Environment` where the disk refuses. The position stays.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Vec<LogChunk>> {
        match self.read_kept(bytes_max) {
            Some(chunks) => Ok(chunks),
            None => self.apart(move |reader| reader.blocking_read(bytes_max)).await,
        }
    }

    /// The same from memory; `None` where the disk has to be asked.
    pub fn read_kept(&mut self, bytes_max: usize) -> Option<Vec<LogChunk>> {
        match &mut self.0 {
            Kind::Disk(reader) => reader.read_kept(bytes_max).ok(),
            Kind::Memory(reader) => Some(reader.read(bytes_max)),
        }
    }

    /// The same, waiting for the disk where that is asked. For threads that may block.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn blocking_read(&mut self, bytes_max: usize) -> Result<Vec<LogChunk>> {
        match &mut self.0 {
            Kind::Disk(reader) => reader.read(bytes_max),
            Kind::Memory(reader) => Ok(reader.read(bytes_max)),
        }
    }

    /// Does something with the reader on a thread that may block. Where it fails or the call is dropped, the reader
    /// stays where it is.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn apart<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut reader = Self(match &mut self.0 {
            Kind::Disk(reader) => Kind::Disk(reader.take()),
            Kind::Memory(reader) => Kind::Memory(reader.clone()),
        });
        let (reader, done) = apart(move || work(&mut reader).map(|done| (reader, done))).await?;
        *self = reader;
        Ok(done)
    }
}
