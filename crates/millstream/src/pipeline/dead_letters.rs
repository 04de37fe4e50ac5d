//! The dead letter queue: every stream keeps the records that failed on their way out of it, or into it, in a partition of
//! its own. Here they are listed, shown and redriven.
//!
//! A redrive appends the record in front of the stage that failed **and** marks its dead letter as redriven in one atomic
//! append, so that a record is always in exactly one place. The marks are ranges of offsets, kept as the cursor of the
//! producer `redrive`. A record that fails again becomes a new dead letter with one attempt more.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, SchemaRef};
use bytes::Bytes;
use millstream_connectors::format::{DecodeConfig, build};
use millstream_core::json::RowWriter;
use millstream_core::schema::is_json;
use millstream_core::{
    CursorDelta, DeadLetter, Error, Field, FieldType, RawBatch, Result, RowFailure, Stage, StreamSchema,
};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Append, Chunk, DEAD_LETTERS, StreamLog};

use super::deliver::sink_target;
use super::ingest::Ingest;
use super::plan::Plan;
use super::streams::{Stream, Streams, decode_chunk, target_tag};
use super::tally::Fate;

pub mod relation;
pub mod summary;

const PRODUCER: &str = "redrive";
const READ_BYTES: usize = 1 << 20;
/// Dead letters that one append redrives at most.
const REDRIVE_BATCH: usize = 1000;

/// A dead letter and its address.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The stream that keeps it.
    pub stream: Arc<str>,
    /// Its offset in that stream's dead letter partition.
    pub offset: u64,
    /// The record.
    pub letter: DeadLetter,
}

impl Entry {
    /// The id by which commands name it: `wire/12`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.stream, self.offset)
    }
}

/// What rows that failed behind the decoder have in common.
pub struct FailedRows<'a> {
    /// The stage that failed.
    pub stage: Stage,
    /// The transform, table or sink that failed.
    pub component: &'a str,
    /// The stream the rows were read from.
    pub stream: &'a str,
    /// Its partition.
    pub partition: u32,
    /// The offset of each row of `rows`.
    pub offset_of: &'a dyn Fn(u32) -> u64,
    /// The rows, as the component was given them.
    pub rows: &'a RecordBatch,
    /// Event time of the newest row.
    pub event_time_us: Option<i64>,
    /// Now.
    pub now_us: i64,
    /// Attempts, this one included.
    pub attempts: u32,
    /// Digest of the pipeline file.
    pub pipeline_version: &'a str,
    /// `name@digest` of the model, for `predict`.
    pub model_version: Option<&'a str>,
}

impl FailedRows<'_> {
    /// One dead letter for each failure, with its row as JSON.
    pub fn letters(&self, failures: &[RowFailure]) -> Result<Vec<DeadLetter>> {
        let writer = RowWriter::bind(self.rows)?;
        let letter = |failed: &RowFailure| {
            let mut raw = Vec::new();
            writer.write(failed.row as usize, &mut raw);
            DeadLetter {
                stage: self.stage,
                component: self.component.into(),
                kind: failed.failure.kind.as_str().into(),
                message: failed.failure.message.clone(),
                raw: raw.into(),
                origin: Some(self.stream.into()),
                position: None,
                header: None,
                partition: Some(self.partition),
                offset: Some((self.offset_of)(failed.row)),
                event_time_us: self.event_time_us,
                failed_at_us: self.now_us,
                attempts: self.attempts,
                pipeline_version: self.pipeline_version.into(),
                model_version: self.model_version.map(str::to_owned),
            }
        };
        Ok(failures.iter().map(letter).collect())
    }
}

/// Which dead letters are meant; an empty list and `None` mean all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Ids.
    pub ids: Vec<String>,
    /// Name of the source, transform or sink that failed.
    pub component: Option<String>,
    /// Stage that failed.
    pub stage: Option<Stage>,
    /// Kind of failure.
    pub kind: Option<String>,
}

impl Filter {
    /// True where it takes everything.
    pub fn is_open(&self) -> bool {
        self.ids.is_empty() && self.component.is_none() && self.stage.is_none() && self.kind.is_none()
    }

    fn takes(&self, entry: &Entry) -> bool {
        (self.ids.is_empty() || self.ids.contains(&entry.id()))
            && self.component.as_ref().is_none_or(|c| *c == entry.letter.component)
            && self.stage.is_none_or(|s| s == entry.letter.stage)
            && self.kind.as_ref().is_none_or(|k| *k == entry.letter.kind)
    }
}

/// The dead letters of one stream that have not been redriven, oldest first, until `visit` answers false.
pub fn scan(
    log: &StreamLog,
    schemas: &SchemaStore,
    filter: &Filter,
    visit: &mut dyn FnMut(Entry) -> bool,
) -> Result<()> {
    scan_from(log, schemas, filter, 0, visit)
}

/// The same from an offset on.
fn scan_from(
    log: &StreamLog,
    schemas: &SchemaStore,
    filter: &Filter,
    from: u64,
    visit: &mut dyn FnMut(Entry) -> bool,
) -> Result<()> {
    let redriven = Redriven::load(log);
    let stream: Arc<str> = log.name().into();
    let mut reader = log.reader(DEAD_LETTERS, from.max(log.start_offset(DEAD_LETTERS)))?;
    loop {
        let chunks = reader.read(READ_BYTES)?;
        if chunks.is_empty() {
            return Ok(());
        }
        for chunk in chunks {
            let batch = decode_chunk(schemas, chunk)?;
            for (row, letter) in DeadLetter::from_batch(&batch.batch)?.into_iter().enumerate() {
                let entry = Entry { stream: stream.clone(), offset: batch.base_offset + row as u64, letter };
                let wanted = entry.offset >= from && !redriven.contains(entry.offset) && filter.takes(&entry);
                if wanted && !visit(entry) {
                    return Ok(());
                }
            }
        }
    }
}

/// The offset of the oldest dead letter that has not been redriven; `u64::MAX` where there is none.
pub fn oldest(log: &StreamLog, schemas: &SchemaStore) -> Result<u64> {
    let mut oldest = u64::MAX;
    scan(log, schemas, &Filter::default(), &mut |entry| {
        oldest = entry.offset;
        false
    })?;
    Ok(oldest)
}

/// What a redrive did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Redrive {
    /// Records that went back in front of their stage.
    pub redriven: usize,
    /// Records that failed again at once and are dead letters as before, with one attempt more.
    pub failed_again: usize,
    /// Records whose stage the pipeline no longer has; they stay.
    pub unknown: usize,
}

/// What a redrive needs of a pipeline, running or at rest.
pub struct Redriver<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Open logs.
    pub streams: &'a Streams,
    /// Sources, by name.
    pub ingests: &'a BTreeMap<Arc<str>, Arc<Ingest>>,
    /// Schemas.
    pub schemas: &'a SchemaStore,
}

impl Redriver<'_> {
    /// Redrives every dead letter that `filter` takes.
    ///
    /// # Errors
    /// A log can't be read or written; what was redriven before stays so.
    pub async fn redrive(&self, filter: &Filter) -> Result<Redrive> {
        self.redrive_watched(filter, &mut |_, _| {}).await
    }

    /// The same; `watch` is told how many of how many are done.
    ///
    /// # Errors
    /// As [`Redriver::redrive`].
    pub async fn redrive_watched(&self, filter: &Filter, watch: &mut (dyn FnMut(u64, u64) + Send)) -> Result<Redrive> {
        let mut total = Redrive::default();
        let (mut done, mut all) = (0, 0);
        for stream in self.streams.values() {
            scan(&stream.log, self.schemas, filter, &mut |_| {
                all += 1;
                true
            })?;
        }
        for stream in self.streams.values() {
            let mut entries = Vec::new();
            // What fails again lands behind this end and is not tried twice.
            let end = stream.log.end_offset(DEAD_LETTERS);
            let mut from = 0;
            loop {
                entries.clear();
                scan_from(&stream.log, self.schemas, filter, from, &mut |entry| {
                    if entry.offset < end {
                        entries.push(entry);
                    }
                    entries.len() < REDRIVE_BATCH
                })?;
                let Some(last) = entries.last() else { break };
                from = last.offset + 1;
                self.redrive_batch(stream, &entries, &mut total).await?;
                done += entries.len() as u64;
                watch(done, all);
            }
        }
        Ok(total)
    }

    async fn redrive_batch(&self, stream: &Stream, entries: &[Entry], total: &mut Redrive) -> Result<()> {
        let mut marks = Redriven::load(&stream.log);
        let before = marks.clone();
        let mut chunks = Vec::new();
        for entry in entries {
            let Some(more) = self.chunks(stream, entry, total)? else {
                total.unknown += 1;
                continue;
            };
            chunks.extend(more);
            marks.insert(entry.offset);
        }
        let append = Append { producer: PRODUCER.into(), sequence: None, cursor: marks.delta(&before), chunks };
        stream.log.append(append).await.map(drop)
    }

    /// The record in front of its stage, or as a dead letter again; `None` where that stage is gone.
    fn chunks(&self, stream: &Stream, entry: &Entry, total: &mut Redrive) -> Result<Option<Vec<Chunk>>> {
        let letter = &entry.letter;
        if letter.stage == Stage::Decode {
            return self.decode_again(stream, letter, total);
        }
        let partition = letter.partition.unwrap_or(0);
        let (target, schema) = match letter.stage {
            Stage::Deliver => {
                let known =
                    self.plan.sinks.iter().any(|s| *s.name == *letter.component && s.from.contains(stream.name()));
                (sink_target(&letter.component), known.then(|| stream.plan.schema.clone()))
            }
            _ => (letter.component.as_str().into(), self.step_input(stream.name(), &letter.component)),
        };
        let Some(schema) = schema else { return Ok(None) };
        let Ok(batch) = row_from_json(&letter.raw, &schema) else { return Ok(None) };
        total.redriven += 1;
        let tag = target_tag(&target, letter.attempts + 1);
        stream.chunks(&batch, partition, Some(&tag), letter.failed_at_us).map(Some)
    }

    fn decode_again(&self, stream: &Stream, letter: &DeadLetter, total: &mut Redrive) -> Result<Option<Vec<Chunk>>> {
        let Some(ingest) = self.ingests.get(letter.component.as_str()) else { return Ok(None) };
        let mut raw = RawBatch::single(letter.raw.clone(), letter.origin.as_deref().unwrap_or_default().into());
        raw.positions = letter.position.into_iter().collect();
        raw.header = letter.header.clone();
        let prepared = ingest.prepare(&raw)?;
        let Some(failure) = prepared.failures.first() else {
            total.redriven += 1;
            return Ok(Some(prepared.chunks));
        };
        total.failed_again += 1;
        ingest.failed(&prepared.failures[..1], Fate::DeadLetter);
        let again = DeadLetter { attempts: letter.attempts + 1, ..ingest.letter(&raw, failure) };
        Ok(Some(stream.dead_letters_chunk(&[again], ingest.clock.now_us())?.into_iter().collect()))
    }

    /// The schema of the rows that `step` takes in the stage that reads `stream`.
    fn step_input(&self, stream: &str, step: &str) -> Option<SchemaRef> {
        let stage = self.plan.stages.iter().find(|s| &*s.input == stream)?;
        stage.entry(step).map(|entry| entry.schema)
    }
}

/// Takes every dead letter that `filter` takes out of the queue, for good; how many. Their bytes stay in the log until its
/// retention removes them.
///
/// # Errors
/// A log can't be read or written; what was discarded before stays so.
pub async fn discard(logs: &[StreamLog], schemas: &SchemaStore, filter: &Filter) -> Result<usize> {
    let mut discarded = 0;
    for log in logs {
        let mut marks = Redriven::load(log);
        let before = marks.clone();
        scan(log, schemas, filter, &mut |entry| {
            marks.insert(entry.offset);
            discarded += 1;
            true
        })?;
        let cursor = marks.delta(&before);
        if !cursor.is_empty() {
            let append = Append { producer: PRODUCER.into(), sequence: None, cursor, chunks: Vec::new() };
            log.append(append).await?;
        }
    }
    Ok(discarded)
}

/// Offsets of dead letters that were redriven or discarded, as ranges: first → behind the last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Redriven(BTreeMap<u64, u64>);

impl Redriven {
    fn load(log: &StreamLog) -> Self {
        let cursor = log.producer(PRODUCER).map(|p| p.cursor).unwrap_or_default();
        let range = |(key, value): (&String, &Bytes)| {
            let start = key.parse().ok()?;
            let end = std::str::from_utf8(value).ok()?.parse().ok()?;
            Some((start, end))
        };
        Self(cursor.iter().filter_map(range).collect())
    }

    fn contains(&self, offset: u64) -> bool {
        self.0.range(..=offset).next_back().is_some_and(|(_, &end)| offset < end)
    }

    fn insert(&mut self, offset: u64) {
        if self.contains(offset) {
            return;
        }
        let joined = self.0.range(..offset).next_back().filter(|(_, end)| **end == offset).map(|(start, _)| *start);
        let end = self.0.remove(&(offset + 1)).unwrap_or(offset + 1);
        self.0.insert(joined.unwrap_or(offset), end);
    }

    fn delta(&self, before: &Self) -> CursorDelta {
        let gone = before.0.keys().filter(|start| !self.0.contains_key(start)).map(|start| (start.to_string(), None));
        let new = self.0.iter().filter(|(start, end)| before.0.get(start) != Some(end));
        gone.chain(new.map(|(start, end)| (start.to_string(), Some(Bytes::from(end.to_string()))))).collect()
    }
}

/// A row from the JSON that a dead letter keeps.
pub(super) fn row_from_json(raw: &Bytes, schema: &SchemaRef) -> Result<RecordBatch> {
    let fields = schema.fields().iter().map(|f| declared(f)).collect::<Option<Vec<_>>>();
    let fields = fields.ok_or_else(|| Error::bug("a column of this type can't be read from JSON"))?;
    let decoder = build(&DecodeConfig::default(), &StreamSchema { fields }).map_err(Error::bug)?;
    let decoded = decoder.decode(&RawBatch::single(raw.clone(), "".into()));
    if let Some(failure) = decoded.failures.first() {
        return Err(Error::input(failure.failure.message.clone()));
    }
    let columns = schema.fields().iter().zip(decoded.batch.columns()).map(|(f, c)| cast(c, f.data_type()));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// The declared field that reads the JSON of an Arrow column.
fn declared(field: &ArrowField) -> Option<Field> {
    let kind = match field.data_type() {
        DataType::Utf8 if is_json(field) => FieldType::Json,
        other => declared_type(other)?,
    };
    Some(Field { name: field.name().clone(), kind, optional: field.is_nullable() })
}

fn declared_type(data_type: &DataType) -> Option<FieldType> {
    Some(match data_type {
        DataType::Utf8 => FieldType::String,
        DataType::Boolean => FieldType::Bool,
        DataType::Binary => FieldType::Bytes,
        DataType::Timestamp(_, _) => FieldType::Timestamp,
        integer if integer.is_integer() => FieldType::Int,
        float if float.is_floating() => FieldType::Float,
        DataType::List(item) => FieldType::List(Box::new(declared_type(item.data_type())?)),
        DataType::Struct(fields) => FieldType::Struct(fields.iter().map(|f| declared(f)).collect::<Option<_>>()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_and_join() {
        let mut marks = Redriven::default();
        for offset in [5, 3, 4, 9, 3, 8] {
            marks.insert(offset);
        }
        assert_eq!(marks.0, BTreeMap::from([(3, 6), (8, 10)]));
        assert!(marks.contains(5) && !marks.contains(6) && !marks.contains(2));
        let before = Redriven(BTreeMap::from([(3, 4), (5, 6)]));
        let delta = marks.delta(&before);
        assert!(delta.contains(&("5".into(), None)));
        assert!(delta.contains(&("3".into(), Some(Bytes::from_static(b"6")))));
    }
}
