//! Rows in the order of their event time: each waits until the watermark has reached it.
//!
//! A row's *place* is its event time. That of a row that came late is the watermark that was in front of it, behind
//! all rows of that time, and among late ones by their event time. Rows of one place stay in the order in which they
//! came. So the order is that of the rows and
//! their sources alone, whatever way and in how many pieces they came; but for rows of exactly one time that came
//! through different partitions.
//!
//! ```text
//! lane "o/" name 00 time … → timers (`keyed::Timers`) whose keys are the rows:
//!                            late u8 | event time i64 BE | offset u64 BE | row (`storage::row`)
//! ```

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Error, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::keyed::Timers;
use millstream_storage::log::Watermark;
use millstream_storage::row::RowCodec;
use millstream_storage::state::{State, Writes};

/// Rows that waited and go on together at most, beside those of one entry.
const ROWS_MAX: usize = 8192;
/// Bytes of a waiting row in front of its values.
const HEAD_BYTES: usize = 17;

/// Rows of one operator that wait.
#[derive(Debug)]
pub struct InOrder {
    waiting: Timers,
    codec: RowCodec,
    schema: SchemaRef,
}

/// A row and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where it stands in event time, microseconds since the epoch.
    pub time_us: i64,
    /// It came late: `time_us` is the watermark that was in front of it.
    pub is_late: bool,
    /// Its event time.
    pub event_us: i64,
    /// Its offset in the input of the stage.
    pub offset: u64,
}

/// Rows whose turn has come, in order.
#[derive(Debug)]
pub struct Passed {
    /// The rows.
    pub batch: RecordBatch,
    /// Their places.
    pub places: Vec<Place>,
    /// Which rows of what was given they are, where they are all of that: none where some waited.
    pub given: Option<Vec<u32>>,
}

impl InOrder {
    /// Opens what the operator called `name`, whose rows have the columns of `schema`, keeps below `lane` of a state.
    ///
    /// # Errors
    /// As for reading the state; `Config` for a column of a type that can't be kept.
    pub async fn open(
        state: State,
        lane: &str,
        name: &str,
        schema: &SchemaRef,
        schemas: &Arc<SchemaStore>,
    ) -> Result<Self> {
        let prefix = Bytes::from([lane.as_bytes(), b"o/", name.as_bytes(), b"\0"].concat());
        let codec = RowCodec::new(schema, schemas.register(schema)?, schemas.clone())?;
        Ok(Self { waiting: Timers::open(state, prefix).await?, codec, schema: schema.clone() })
    }

    /// True where there are rows whose turn has come and that have not passed yet: to be called again, before any rows
    /// are given.
    pub fn is_behind(&self, watermark: Option<Watermark>) -> bool {
        limit(watermark).zip(self.waiting.next_us()).is_some_and(|(limit, next)| next <= limit)
    }

    /// Takes rows with their places, `(row of batch, place)`, and gives those whose turn has come.
    ///
    /// # Errors
    /// As for reading the state. The operator must be dropped then, as where a commit fails.
    pub async fn pass(
        &mut self,
        batch: &RecordBatch,
        given: &[(u32, Place)],
        watermark: Option<Watermark>,
        writes: &mut Writes,
    ) -> Result<Passed> {
        let limit = limit(watermark);
        let mut waited = Vec::new();
        if let Some(limit) = limit.filter(|_| self.is_behind(watermark)) {
            for due in self.waiting.due(limit, ROWS_MAX).await? {
                for key in &due.keys {
                    waited.push(waiting_row(due.time_us, key)?);
                }
                self.waiting.fired(&due, writes);
            }
        }
        // Behind those that still wait for their turn nobody else has it.
        let passes = |place: &Place| limit.is_some_and(|limit| place.time_us <= limit) && !self.is_behind(watermark);
        let (mut now, later): (Vec<_>, Vec<_>) = given.iter().copied().partition(|(_, place)| passes(place));
        self.wait(batch, &later, writes)?;
        now.sort_by_key(|(_, place)| *place);
        if waited.is_empty() {
            let rows: Vec<u32> = now.iter().map(|(row, _)| *row).collect();
            let places = now.iter().map(|(_, place)| *place).collect();
            return Ok(Passed { batch: taken(batch, &rows)?, places, given: rows.is_sorted().then_some(rows) });
        }
        self.merged(batch, waited, now)
    }

    /// Rows that waited and rows that need not, as one batch.
    fn merged(&self, batch: &RecordBatch, waited: Vec<(Place, Bytes)>, now: Vec<(u32, Place)>) -> Result<Passed> {
        let rows: Vec<Option<Bytes>> = waited.iter().map(|(_, row)| Some(row.clone())).collect();
        let columns = self.codec.read(&rows, None)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let old = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|e| {
            Error::config(format!(
                "rows that wait for their time were kept with an earlier schema, and do not fit the present one ({e}): \
                 make what is missing optional"
            ))
        })?;
        let new = taken(batch, &now.iter().map(|(row, _)| *row).collect::<Vec<_>>())?;
        let mut order: Vec<(Place, u32)> = (0..)
            .zip(waited.iter().map(|w| w.0).chain(now.iter().map(|n| n.1)))
            .map(|(row, place)| (place, row))
            .collect();
        order.sort_unstable();
        let both = concat_batches(
            &self.schema,
            [
                &old,
                &RecordBatch::try_new_with_options(
                    self.schema.clone(),
                    new.columns().to_vec(),
                    &RecordBatchOptions::new().with_row_count(Some(new.num_rows())),
                )?,
            ],
        )?;
        let rows: Vec<u32> = order.iter().map(|(_, row)| *row).collect();
        Ok(Passed { batch: taken(&both, &rows)?, places: order.into_iter().map(|o| o.0).collect(), given: None })
    }

    fn wait(&mut self, batch: &RecordBatch, later: &[(u32, Place)], writes: &mut Writes) -> Result<()> {
        if later.is_empty() {
            return Ok(());
        }
        let rows = taken(batch, &later.iter().map(|(row, _)| *row).collect::<Vec<_>>())?;
        let encoded = self.codec.encode(rows.columns(), later.len(), |_| 0);
        let timers = later.iter().enumerate().map(|(row, (_, place))| {
            let (event, offset) = (place.event_us.to_be_bytes(), place.offset.to_be_bytes());
            let head = [&[u8::from(place.is_late)][..], &event, &offset].concat();
            (place.time_us, Bytes::from([head.as_slice(), &encoded.get(row)].concat()))
        });
        self.waiting.set_each(timers.collect(), 1, writes);
        Ok(())
    }
}

/// Up to where rows have their turn.
fn limit(watermark: Option<Watermark>) -> Option<i64> {
    match watermark? {
        Watermark::At(time) => Some(time),
        Watermark::End => Some(i64::MAX),
        Watermark::Idle => None,
    }
}

fn waiting_row(time_us: i64, key: &Bytes) -> Result<(Place, Bytes)> {
    let broken = || Error::corruption("a row that waits for its time does not read back");
    let head = key.get(..HEAD_BYTES).ok_or_else(broken)?;
    let event_us = head[1..9].try_into().map(i64::from_be_bytes).map_err(|_| broken())?;
    let offset = head[9..].try_into().map(u64::from_be_bytes).map_err(|_| broken())?;
    Ok((Place { time_us, is_late: head[0] != 0, event_us, offset }, key.slice(HEAD_BYTES..)))
}

fn taken(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    if rows.len() == batch.num_rows() && rows.is_sorted() {
        return Ok(batch.clone());
    }
    Ok(take_record_batch(batch, &UInt32Array::from(rows.to_vec()))?)
}

#[cfg(test)]
mod tests;
