//! The event time of a source on its way into the log: each chunk says how far it is, and so does a control chunk to
//! each partition that gets no rows, where somebody waits for that.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use millstream_core::source::{Cursor, CursorDelta};
use millstream_core::{Error, Result};
use millstream_storage::keyed::encode_row_keys;
use millstream_storage::log::{Chunk, Watermark};
use parking_lot::Mutex;

use crate::event_time::{EventClock, Told};
use crate::metrics::Metrics;
use crate::spec::SourceSpec;
use crate::streams::Stream;

/// The event time of one source.
pub(super) struct Timekeeper {
    column: usize,
    /// The columns that tell senders apart.
    per: Vec<usize>,
    /// Batches may be stored in another order than they are prepared in: they come from several requests at once.
    is_unordered: bool,
    is_kept: bool,
    idle_us: Option<i64>,
    // A `parking_lot` mutex: nothing awaits while it is held.
    state: Arc<Mutex<State>>,
}

struct State {
    clock: EventClock,
    told: Told,
    /// Nothing came since the source was at its end.
    has_ended: bool,
    /// When a record came last, by the machine's clock.
    heard_us: i64,
}

/// Batches that are prepared and not stored yet. What is promised meanwhile takes them into account.
#[derive(Default)]
pub struct OnTheWay(Option<(Arc<Mutex<State>>, u64)>);

impl Drop for OnTheWay {
    fn drop(&mut self) {
        if let Some((state, number)) = self.0.take() {
            state.lock().clock.settled(number);
        }
    }
}

impl std::fmt::Debug for OnTheWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnTheWay").field(&self.0.as_ref().map(|(_, number)| number)).finish()
    }
}

impl Timekeeper {
    /// That of a source; none where its records have no event time.
    pub fn of(spec: &SourceSpec, stream: &Stream, is_unordered: bool, now_us: i64) -> Option<Self> {
        let column = spec.event_time?;
        let cursor: Cursor = stream.log.producer(&spec.name).map(|producer| producer.cursor).unwrap_or_default();
        let state = State {
            clock: EventClock::new(&spec.watermark, &cursor),
            told: Told::new(stream.plan.partitions),
            has_ended: false,
            heard_us: now_us,
        };
        Some(Self {
            column,
            per: spec.watermark.per.clone(),
            is_unordered,
            is_kept: stream.plan.keeps_time,
            idle_us: spec.watermark.idle.map(|idle| i64::try_from(idle.as_micros()).unwrap_or(i64::MAX)),
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// True where somebody waits for this time.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The rows of a batch as chunks that say how far event time is.
    pub fn stamp(
        &self,
        stream: &Stream,
        batch: &RecordBatch,
        turn: u32,
        now_us: i64,
    ) -> Result<(Vec<Chunk>, OnTheWay)> {
        let times = batch.column(self.column).as_primitive_opt::<TimestampMicrosecondType>();
        let times = times.ok_or_else(|| Error::bug("an event time that is no timestamp"))?;
        let senders: Vec<ArrayRef> = self.per.iter().map(|&column| batch.column(column).clone()).collect();
        let senders = if senders.is_empty() { None } else { Some(encode_row_keys(&[], &senders)?) };
        let (observed, on_the_way) = {
            let mut state = self.state.lock();
            (state.heard_us, state.has_ended) = (now_us, false);
            let observed = state.clock.observe(times, senders.as_ref(), now_us);
            let on_the_way = OnTheWay(Some((self.state.clone(), observed.number)));
            (observed, on_the_way)
        };
        let watermark_us = if self.is_unordered { observed.unordered_us } else { observed.watermark_us };
        let mut chunks = stream.chunks_with(batch, &observed.late, turn, None)?;
        chunks.iter_mut().for_each(|chunk| chunk.watermark = watermark_us.map(Watermark::At));
        Ok((chunks, on_the_way))
    }

    /// What the log has to know of it.
    pub fn cursor(&self) -> CursorDelta {
        self.state.lock().clock.cursor()
    }

    /// These partitions have been told.
    pub fn told(&self, told: &[(u32, Watermark)]) {
        let mut state = self.state.lock();
        told.iter().for_each(|(partition, watermark)| state.told.tell(*partition, *watermark));
    }

    /// What has to be told to partitions that get no rows.
    pub fn owed(&self, now_us: i64, has_ended: bool) -> Vec<Chunk> {
        let mut state = self.state.lock();
        state.has_ended |= has_ended;
        state.clock.forget_silent(now_us);
        let is_idle = self.idle_us.is_some_and(|idle| now_us.saturating_sub(state.heard_us) >= idle);
        let watermark = match state.clock.safe_us() {
            _ if state.has_ended => Watermark::End,
            _ if is_idle => Watermark::Idle,
            Some(time) => Watermark::At(time),
            None => return Vec::new(),
        };
        state.told.owed(watermark).into_iter().map(|partition| Chunk::control(partition, watermark)).collect()
    }

    /// Takes the figures of event time: how old the newest record is, and the watermark.
    pub fn take_figures(&self, metrics: &Metrics, source: &Arc<str>, now_us: i64) {
        let (newest, watermark) = {
            let state = self.state.lock();
            (state.clock.newest_us(), state.clock.watermark_us())
        };
        let age = |us: i64| now_us.saturating_sub(us) as f64 / 1e6;
        if let Some(newest) = newest {
            metrics.source_lag(source, age(newest));
        }
        if let Some(watermark) = watermark {
            metrics.watermark_lag("source", source, age(watermark));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use millstream_core::ManualClock;
    use millstream_storage::codec::SchemaStore;
    use millstream_storage::log::{Log, LogOptions};

    use super::*;
    use crate::plan::{StreamKind, StreamPlan};
    use crate::spec::{RetentionSpec, WatermarkSpec};

    fn rows(rows: &[(i64, i64)]) -> RecordBatch {
        let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1));
        let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("at", Arc::new(times.with_timezone("UTC")))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// A stream of four partitions that keeps time, with a delay of 10 µs, idle after 100.
    fn world(is_unordered: bool) -> (tempfile::TempDir, Stream, Timekeeper) {
        let folder = tempfile::tempdir().unwrap();
        let plan = StreamPlan {
            name: "wire".into(),
            partitions: 4,
            schema: rows(&[]).schema(),
            key: vec![0],
            event_time: Some(1),
            retention: RetentionSpec { time: None, size: None },
            kind: StreamKind::Source,
            keeps_time: true,
        };
        let log = Log::memory("wire", LogOptions::new(4), Arc::new(ManualClock::new(0)));
        let stream = Stream::new(plan, log, SchemaStore::open(folder.path()).unwrap()).unwrap();
        let micros = Duration::from_micros;
        let spec =
            WatermarkSpec { delay: micros(10), max_ahead: micros(1_000), per: Vec::new(), idle: Some(micros(100)) };
        let state =
            State { clock: EventClock::new(&spec, &Cursor::new()), told: Told::new(4), has_ended: false, heard_us: 0 };
        let time = Timekeeper {
            column: 1,
            per: Vec::new(),
            is_unordered,
            is_kept: true,
            idle_us: Some(100),
            state: Arc::new(Mutex::new(state)),
        };
        (folder, stream, time)
    }

    fn said(chunks: &[Chunk]) -> Vec<(u32, Watermark)> {
        chunks.iter().map(|chunk| (chunk.partition, chunk.watermark.unwrap())).collect()
    }

    #[test]
    fn partitions_without_rows_are_told_once_what_was_stored() {
        let (_folder, stream, time) = world(false);
        assert!(time.owed(0, false).is_empty(), "nothing is known");
        let (chunks, on_the_way) = time.stamp(&stream, &rows(&[(1, 50), (1, 20), (1, 55)]), 0, 0).unwrap();
        let [chunk] = chunks.as_slice() else { panic!("one key, one partition") };
        assert_eq!((chunk.watermark, chunk.late.len()), (Some(Watermark::At(45)), 1));
        assert!(time.owed(0, false).is_empty(), "it is not stored");
        time.told(&said(&chunks));
        drop(on_the_way);
        let owed = time.owed(0, false);
        assert_eq!(owed.len(), 3);
        assert!(owed.iter().all(|o| o.partition != chunk.partition && o.watermark == Some(Watermark::At(45))));
        time.told(&said(&owed));
        assert!(time.owed(99, false).is_empty());
        assert_eq!(said(&time.owed(100, false)), [0, 1, 2, 3].map(|p| (p, Watermark::Idle)));
        assert_eq!(said(&time.owed(0, true)), [0, 1, 2, 3].map(|p| (p, Watermark::End)));
        time.told(&[0, 1, 2, 3].map(|p| (p, Watermark::End)));
        assert!(time.owed(0, false).is_empty(), "at its end it has no time");
        drop(time.stamp(&stream, &rows(&[(2, 56)]), 0, 0).unwrap());
        assert_eq!(time.owed(0, false).len(), 4, "it goes on");
    }

    #[test]
    fn requests_that_overtake_each_other_promise_nothing_that_is_not_so() {
        let (_folder, stream, time) = world(true);
        let (_, first) = time.stamp(&stream, &rows(&[(1, 50)]), 0, 0).unwrap();
        let (chunks, second) = time.stamp(&stream, &rows(&[(1, 90)]), 0, 0).unwrap();
        assert_eq!(chunks[0].watermark, None, "the first may hold anything");
        drop(first);
        let (chunks, _third) = time.stamp(&stream, &rows(&[(1, 120)]), 0, 0).unwrap();
        assert_eq!(chunks[0].watermark, Some(Watermark::At(40)), "the second began at 40");
        drop(second);
        assert_eq!(time.owed(0, false)[0].watermark, Some(Watermark::At(80)));
    }
}
