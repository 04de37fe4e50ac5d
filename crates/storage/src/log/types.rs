//! What goes into a log, and what comes out.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::source::{Cursor, CursorDelta};

/// How to keep a stream.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The number of partitions, at least 1; dead letters not counted. Can grow, not shrink.
    pub partitions: u32,
    /// A segment that would grow beyond this is sealed and a new one begun.
    pub segment_bytes_max: u64,
    /// What [`super::Log::blocking_retain`] deletes.
    pub retention: Retention,
    /// Sync before an append is answered. Without, a power cut can lose and damage data: for benchmarks only.
    pub sync: bool,
}

impl LogOptions {
    /// Segments of 64 MiB, everything kept, synced.
    pub fn new(partitions: u32) -> Self {
        Self { partitions, segment_bytes_max: 64 << 20, retention: Retention::default(), sync: true }
    }
}

/// How long segments are kept; without limits, for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose newest frame is older than this may go.
    pub age_ms: Option<i64>,
    /// The oldest segments may go while the stream's files are larger than this together.
    pub bytes: Option<u64>,
}

/// What is to be stored in one atomic step.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// Who appends. Sequences and cursors are kept by producer, and every chunk names it.
    pub producer: Arc<str>,
    /// Grows with every append of the producer, gaps allowed; none where repeats are no concern.
    pub sequence: Option<u64>,
    /// Changes to the producer's cursor.
    pub cursor: CursorDelta,
    /// The records. May be empty where only sequence or cursor move.
    pub chunks: Vec<Chunk>,
}

/// How far the event time of a producer is, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watermark {
    /// Whatever it appends from here on has an event time of at least this, microseconds since the epoch; what has not
    /// is late.
    At(i64),
    /// It has nothing to say for now: nobody waits for it, until its next rows or watermark.
    Idle,
    /// It is at its end: nobody waits for it, and what waits for its time need wait no longer. Should it go on all the
    /// same, what it appends is late as it was before.
    End,
}

/// A record that came late: the watermark was beyond its event time. Few are, so each is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    /// Its number in the chunk.
    pub row: u32,
    /// The watermark of its source that was in front of it, microseconds since the epoch. Whether the record is too
    /// late for something is asked of this, so the answer is the same however records were cut into chunks.
    pub watermark_us: i64,
}

/// A batch of records for one partition, or a *control chunk*: no records, only how far event time is.
///
/// A control chunk takes one offset of its own. So every chunk has a place that no other has, and a reader that goes on
/// from where the last chunk ended gets each chunk once, whatever it holds.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The partition, or [`super::DEAD_LETTERS`].
    pub partition: u32,
    /// The number of records in the payload: the chunk takes that many offsets. 0 for a control chunk.
    pub count: u32,
    /// The latest event time of the records, microseconds since the epoch; none where they have none.
    pub event_time_max_us: Option<i64>,
    /// How far the producer's event time is behind these records. A control chunk has one.
    pub watermark: Option<Watermark>,
    /// The records that came behind their source's watermark, by their number.
    pub late: Arc<[Late]>,
    /// The step that a redriven record is meant for.
    pub target: Option<Arc<str>>,
    /// Which schema the payload was written with; belongs to the caller.
    pub schema: u64,
    /// The records, encoded and compressed by the caller. Kept in memory for a while: a slice of a larger buffer keeps
    /// all of that alive.
    pub payload: Bytes,
}

impl Chunk {
    /// `count` records of `schema` for `partition`.
    pub fn rows(partition: u32, count: u32, schema: u64, payload: Bytes) -> Self {
        Self {
            partition,
            count,
            event_time_max_us: None,
            watermark: None,
            late: [].into(),
            target: None,
            schema,
            payload,
        }
    }

    /// A chunk without records.
    pub fn control(partition: u32, watermark: Watermark) -> Self {
        Self { watermark: Some(watermark), ..Self::rows(partition, 0, 0, Bytes::new()) }
    }

    /// What is wrong with it, whatever log it is for.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let has_late = self.late.last().is_some_and(|late| late.row >= self.count);
        let is_bare = self.late.is_empty() && self.target.is_none() && self.event_time_max_us.is_none();
        let is_empty = self.payload.is_empty() && is_bare;
        match (self.count, self.watermark) {
            (0, None) => Some("a chunk of no records and no watermark"),
            (0, Some(_)) if self.partition == super::DEAD_LETTERS => Some("a watermark among dead letters"),
            (0, Some(_)) if !is_empty => Some("a control chunk that holds something"),
            (1.., Some(Watermark::Idle | Watermark::End)) => Some("records of a producer that has no more"),
            _ if has_late => Some("a late record that it does not hold"),
            _ => None,
        }
    }
}

/// How many offsets a chunk of `count` records takes.
pub(super) fn span(count: u32) -> u64 {
    u64::from(count.max(1))
}

/// The answer to an append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record of each chunk; empty for a duplicate.
    pub first_offsets: Vec<u64>,
    /// The sequence had been seen before: nothing was written.
    pub duplicate: bool,
}

/// What the log keeps of a producer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerState {
    /// The last sequence that was stored.
    pub sequence: Option<u64>,
    /// The place that the producer had reached with it.
    pub cursor: Cursor,
}

/// A chunk, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The partition.
    pub partition: u32,
    /// The offset of the first record, or of the control chunk.
    pub base_offset: u64,
    /// The number of records; 0 for a control chunk.
    pub count: u32,
    /// When the chunk was stored, milliseconds since the epoch; never decreases along a stream.
    pub append_time_ms: i64,
    /// See [`Append::producer`].
    pub producer: Arc<str>,
    /// See [`Append::sequence`].
    pub sequence: Option<u64>,
    /// The number of the chunk in its append, from 0 on: together with the sequence it tells the chunks of a producer
    /// apart.
    pub index: u32,
    /// See [`Chunk::event_time_max_us`].
    pub event_time_max_us: Option<i64>,
    /// See [`Chunk::watermark`].
    pub watermark: Option<Watermark>,
    /// See [`Chunk::late`].
    pub late: Arc<[Late]>,
    /// See [`Chunk::target`].
    pub target: Option<Arc<str>>,
    /// See [`Chunk::schema`].
    pub schema: u64,
    /// See [`Chunk::payload`].
    pub payload: Bytes,
}

impl LogChunk {
    /// The offset behind it.
    pub fn end_offset(&self) -> u64 {
        self.base_offset + span(self.count)
    }

    /// True where it holds no records.
    pub fn is_control(&self) -> bool {
        self.count == 0
    }
}
