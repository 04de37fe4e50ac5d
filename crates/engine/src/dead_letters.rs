//! The dead letter queue: every stream keeps the records that failed on their way out of it, or into it, in a partition
//! of its own. Here they are listed, shown and redriven.
//!
//! A redrive appends the record in front of the stage that failed **and** marks its dead letter as redriven in one
//! atomic append, so that a record is always in exactly one place. The marks are ranges of offsets, kept as the cursor
//! of the producer `redrive`. A record that fails again becomes a new dead letter with one attempt more.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, SchemaRef};
use bytes::Bytes;
use millstream_connectors::format::{DecodeConfig, build};
use millstream_core::schema::is_json;
use millstream_core::{
    CursorDelta, DeadLetter, Decoded, Error, Field, FieldType, RawBatch, Result, Stage, StreamSchema,
};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Append, DEAD_LETTERS, Log};

use crate::streams::decode_chunk;

mod ids;
mod redrive;
pub mod relation;
pub mod summary;

pub use ids::Ids;
pub use redrive::{Redrive, RedriveProgress, Redriver};

const PRODUCER: &str = "redrive";
const READ_BYTES: usize = 1 << 20;

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

/// Which dead letters are meant; an empty list and `None` mean all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Ids.
    pub ids: Ids,
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
        self.ids.take(&entry.stream, entry.offset)
            && self.component.as_ref().is_none_or(|c| *c == entry.letter.component)
            && self.stage.is_none_or(|s| s == entry.letter.stage)
            && self.kind.as_ref().is_none_or(|k| *k == entry.letter.kind)
    }
}

/// The dead letters of one stream that have not been redriven, oldest first, until `visit` answers false. Reads files,
/// and so blocks.
pub fn scan(log: &Log, schemas: &SchemaStore, filter: &Filter, visit: &mut dyn FnMut(Entry) -> bool) -> Result<()> {
    scan_from(log, schemas, filter, 0, visit)
}

/// The same from an offset on.
fn scan_from(
    log: &Log,
    schemas: &SchemaStore,
    filter: &Filter,
    from: u64,
    visit: &mut dyn FnMut(Entry) -> bool,
) -> Result<()> {
    let redriven = Redriven::load(log);
    let stream: Arc<str> = log.name().into();
    let (first, behind) = filter.ids.bounds(&stream);
    let from = from.max(first).max(log.start_offset(DEAD_LETTERS));
    if from >= behind.min(log.end_offset(DEAD_LETTERS)) {
        return Ok(());
    }
    let mut reader = log.reader(DEAD_LETTERS, from)?;
    loop {
        let chunks = reader.blocking_read(READ_BYTES)?;
        if chunks.is_empty() {
            return Ok(());
        }
        for chunk in chunks {
            let batch = decode_chunk(schemas, chunk)?;
            if batch.base_offset >= behind {
                return Ok(());
            }
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

/// The offset of the oldest dead letter that has not been redriven; `u64::MAX` where there is none. Known without
/// reading: every offset of the partition is a letter.
pub fn oldest(log: &Log) -> u64 {
    let oldest = Redriven::load(log).first_without(log.start_offset(DEAD_LETTERS));
    if oldest < log.end_offset(DEAD_LETTERS) { oldest } else { u64::MAX }
}

/// Takes every dead letter that `filter` takes out of the queue, for good; how many. Their bytes stay in the log until
/// its retention removes them.
///
/// # Errors
/// A log can't be read or written; what was discarded before stays so.
pub async fn discard(logs: &[Log], schemas: &SchemaStore, filter: &Filter) -> Result<usize> {
    let mut discarded = 0;
    for log in logs {
        let mut marks = Redriven::load(log);
        let before = marks.clone();
        tokio::task::block_in_place(|| {
            scan(log, schemas, filter, &mut |entry| {
                marks.insert(entry.offset);
                discarded += 1;
                true
            })
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
    fn load(log: &Log) -> Self {
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

    /// The first offset from `from` on that is not in it.
    fn first_without(&self, from: u64) -> u64 {
        let holds = self.0.range(..=from).next_back().filter(|(_, end)| from < **end);
        // Ranges that touch are one range.
        holds.map_or(from, |(_, &end)| end)
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
    let decoded = decode_json(&RawBatch::single(raw.clone(), "".into()), schema)?;
    match decoded.failures.first() {
        Some(failure) => Err(Error::input(failure.failure.message.clone())),
        None => cast_to(&decoded.batch, schema),
    }
}

/// Rows from the JSON that dead letters keep, and which of them each comes from; without those that do not fit any
/// more.
fn rows_from_json(raw: &RawBatch, schema: &SchemaRef) -> Result<(RecordBatch, Vec<u32>)> {
    let decoded = decode_json(raw, schema)?;
    Ok((cast_to(&decoded.batch, schema)?, decoded.record))
}

fn decode_json(raw: &RawBatch, schema: &SchemaRef) -> Result<Decoded> {
    let fields = schema.fields().iter().map(|f| declared(f)).collect::<Option<Vec<_>>>();
    let fields = fields.ok_or_else(|| Error::bug("a column of this type can't be read from JSON"))?;
    let decoder = build(&DecodeConfig::default(), &StreamSchema { fields }).map_err(Error::bug)?;
    // What is said of the bytes is said of those that the source received; these are ours.
    let raw = RawBatch { data: raw.data.clone(), spans: raw.spans.clone(), ..RawBatch::default() };
    Ok(decoder.decode(&raw))
}

fn cast_to(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().zip(batch.columns()).map(|(f, c)| cast(c, f.data_type()));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?)
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
    use millstream_core::ManualClock;
    use millstream_storage::log::{Chunk, LogOptions};

    use super::*;

    #[tokio::test]
    async fn the_oldest_letter_that_was_not_redriven_is_known_from_the_marks() {
        let log = Log::memory("wire", LogOptions::new(1), Arc::new(ManualClock::new(0)));
        assert_eq!(oldest(&log), u64::MAX);
        let letters = vec![Chunk::rows(DEAD_LETTERS, 6, 0, Bytes::from_static(b"six letters"))];
        for (marked, chunks, expected) in
            [(vec![], letters, 0), (vec![0, 1, 3], vec![], 2), (vec![2, 4, 5], vec![], u64::MAX)]
        {
            let before = Redriven::load(&log);
            let mut marks = before.clone();
            marked.into_iter().for_each(|offset| marks.insert(offset));
            let append = Append { producer: PRODUCER.into(), sequence: None, cursor: marks.delta(&before), chunks };
            log.append(append).await.unwrap();
            assert_eq!(oldest(&log), expected);
        }
    }

    #[test]
    fn ranges_grow_and_join() {
        let mut marks = Redriven::default();
        for offset in [5, 3, 4, 9, 3, 8] {
            marks.insert(offset);
        }
        assert_eq!(marks.0, BTreeMap::from([(3, 6), (8, 10)]));
        assert!(marks.contains(5) && !marks.contains(6) && !marks.contains(2));
        assert_eq!([2, 3, 5, 6, 8, 10].map(|from| marks.first_without(from)), [2, 6, 6, 6, 10, 10]);
        let before = Redriven(BTreeMap::from([(3, 4), (5, 6)]));
        let delta = marks.delta(&before);
        assert!(delta.contains(&("5".into(), None)));
        assert!(delta.contains(&("3".into(), Some(Bytes::from_static(b"6")))));
    }
}
