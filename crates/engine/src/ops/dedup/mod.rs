//! De-duplication: of the rows with a key, only the first of a span of event time.
//!
//! Rows are judged in the order of their event time, so each waits until the watermark has reached it (`in_order.rs`).
//! A row that goes through opens a span of `within` from its event time on. Rows of its key with a time below the end
//! of that are repeats; the next one from there on goes through and opens the next. A span is forgotten when the
//! watermark has reached its end: a row that came late by so much can't be told from a repeat any more.
//!
//! The answer depends on the rows and the watermarks in front of them, not on how they were cut into batches and
//! commits, nor on when spans are forgotten.

mod spans;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use millstream_core::{Error, Failure, FailureKind, HumanDuration, Result, RowFailure, Rows};
use millstream_storage::codec::SchemaStore;
use millstream_storage::keyed::{RowKeys, encode_row_keys};
use millstream_storage::log::Watermark;
use millstream_storage::state::{State, Writes};

pub use self::spans::{Row, Spans, Verdict};
use super::Origins;
use super::in_order::{InOrder, Place};
use crate::spec::DedupSpec;

/// Spans that one batch forgets, beside as many as it has rows.
const FORGET_KEYS: usize = 1024;

/// The operator of one partition.
#[derive(Debug)]
pub struct Dedup {
    spec: DedupSpec,
    waiting: InOrder,
    spans: Spans,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Judged {
    /// The rows that go through.
    pub through: Rows,
    /// Rows that were given and can't be judged.
    pub unjudged: Vec<RowFailure>,
    /// Rows whose turn it was, and those of them that came too late.
    pub turn: Rows,
    /// See `turn`.
    pub too_late: Vec<RowFailure>,
}

impl Dedup {
    /// Opens the operator called `name` below `lane` of a task's state. Its rows have the columns of `schema`.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(
        (state, lane): (State, &str),
        name: &str,
        schema: &SchemaRef,
        schemas: &Arc<SchemaStore>,
        spec: DedupSpec,
    ) -> Result<Self> {
        let within_us = i64::try_from(spec.within.as_micros()).unwrap_or(i64::MAX);
        let waiting = InOrder::open(state.clone(), lane, name, schema, schemas).await?;
        Ok(Self { waiting, spans: Spans::open(state, lane, name, within_us).await?, spec })
    }

    /// True where rows have their turn and were not judged yet.
    pub fn is_behind(&self, watermark: Option<Watermark>) -> bool {
        self.waiting.is_behind(watermark)
    }

    /// Takes rows, and judges those whose turn it is.
    ///
    /// # Errors
    /// As for reading the state: the operator must be dropped then.
    pub async fn run(
        &mut self,
        rows: &Rows,
        origins: &mut Origins<'_>,
        watermark: Option<Watermark>,
        writes: &mut Writes,
    ) -> Result<Judged> {
        let times = self.times(&rows.batch)?;
        let keys = self.keys(&rows.batch)?;
        let name = |column: usize| rows.batch.schema_ref().field(column).name().clone();
        let mut nulls = keys.nulls().iter().peekable();
        let (mut given, mut unjudged) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in 0..rows.len() {
            let null = nulls.next_if(|(null, _)| *null == row);
            let missing = null.map(|(_, column)| self.spec.key[*column]);
            if let Some(column) = missing.or_else(|| times.is_null(row).then_some(self.spec.event_time)) {
                let message = format!("`{}` is null: without it nothing tells whether this is a repeat", name(column));
                unjudged.push(failure(row, FailureKind::MissingField, message));
                continue;
            }
            let origin = rows.origin[row];
            let late_behind = origins.late_behind(origin);
            let (event_us, offset) = (times.value(row), origins.offset(origin));
            let time_us = late_behind.unwrap_or(event_us);
            given.push((row as u32, Place { time_us, is_late: late_behind.is_some(), event_us, offset }));
        }
        let passed = self.waiting.pass(&rows.batch, &given, watermark, writes).await?;
        let origin: Arc<[u32]> = match &passed.given {
            Some(given) => given.iter().map(|&row| rows.origin[row as usize]).collect(),
            None => {
                let late = passed.places.iter().map(|place| place.is_late.then_some(place.time_us));
                late.map(|late| origins.of_waited(late)).collect()
            }
        };
        let turn = Rows { batch: passed.batch, origin };
        let (first, too_late) = self.judge(&turn, &passed.places, writes).await?;
        let through = if first.len() == turn.len() { turn.clone() } else { turn.take(&first)? };
        self.forget(watermark, rows.len() + turn.len(), writes).await?;
        Ok(Judged { through, unjudged, turn, too_late })
    }

    /// Which rows are the first of their span, and which came too late to tell.
    async fn judge(
        &mut self,
        turn: &Rows,
        places: &[Place],
        writes: &mut Writes,
    ) -> Result<(Vec<u32>, Vec<RowFailure>)> {
        let (times, keys) = (self.times(&turn.batch)?, self.keys(&turn.batch)?);
        let row = |(row, place): (usize, &Place)| Row {
            key: keys.get(row),
            time_us: times.value(row),
            late_behind_us: place.is_late.then_some(place.time_us),
        };
        let rows: Vec<Row> = places.iter().enumerate().map(row).collect();
        let verdicts = self.spans.judge(&rows, writes).await?;
        let (mut first, mut too_late) = (Vec::with_capacity(verdicts.len()), Vec::new());
        for (row, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Verdict::First => first.push(row as u32),
                Verdict::Repeat => {}
                Verdict::Late => {
                    let behind = micros(places[row].time_us.saturating_sub(rows[row].time_us));
                    let within = HumanDuration(self.spec.within);
                    let message = format!(
                        "it came {behind} behind the watermark: what was here {within} ago is forgotten, so nothing \
                         tells whether it is a repeat"
                    );
                    too_late.push(failure(row, FailureKind::Late, message));
                }
            }
        }
        Ok((first, too_late))
    }

    fn keys(&self, batch: &RecordBatch) -> Result<RowKeys> {
        let columns: Vec<ArrayRef> = self.spec.key.iter().map(|&column| batch.column(column).clone()).collect();
        encode_row_keys(self.spans.prefix(), &columns)
    }

    fn times<'b>(&self, batch: &'b RecordBatch) -> Result<&'b TimestampMicrosecondArray> {
        let times = batch.column(self.spec.event_time).as_primitive_opt::<TimestampMicrosecondType>();
        times.ok_or_else(|| Error::bug("an event time that is no timestamp"))
    }

    /// Forgets what is over. At the end of a source nothing is, since it may go on one day.
    async fn forget(&mut self, watermark: Option<Watermark>, rows: usize, writes: &mut Writes) -> Result<()> {
        let Some(Watermark::At(time)) = watermark.filter(|_| !self.is_behind(watermark)) else { return Ok(()) };
        if self.spans.next_us().is_some_and(|next| next <= time) {
            self.spans.forget(time, rows + FORGET_KEYS, writes).await?;
        }
        Ok(())
    }
}

fn failure(row: usize, kind: FailureKind, message: String) -> RowFailure {
    RowFailure { row: row as u32, failure: Failure::new(kind, message) }
}

fn micros(micros: i64) -> HumanDuration {
    HumanDuration(std::time::Duration::from_micros(micros.unsigned_abs()))
}
