//! From a source into its log: decode, partition, append, and only then acknowledge.
//!
//! The rows of a batch, the dead letters of the records that did not decode, and the source's new cursor go into the
//! log in one atomic append. So a crash repeats nothing that the source can replay, and loses nothing.

mod timekeeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use millstream_core::json::write_str;
use millstream_core::{
    Clock, CursorDelta, DeadLetter, Decoded, Decoder, Error, Headers, RawBatch, Result, RowFailure, Source, SourceRead,
    Stage,
};
use millstream_storage::log::{Append, Chunk};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::timekeeper::OnTheWay;
use self::timekeeper::Timekeeper;
use crate::disk_room::DiskRoom;
use crate::health::{ComponentHealth, ComponentKind, Part};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::spec::{Metadata, OnError, SourceSpec};
use crate::streams::Stream;
use crate::tally::Fate;

/// How often a disk that is short is looked at again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// How often a partition that gets no rows is told how far event time is.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// First and longest pause after a failed read.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// The way into one source's log, shared by the source's own loop, the HTTP endpoint and redrives.
pub struct Ingest {
    /// The source, as checked.
    pub spec: Arc<SourceSpec>,
    /// Its log.
    pub stream: Stream,
    /// Bytes to rows.
    pub decoder: Arc<dyn Decoder>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    health: ComponentHealth,
    pipeline_version: Arc<str>,
    backlog_max: u64,
    disk: Arc<DiskRoom>,
    turn: AtomicU32,
    time: Option<Timekeeper>,
    /// The source runs: whoever has to be told how far event time is will be.
    is_running: AtomicBool,
}

/// A decoded batch, ready to be appended.
#[derive(Debug)]
pub struct Prepared {
    /// Chunks of the good rows.
    pub chunks: Vec<Chunk>,
    /// Records that failed.
    pub failures: Vec<RowFailure>,
    /// Good rows.
    pub rows: usize,
    /// Held until they are stored, or never will be.
    pub on_the_way: OnTheWay,
}

impl Ingest {
    /// The way into `stream`.
    pub fn new(
        spec: Arc<SourceSpec>,
        stream: Stream,
        decoder: Arc<dyn Decoder>,
        context: &super::task::TaskContext,
        backlog_max: u64,
        disk: Arc<DiskRoom>,
    ) -> Self {
        let health = context.health.of(ComponentKind::Source, &spec.name, &context.clock);
        let time = Timekeeper::of(&spec, &stream, spec.connector.is_pushed(), context.clock.now_us());
        Self {
            health,
            spec,
            stream,
            decoder,
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            progress: context.progress.clone(),
            pipeline_version: context.pipeline_version.clone(),
            backlog_max,
            disk,
            turn: AtomicU32::new(0),
            time,
            is_running: AtomicBool::new(false),
        }
    }

    /// Decodes a batch and cuts it into chunks by partition key.
    pub fn prepare(&self, raw: &RawBatch) -> Result<Prepared> {
        let now_us = self.clock.now_us();
        let decoded = self.decoder.decode(raw);
        let batch = with_metadata(&self.spec, &decoded, raw, now_us)?;
        // Without a key, whole batches go to the partitions in turn.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (chunks, on_the_way) = match &self.time {
            Some(time) => time.stamp(&self.stream, &batch, turn, now_us)?,
            None => (self.stream.chunks(&batch, turn, None)?, OnTheWay::default()),
        };
        let rows = batch.num_rows();
        let name = &self.spec.name;
        self.metrics.received_bytes(name, raw.spans.iter().map(std::ops::Range::len).sum());
        self.metrics.received("source", name, raw.len());
        self.metrics.sent("source", name, rows);
        Ok(Prepared { chunks, failures: decoded.failures, rows, on_the_way })
    }

    /// Decodes a batch into chunks of its rows and of its dead letters.
    fn chunks(&self, raw: &RawBatch) -> Result<(Vec<Chunk>, OnTheWay)> {
        let mut prepared = self.prepare(raw)?;
        let letters = self.put_aside(raw, &prepared.failures)?;
        prepared.chunks.extend(self.stream.dead_letters_chunk(&letters)?);
        Ok((prepared.chunks, prepared.on_the_way))
    }

    /// Appends what was prepared, and is `on_the_way` until then.
    pub async fn append(&self, chunks: Vec<Chunk>, mut cursor: CursorDelta, on_the_way: Vec<OnTheWay>) -> Result<()> {
        if chunks.is_empty() && cursor.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = chunks.iter().filter_map(|chunk| Some((chunk.partition, chunk.watermark?))).collect();
        if let Some(time) = &self.time {
            cursor.extend(time.cursor());
        }
        self.store(chunks, cursor).await?;
        if let Some(time) = &self.time {
            time.told(&told);
        }
        drop(on_the_way);
        Ok(())
    }

    async fn store(&self, chunks: Vec<Chunk>, cursor: CursorDelta) -> Result<()> {
        let append = Append { producer: self.spec.name.clone(), sequence: None, cursor, chunks };
        self.stream
            .log
            .append(append)
            .await
            .map(drop)
            .map_err(|e| e.context(format!("store records of {}", self.spec.name)))
    }

    /// True where the tasks are so far behind that no more should be taken in.
    pub fn is_full(&self) -> bool {
        self.progress.backlog(&self.stream.log) > self.backlog_max
    }

    /// Why nothing more should be taken in for want of room on the disk. What a source waits for is said of `part`.
    pub fn disk_shortage(&self, part: &Part) -> Option<String> {
        let shortage = self.disk.shortage()?;
        part.waits(&shortage);
        Some(shortage)
    }

    /// A part of this source's state.
    pub fn part(&self) -> Part {
        self.health.part()
    }

    /// Waits until there is room: behind the tasks, and on the disk.
    async fn room(&self, part: &Part) {
        loop {
            while self.is_full() {
                self.progress.moved().await;
            }
            if self.disk_shortage(part).is_none() {
                return;
            }
            tokio::time::sleep(LOOK_FOR_ROOM).await;
        }
    }

    /// Dead letters for records that did not decode, as `on_error` says.
    fn put_aside(&self, raw: &RawBatch, failures: &[RowFailure]) -> Result<Vec<DeadLetter>> {
        match (self.spec.on_error, failures.first()) {
            (_, None) => Ok(Vec::new()),
            (OnError::Fail, Some(first)) => Err(Error::input(format!(
                "{}: record at {}: {} (on_error: fail)",
                self.spec.name,
                place(raw, first.row),
                first.failure.message
            ))),
            (OnError::Skip, Some(_)) => {
                self.failed(failures, Fate::Skipped);
                Ok(Vec::new())
            }
            (OnError::DeadLetter | OnError::Default, Some(_)) => {
                self.failed(failures, Fate::DeadLetter);
                Ok(failures.iter().map(|f| self.letter(raw, f)).collect())
            }
        }
    }

    /// Counts records that did not decode.
    pub fn failed(&self, failures: &[RowFailure], fate: Fate) {
        self.metrics.failed("source", Stage::Decode, &self.spec.name, failures, fate);
    }

    /// The dead letter of one record that did not decode.
    pub fn letter(&self, raw: &RawBatch, failure: &RowFailure) -> DeadLetter {
        let record = failure.row as usize;
        DeadLetter {
            stage: Stage::Decode,
            component: self.spec.name.to_string(),
            input: None,
            kind: failure.failure.kind.as_str().into(),
            message: failure.failure.message.clone(),
            raw: raw.data.slice(raw.spans[record].clone()),
            origin: (!raw.origin.is_empty()).then(|| raw.origin.to_string()),
            position: raw.positions.get(record).copied(),
            header: raw.header.clone(),
            partition: None,
            offset: None,
            event_time_us: None,
            failed_at_us: self.clock.now_us(),
            attempts: 1,
            pipeline_version: self.pipeline_version.to_string(),
            model_version: None,
        }
    }

    /// Takes the figures of event time.
    pub fn take_figures(&self) {
        if let Some(time) = &self.time {
            time.take_figures(&self.metrics, &self.spec.name, self.clock.now_us());
        }
    }

    /// The source is about to run, which it does not while logs are run again.
    pub fn runs(&self) {
        self.is_running.store(true, Ordering::Relaxed);
    }

    /// True where some partition has yet to be told how far event time is, and will be.
    pub fn owes(&self) -> bool {
        let is_running = self.is_running.load(Ordering::Relaxed);
        let kept = self.time.as_ref().filter(|time| is_running && time.is_kept());
        kept.is_some_and(|time| !time.owed(self.clock.now_us(), false).is_empty())
    }

    /// Tells partitions that get no rows how far event time is, until the pipeline stops.
    ///
    /// # Errors
    /// The log can't be written.
    pub async fn keep_time(self: Arc<Self>, stop: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.owes_time() => self.tell_time(false).await?,
            }
        }
    }

    /// Waits until some partition has to be told; for ever where nobody waits for it.
    async fn owes_time(&self) {
        let Some(time) = self.time.as_ref().filter(|time| time.is_kept()) else { return std::future::pending().await };
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            if !time.owed(self.clock.now_us(), false).is_empty() {
                return;
            }
        }
    }

    /// Tells those that have to be told; that the source is at its end, where it `has_ended`.
    async fn tell_time(&self, has_ended: bool) -> Result<()> {
        let Some(time) = self.time.as_ref().filter(|time| time.is_kept()) else { return Ok(()) };
        let owed = time.owed(self.clock.now_us(), has_ended);
        if owed.is_empty() {
            return Ok(());
        }
        let told: Vec<_> = owed.iter().filter_map(|chunk| Some((chunk.partition, chunk.watermark?))).collect();
        self.store(owed, Vec::new()).await?;
        time.told(&told);
        Ok(())
    }

    /// Reads the source until it is at its end or the pipeline stops. While one batch is being made durable, the next
    /// is read and decoded, but not yet appended.
    ///
    /// A failed read is tried again for as long as the error says that this may help.
    pub async fn pull(self: Arc<Self>, mut source: Box<dyn Source>, stop: CancellationToken) -> Result<()> {
        let name = self.spec.name.clone();
        let mut pause = RETRY_PAUSE.0;
        let mut storing = Storing::default();
        let part = self.health.part();
        loop {
            let read = {
                let reading = async {
                    self.room(&part).await;
                    source.next().await
                };
                tokio::pin!(reading);
                loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return storing.finish().await,
                        failed = storing.failed() => return Err(failed),
                        read = &mut reading => break read,
                        () = self.owes_time() => self.tell_time(false).await?,
                    }
                }
            };
            match read {
                Ok(SourceRead::Batch(batch)) => {
                    pause = RETRY_PAUSE.0;
                    part.works();
                    self.progress.set_source_at_end(&name, false);
                    let (chunks, on_the_way) = self.chunks(&batch.raw)?;
                    storing.finish().await?;
                    storing.start(self.clone(), (chunks, on_the_way), batch.cursor, batch.ack);
                }
                Ok(SourceRead::Idle) => {
                    part.works();
                    storing.finish().await?;
                    self.progress.set_source_at_end(&name, true);
                }
                Ok(SourceRead::Finished) => {
                    storing.finish().await?;
                    self.tell_time(true).await?;
                    self.progress.set_source_at_end(&name, true);
                    self.health.finished();
                    return Ok(());
                }
                Err(e) if e.is_retry() => {
                    part.waits(&e.to_string());
                    tokio::select! {
                        () = stop.cancelled() => return storing.finish().await,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(RETRY_PAUSE.1);
                }
                Err(e) => return storing.finish().await.and(Err(e.context(format!("source {name}")))),
            }
        }
    }
}

/// The one append of a source that may be under way. Appends are started one after another, so their order, and that
/// of the cursors in them, is that of the source.
#[derive(Default)]
struct Storing(Option<JoinHandle<Result<()>>>);

impl Storing {
    /// Appends chunks and cursor, then acknowledges them. The one before must have been finished.
    fn start(
        &mut self,
        ingest: Arc<Ingest>,
        (chunks, on_the_way): (Vec<Chunk>, OnTheWay),
        cursor: CursorDelta,
        ack: Option<oneshot::Sender<()>>,
    ) {
        self.0 = Some(tokio::spawn(async move {
            ingest.append(chunks, cursor, vec![on_the_way]).await?;
            // Nobody waiting is fine: the cursor alone is the acknowledgement of most sources.
            ack.map(|ack| ack.send(()));
            Ok(())
        }));
    }

    /// Waits until what was started is durable.
    async fn finish(&mut self) -> Result<()> {
        let Some(append) = &mut self.0 else { return Ok(()) };
        let done = append.await;
        self.0 = None;
        done.map_err(|e| Error::bug(format!("an append of a source ended: {e}")))?
    }

    /// Waits for a failure only.
    async fn failed(&mut self) -> Error {
        match self.finish().await {
            Ok(()) => std::future::pending().await,
            Err(e) => e,
        }
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ingest({})", self.spec.name)
    }
}

fn place(raw: &RawBatch, record: u32) -> String {
    match raw.positions.get(record as usize) {
        Some(position) => format!("{} byte {position}", raw.origin),
        None => format!("{} number {record} of its batch", raw.origin),
    }
}

/// The decoded columns and those that `metadata:` asks for.
pub(super) fn with_metadata(spec: &SourceSpec, decoded: &Decoded, raw: &RawBatch, now_us: i64) -> Result<RecordBatch> {
    if spec.metadata.is_empty() {
        return Ok(decoded.batch.clone());
    }
    let mut columns = decoded.batch.columns().to_vec();
    columns.extend(spec.metadata.iter().map(|metadata| metadata_column(*metadata, decoded, raw, now_us)));
    let rows = RecordBatchOptions::new().with_row_count(Some(decoded.batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(spec.schema.clone(), columns, &rows)?)
}

fn metadata_column(metadata: Metadata, decoded: &Decoded, raw: &RawBatch, now_us: i64) -> ArrayRef {
    let rows = decoded.batch.num_rows();
    match metadata {
        Metadata::Raw => {
            let mut values = BinaryBuilder::new();
            decoded.record.iter().for_each(|&record| values.append_value(raw.record(record as usize)));
            Arc::new(values.finish())
        }
        Metadata::Origin => {
            let origin = (!raw.origin.is_empty()).then_some(&*raw.origin);
            Arc::new(StringArray::from_iter(std::iter::repeat_n(origin, rows)))
        }
        Metadata::Position => {
            let position = |&record: &u32| raw.positions.get(record as usize).map(|&p| p as i64);
            Arc::new(decoded.record.iter().map(position).collect::<Int64Array>())
        }
        Metadata::Event => {
            let event = |&record: &u32| raw.events.get(record as usize).map(|event| &**event);
            Arc::new(decoded.record.iter().map(event).collect::<StringArray>())
        }
        Metadata::Key => {
            let mut values = BinaryBuilder::new();
            let key = |&record: &u32| raw.keys.get(record as usize)?.as_deref();
            decoded.record.iter().for_each(|record| values.append_option(key(record)));
            Arc::new(values.finish())
        }
        Metadata::Headers => {
            let mut values = StringBuilder::new();
            let mut last: Option<(&Headers, String)> = None;
            for &record in &decoded.record {
                let Some(headers) = raw.headers.get(record as usize) else {
                    values.append_null();
                    continue;
                };
                // Records that came together share theirs.
                let text = match last.take() {
                    Some((known, text)) if Arc::ptr_eq(known, headers) => text,
                    _ => as_json(headers),
                };
                values.append_value(&last.insert((headers, text)).1);
            }
            Arc::new(values.finish())
        }
        Metadata::Timestamp => {
            let timestamp = |&record: &u32| raw.timestamps_us.get(record as usize).copied().flatten();
            let values: TimestampMicrosecondArray = decoded.record.iter().map(timestamp).collect();
            Arc::new(values.with_timezone("UTC"))
        }
        Metadata::Tombstone => {
            let tombstone = |&record: &u32| raw.tombstones.get(record as usize).copied();
            Arc::new(decoded.record.iter().map(tombstone).collect::<BooleanArray>())
        }
        Metadata::ReceivedAt => Arc::new(TimestampMicrosecondArray::from_value(now_us, rows).with_timezone("UTC")),
    }
}

/// Headers as an object of strings.
fn as_json(headers: &Headers) -> String {
    let mut out = b"{".to_vec();
    for (i, (name, value)) in headers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_str(name, &mut out);
        out.push(b':');
        write_str(&String::from_utf8_lossy(value), &mut out);
    }
    out.push(b'}');
    // Nothing but texts was written.
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
