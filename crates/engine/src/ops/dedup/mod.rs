//! De-duplication: of the rows with a key, only the first of a span of event time.
//!
//! A row that goes through opens a span of `within` from its event time on. Rows of its key with a time below the end
//! of that are repeats; the next one from there on goes through and opens the next. "First" is by arrival, which is the
//! order of the log. A span is forgotten when the watermark has reached its end: a row that is behind the watermark by
//! so much can't be told from a repeat any more, and is late.
//!
//! The answer depends on the rows and the watermarks in front of them, not on how they were cut into batches and
//! commits, nor on when spans are forgotten.

mod spans;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use millstream_core::{Error, Failure, FailureKind, HumanDuration, Result, RowFailure, Rows};
use millstream_storage::keyed::encode_row_keys;
use millstream_storage::log::Watermark;
use millstream_storage::state::{State, Writes};

pub use self::spans::{Row, Spans, Verdict};
use crate::spec::DedupSpec;
use crate::streams::StreamBatch;

/// Spans that one batch forgets, beside as many as it has rows.
const FORGET_KEYS: usize = 1024;

/// The operator of one partition.
#[derive(Debug)]
pub struct Dedup {
    spec: DedupSpec,
    spans: Spans,
}

impl Dedup {
    /// Opens the operator called `name` below `lane` of a task's state.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(state: State, lane: &str, name: &str, spec: DedupSpec) -> Result<Self> {
        let within_us = i64::try_from(spec.within.as_micros()).unwrap_or(i64::MAX);
        Ok(Self { spans: Spans::open(state, lane, name, within_us).await?, spec })
    }

    /// The rows that go through, and those that can't be judged.
    ///
    /// # Errors
    /// As for reading the state: the operator must be dropped then.
    pub async fn run(
        &mut self,
        rows: &Rows,
        input: &StreamBatch,
        writes: &mut Writes,
    ) -> Result<(Rows, Vec<RowFailure>)> {
        let columns: Vec<ArrayRef> = self.spec.key.iter().map(|&column| rows.batch.column(column).clone()).collect();
        let keys = encode_row_keys(self.spans.prefix(), &columns)?;
        let times = rows.batch.column(self.spec.event_time);
        let times = times
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| Error::bug("an event time that is no timestamp"))?;
        let name = |column: usize| rows.batch.schema_ref().field(column).name().clone();
        let mut nulls = keys.nulls().iter().peekable();
        let (mut judged, mut of, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows.len() {
            let null = nulls.next_if(|(null, _)| *null == row);
            let missing = null.map(|(_, column)| self.spec.key[*column]);
            if let Some(column) = missing.or_else(|| times.is_null(row).then_some(self.spec.event_time)) {
                let message = format!("`{}` is null: without it nothing tells whether this is a repeat", name(column));
                failures.push(failure(row, FailureKind::MissingField, message));
                continue;
            }
            of.push(row as u32);
            let late_behind_us = input.late_behind(rows.origin[row]);
            judged.push(Row { key: keys.get(row), time_us: times.value(row), late_behind_us });
        }
        let verdicts = self.spans.judge(&judged, writes).await?;
        let mut first = Vec::with_capacity(verdicts.len());
        for ((row, judged), verdict) in of.iter().zip(&judged).zip(&verdicts) {
            match verdict {
                Verdict::First => first.push(*row),
                Verdict::Repeat => {}
                Verdict::Late => {
                    let behind = judged.late_behind_us.unwrap_or(judged.time_us).saturating_sub(judged.time_us);
                    let (behind, within) = (micros(behind), HumanDuration(self.spec.within));
                    let message = format!(
                        "it came {behind} behind the watermark: what was here {within} ago is forgotten, so nothing \
                         tells whether it is a repeat"
                    );
                    failures.push(failure(*row as usize, FailureKind::Late, message));
                }
            }
        }
        failures.sort_by_key(|failure| failure.row);
        let through = if first.len() == rows.len() { rows.clone() } else { rows.take(&first)? };
        Ok((through, failures))
    }

    /// Event time has passed: forgets what is over. At the end of a source nothing is, since it may go on one day.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub async fn on_time(&mut self, watermark: Watermark, rows: usize, writes: &mut Writes) -> Result<()> {
        let Watermark::At(time) = watermark else { return Ok(()) };
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
