//! The open logs of a pipeline, with the schemas of what is in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use millstream_core::partition::partition_rows;
use millstream_core::{DeadLetter, Error, Failure, FailureKind, Result, RowFailure, Rows};
use millstream_storage::codec::{SchemaStore, decode_batch, encode_batch};
use millstream_storage::log::{Chunk, DEAD_LETTERS, Late, Log, LogChunk};

use crate::heard::Word;
use crate::plan::{StreamKind, StreamPlan};
use crate::target::Target;

mod reader;

pub use reader::StreamReader;

/// An open log and what the plan says about it.
#[derive(Clone)]
pub struct Stream {
    /// The plan.
    pub plan: Arc<StreamPlan>,
    /// The log.
    pub log: Log,
    schemas: Arc<SchemaStore>,
    schema_id: u64,
    dead_letter_schema_id: u64,
    /// The column of the event time.
    event_time: Option<Arc<str>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.plan.name)
    }
}

/// All open logs, by name.
pub type Streams = BTreeMap<Arc<str>, Stream>;

/// Rows of one chunk, decoded, or of several that follow one another; and the control chunks behind them.
#[derive(Debug, Clone)]
pub struct StreamBatch {
    /// Partition.
    pub partition: u32,
    /// Offset of the first row.
    pub base_offset: u64,
    /// When it was appended, milliseconds since the epoch.
    pub append_time_ms: i64,
    /// The newest event time in it, microseconds since the epoch; none where its rows have none.
    pub event_time_max_us: Option<i64>,
    /// The column of the event time, where there is one.
    pub event_time: Option<Arc<str>>,
    /// How many offsets control chunks take behind the rows.
    pub controls: u64,
    /// What its chunks say of their producers, each once; of a batch that ends within a chunk, not what that says.
    pub words: Vec<Word>,
    /// The rows that came late.
    pub late: Vec<Late>,
    /// Whom the rows are for, where they were redriven; none: everyone.
    pub target: Option<Target>,
    /// The rows.
    pub batch: RecordBatch,
}

impl StreamBatch {
    /// Rows that were in no log, as if they had been appended at `append_time_ms` as the first of partition 0.
    pub fn alone(batch: RecordBatch, target: Option<Target>, append_time_ms: i64) -> Self {
        Self {
            partition: 0,
            base_offset: 0,
            append_time_ms,
            event_time_max_us: None,
            event_time: None,
            controls: 0,
            words: Vec::new(),
            late: Vec::new(),
            target,
            batch,
        }
    }

    /// No rows, in front of an offset: what comes of time alone.
    pub fn nothing(partition: u32, offset: u64) -> Self {
        let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let base_offset = offset.saturating_sub(1);
        Self { partition, base_offset, controls: offset - base_offset, ..Self::alone(batch, None, 0) }
    }

    /// The offset behind all of it.
    pub fn end_offset(&self) -> u64 {
        self.rows_end() + self.controls
    }

    /// The offset of the record that a row comes of. Rows that come of time alone have one origin beyond the last: they
    /// count to the last.
    pub fn offset_of(&self, origin: u32) -> u64 {
        self.base_offset + u64::from(origin).min((self.batch.num_rows() as u64).saturating_sub(1))
    }

    /// The offset behind the last row.
    fn rows_end(&self) -> u64 {
        self.base_offset + self.batch.num_rows() as u64
    }

    /// True where it holds no rows: control chunks only.
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// Drops the rows, which are a repeat, but not the offsets that they take.
    pub fn repeated(&mut self) {
        self.controls += self.batch.num_rows() as u64;
        self.batch = self.batch.slice(0, 0);
        self.late.clear();
        self.words.clear();
    }

    /// The watermark that was in front of a row that came late; none of one that did not.
    pub fn late_behind(&self, row: u32) -> Option<i64> {
        let at = self.late.binary_search_by_key(&row, |late| late.row).ok()?;
        Some(self.late[at].watermark_us)
    }

    /// The event time of a row, microseconds since the epoch; none where it has none.
    pub fn event_time_us(&self, row: u32) -> Option<i64> {
        let column = self.batch.column_by_name(self.event_time.as_deref()?)?;
        let times = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        let row = row as usize;
        (row < times.len() && times.is_valid(row)).then(|| times.value(row))
    }

    /// The newest moment that its rows speak of, microseconds since the epoch: their event time, or else when they were
    /// stored.
    pub fn newest_us(&self) -> i64 {
        self.event_time_max_us.unwrap_or(self.append_time_ms.saturating_mul(1000))
    }

    /// Which attempt at these rows it is: 1 unless they were redriven.
    pub fn attempt(&self) -> u32 {
        self.target.as_ref().map_or(1, |target| target.attempt)
    }

    /// The same rows in batches of up to `rows_max`: neighbours are joined, and what is larger is cut. Redriven rows
    /// stay alone, since they enter elsewhere, and so do those that were stored with other columns.
    ///
    /// # Errors
    /// `Bug` for columns that do not go together.
    pub fn regroup(batches: Vec<Self>, rows_max: usize) -> Result<Vec<Self>> {
        let mut groups: Vec<Vec<Self>> = Vec::new();
        let mut rows = 0;
        for batch in batches {
            let mut rest = Some(batch);
            while let Some(batch) = rest.take() {
                let last = groups.last().and_then(|group| group.last());
                let is_full = rows >= rows_max && !batch.is_empty();
                if is_full || !last.is_some_and(|last| last.goes_with(&batch)) {
                    groups.push(Vec::new());
                    rows = 0;
                }
                let until = batch.base_offset + (rows_max - rows) as u64;
                rest = (batch.rows_end() > until).then(|| batch.clone().from_offset(until));
                let head = if rest.is_some() { batch.before_offset(until) } else { Some(batch) };
                rows += head.as_ref().map_or(0, |head| head.batch.num_rows());
                groups.last_mut().into_iter().for_each(|group| group.extend(head.clone()));
            }
        }
        groups.into_iter().map(Self::join).collect()
    }

    /// True where `next` may be one batch with this one. Behind a control chunk no rows can follow: their offsets would
    /// not be what their places say.
    fn goes_with(&self, next: &Self) -> bool {
        let neighbours = self.end_offset() == next.base_offset;
        let rows_too = self.controls == 0
            && self.target.is_none()
            && next.target.is_none()
            // An earlier pipeline file may have stored other columns.
            && self.batch.schema_ref() == next.batch.schema_ref();
        neighbours && (next.is_empty() || rows_too)
    }

    fn join(batches: Vec<Self>) -> Result<Self> {
        let mut rest = batches.iter();
        let mut joined = rest.next().cloned().ok_or_else(|| Error::bug("nothing to join"))?;
        let mut shift = joined.batch.num_rows() as u32;
        for next in rest {
            joined.late.extend(next.late.iter().map(|late| Late { row: late.row + shift, ..*late }));
            next.words.iter().for_each(|word| say(&mut joined.words, word));
            joined.event_time_max_us = joined.event_time_max_us.max(next.event_time_max_us);
            joined.controls += next.controls;
            shift += next.batch.num_rows() as u32;
        }
        let with_rows: Vec<&RecordBatch> = batches.iter().map(|b| &b.batch).filter(|b| b.num_rows() > 0).collect();
        if with_rows.len() > 1 {
            joined.batch = concat_batches(&batches[0].batch.schema(), with_rows)?;
        }
        Ok(joined)
    }

    /// The rows with the columns of `schema`, for records that an earlier pipeline file wrote: columns by name, cast
    /// where the type changed, null where absent.
    ///
    /// # Errors
    /// `Config` where the new schema requires what the stored records do not have.
    pub fn conform(mut self, schema: &SchemaRef) -> Result<Self> {
        let (rows, misfits) = self.fit(schema)?;
        if let Some(first) = misfits.first() {
            return Err(Error::config(format!(
                "the record at partition {} offset {}: {}. Make the column optional (`?`), or give it the type it had",
                self.partition,
                self.base_offset + u64::from(first.row),
                first.failure.message
            )));
        }
        self.batch = rows.batch;
        Ok(self)
    }

    /// The rows in the columns of `schema`, each with its place in the batch, and those that do not fit into them: an
    /// earlier pipeline file stored them. Columns go by name, are cast where the type changed, and are null where
    /// absent.
    ///
    /// # Errors
    /// `Config` for a type that no value of the earlier one can become.
    pub fn fit(&self, schema: &SchemaRef) -> Result<(Rows, Vec<RowFailure>)> {
        if self.batch.schema_ref().fields() == schema.fields() {
            return Ok((Rows::all(self.batch.clone()), Vec::new()));
        }
        let mut failures: BTreeMap<u32, Failure> = BTreeMap::new();
        let mut columns = Vec::new();
        for field in schema.fields() {
            let stored = self.batch.column_by_name(field.name());
            let name = field.name();
            let (column, lost) = match stored {
                Some(column) if column.data_type() == field.data_type() => (column.clone(), Vec::new()),
                Some(column) => cast_each(column, field.data_type()).map_err(|e| {
                    Error::config(format!(
                        "records from partition {} offset {} on were written with an earlier schema, and column \
                         `{name}` does not convert: {e}. Give it another name, or start with another data folder",
                        self.partition, self.base_offset
                    ))
                })?,
                None => (new_null_array(field.data_type(), self.batch.num_rows()), Vec::new()),
            };
            for row in lost {
                let message = format!("`{name}` of this record of an earlier schema is no {} now", field.data_type());
                failures.entry(row).or_insert(Failure::new(FailureKind::TypeMismatch, message));
            }
            let nulls = (0..column.len()).filter(|&row| !field.is_nullable() && column.is_null(row));
            for row in nulls {
                let message = format!("`{name}` is absent in this record of an earlier schema, but now required");
                failures.entry(row as u32).or_insert(Failure::new(FailureKind::MissingField, message));
            }
            columns.push(column);
        }
        let fits: Vec<u32> = (0..self.batch.num_rows() as u32).filter(|row| !failures.contains_key(row)).collect();
        let indices = UInt32Array::from(fits.clone());
        let columns = columns.iter().map(|column| Ok(take(column, &indices, None)?)).collect::<Result<_>>()?;
        let rows = RecordBatchOptions::new().with_row_count(Some(fits.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?;
        let failures = failures.into_iter().map(|(row, failure)| RowFailure { row, failure }).collect();
        Ok((Rows { batch, origin: fits.into() }, failures))
    }

    /// Drops what is at `offset` and behind it; none where nothing is left.
    pub fn before_offset(mut self, offset: u64) -> Option<Self> {
        if offset <= self.base_offset {
            return None;
        }
        if offset < self.end_offset() {
            self.controls = offset.saturating_sub(self.rows_end()).min(self.controls);
            let rows = (offset - self.base_offset).min(self.batch.num_rows() as u64) as usize;
            self.batch = self.batch.slice(0, rows);
            self.late.retain(|late| late.row < rows as u32);
            self.words.clear();
        }
        Some(self)
    }

    /// Its rows as two batches, or one where it has no two.
    pub fn halves(self) -> impl DoubleEndedIterator<Item = Self> {
        let middle = self.base_offset + self.batch.num_rows() as u64 / 2;
        [self.clone().before_offset(middle), Some(self.from_offset(middle))].into_iter().flatten()
    }

    /// Drops what is below `offset`.
    #[must_use]
    pub fn from_offset(mut self, offset: u64) -> Self {
        if offset > self.base_offset {
            self.controls = self.end_offset().saturating_sub(offset).min(self.controls);
            let skip = ((offset - self.base_offset) as usize).min(self.batch.num_rows());
            self.batch = self.batch.slice(skip, self.batch.num_rows() - skip);
            self.late.retain_mut(|late| late.row.checked_sub(skip as u32).map(|row| late.row = row).is_some());
            self.base_offset = offset;
        }
        self
    }
}

impl Stream {
    /// Binds an open log to its plan.
    pub fn new(plan: StreamPlan, log: Log, schemas: Arc<SchemaStore>) -> Result<Self> {
        let schema_id = schemas.register(&plan.schema)?;
        let dead_letter_schema_id = schemas.register(&DeadLetter::schema())?;
        let event_time = plan.event_time.map(|column| plan.schema.field(column).name().as_str().into());
        Ok(Self { plan: Arc::new(plan), log, schemas, schema_id, dead_letter_schema_id, event_time })
    }

    /// The name.
    pub fn name(&self) -> &Arc<str> {
        &self.plan.name
    }

    /// Rows as chunks, one per partition that gets any. `from_partition` is where the rows come from, for streams
    /// without a key.
    pub fn chunks(&self, batch: &RecordBatch, from_partition: u32, target: Option<&Arc<str>>) -> Result<Vec<Chunk>> {
        self.chunks_with(batch, &[], from_partition, target)
    }

    /// The same for rows of which some came late.
    ///
    /// # Errors
    /// As there.
    pub fn chunks_with(
        &self,
        batch: &RecordBatch,
        late: &[Late],
        from_partition: u32,
        target: Option<&Arc<str>>,
    ) -> Result<Vec<Chunk>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let partitions = self.plan.partitions;
        let stays = target.is_some() || self.plan.key.is_empty() || partitions == 1;
        if stays {
            let chunk = self.chunk(batch, from_partition % partitions, target)?;
            return Ok(vec![Chunk { late: late.into(), ..chunk }]);
        }
        let of_row = partition_rows(batch, &self.plan.key, partitions, from_partition)?;
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); partitions as usize];
        for (row, &partition) in of_row.iter().enumerate() {
            rows[partition as usize].push(row as u32);
        }
        let mut chunks = Vec::new();
        for (partition, rows) in rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let place = |late: &Late| Some(Late { row: rows.binary_search(&late.row).ok()? as u32, ..*late });
            let late = late.iter().filter_map(place).collect();
            let part = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(batch, &UInt32Array::from(rows))?
            };
            chunks.push(Chunk { late, ..self.chunk(&part, partition as u32, target)? });
        }
        Ok(chunks)
    }

    fn chunk(&self, batch: &RecordBatch, partition: u32, target: Option<&Arc<str>>) -> Result<Chunk> {
        // A redriven row has the schema of the step it goes to, not that of the stream.
        let schema = match target {
            Some(_) => self.schemas.register(&batch.schema())?,
            None => self.schema_id,
        };
        let event_time_max_us = self.plan.event_time.filter(|_| target.is_none()).and_then(|c| max_timestamp(batch, c));
        let rows = Chunk::rows(partition, batch.num_rows() as u32, schema, encode_batch(batch)?);
        Ok(Chunk { event_time_max_us, target: target.cloned(), ..rows })
    }

    /// Dead letters as a chunk of this stream.
    pub fn dead_letters_chunk(&self, letters: &[DeadLetter]) -> Result<Option<Chunk>> {
        if letters.is_empty() {
            return Ok(None);
        }
        let payload = encode_batch(&DeadLetter::to_batch(letters)?)?;
        let rows = Chunk::rows(DEAD_LETTERS, letters.len() as u32, self.dead_letter_schema_id, payload);
        Ok(Some(Chunk { event_time_max_us: letters.iter().filter_map(|l| l.event_time_us).max(), ..rows }))
    }
}

/// A column as another type, and the rows that have no such value: all of it, or in a part of it.
fn cast_each(column: &ArrayRef, to: &DataType) -> std::result::Result<(ArrayRef, Vec<u32>), ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    if let Ok(cast) = cast_with_options(column, to, &strict) {
        return Ok((cast, Vec::new()));
    }
    // What does not convert is null then, also inside of lists and structs, where nobody would see it.
    let cast = cast_with_options(column, to, &CastOptions::default())?;
    let mut lost = Vec::new();
    for row in 0..column.len() as u32 {
        // Taken, not sliced: a slice of lists has the items of all.
        let one = take(column, &UInt32Array::from(vec![row]), None)?;
        if cast_with_options(&one, to, &strict).is_err() {
            lost.push(row);
        }
    }
    Ok((cast, lost))
}

/// Decodes a chunk by the schema it names.
pub fn decode_chunk(schemas: &SchemaStore, chunk: LogChunk) -> Result<StreamBatch> {
    let controls = u64::from(chunk.is_control());
    let batch = match chunk.is_control() {
        true => RecordBatch::new_empty(Arc::new(Schema::empty())),
        false => decode_batch(&chunk.payload, &schemas.get(chunk.schema)?)?,
    };
    if batch.num_rows() != chunk.count as usize {
        return Err(Error::corruption(format!(
            "partition {} offset {}: the chunk says {} rows and holds {}",
            chunk.partition,
            chunk.base_offset,
            chunk.count,
            batch.num_rows()
        )));
    }
    let target = chunk.target.as_deref().map(Target::decode).transpose()?;
    let place = chunk.sequence.map(|sequence| (sequence, chunk.index));
    Ok(StreamBatch {
        partition: chunk.partition,
        base_offset: chunk.base_offset,
        append_time_ms: chunk.append_time_ms,
        event_time_max_us: chunk.event_time_max_us,
        event_time: None,
        controls,
        words: vec![Word { producer: chunk.producer, place, watermark: chunk.watermark }],
        late: chunk.late.to_vec(),
        target,
        batch,
    })
}

/// Adds what a chunk says to what the chunks before it say.
fn say(words: &mut Vec<Word>, word: &Word) {
    match words.iter_mut().find(|known| known.producer == word.producer) {
        Some(known) => {
            known.place = word.place.or(known.place);
            known.watermark = word.watermark.or(known.watermark);
        }
        None => words.push(word.clone()),
    }
}

fn max_timestamp(batch: &RecordBatch, column: usize) -> Option<i64> {
    arrow::compute::max(batch.column(column).as_primitive::<TimestampMicrosecondType>())
}

/// True for streams that hold what a user would query.
pub fn is_visible(kind: StreamKind) -> bool {
    kind != StreamKind::Exchange
}

#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
mod fit_tests;
