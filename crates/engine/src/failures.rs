//! What becomes of rows that fail behind the decoder: what the component's `on_error` says.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use millstream_core::json::RowWriter;
use millstream_core::{DeadLetter, Error, Result, RowFailure, Rows, Stage};

use crate::graph::Effects;
use crate::spec::OnError;
use crate::streams::StreamBatch;
use crate::tally::Fate;

/// Rows of a batch that failed in one component.
pub struct FailedRows<'a> {
    /// The stage that failed.
    pub stage: Stage,
    /// The rows, as the component was given them, those that did not fail among them.
    pub rows: &'a Rows,
    /// Which failed, and why.
    pub failures: &'a [RowFailure],
    /// `name@digest` of the model, for `predict`.
    pub model_version: Option<&'a str>,
    /// The column of the rows that is their event time; none: that of the record that they come of.
    event_time: Option<usize>,
    from: From<'a>,
}

/// The relation that rows were taken from.
enum From<'a> {
    /// The component has only one, or none.
    Unsaid,
    One(&'a Arc<str>),
    Each(&'a dyn Fn(u32) -> Arc<str>),
}

impl<'a> FailedRows<'a> {
    /// Those of `rows` that `failures` names.
    pub fn of(stage: Stage, rows: &'a Rows, failures: &'a [RowFailure]) -> Self {
        Self { stage, rows, failures, model_version: None, event_time: None, from: From::Unsaid }
    }

    /// All were taken from one relation.
    #[must_use]
    pub fn from(self, input: &'a Arc<str>) -> Self {
        Self { from: From::One(input), ..self }
    }

    /// Each was taken from the relation that `input_of` says.
    #[must_use]
    pub fn from_each(self, input_of: &'a dyn Fn(u32) -> Arc<str>) -> Self {
        Self { from: From::Each(input_of), ..self }
    }

    /// A model failed.
    #[must_use]
    pub fn model(self, version: Option<&'a str>) -> Self {
        Self { model_version: version, ..self }
    }

    /// The rows have their event time in this column: some come of no record of the batch.
    #[must_use]
    pub fn timed(self, event_time: Option<usize>) -> Self {
        Self { event_time, ..self }
    }

    fn event_time_us(&self, row: u32, input: &StreamBatch) -> Option<i64> {
        let Some(column) = self.event_time else { return input.event_time_us(self.rows.origin[row as usize]) };
        let times = self.rows.batch.column(column).as_primitive_opt::<TimestampMicrosecondType>()?;
        times.is_valid(row as usize).then(|| times.value(row as usize))
    }

    fn input(&self, row: u32) -> Option<String> {
        match self.from {
            From::Unsaid => None,
            From::One(input) => Some(input.to_string()),
            From::Each(input_of) => Some(input_of(row).to_string()),
        }
    }
}

/// A component that rejects rows of a batch.
pub struct Reject<'a> {
    /// The component: a transform, a table, or the stream itself.
    pub component: &'a Arc<str>,
    /// What it is, in metrics.
    pub component_kind: &'static str,
    /// What is to become of the rows.
    pub on_error: OnError,
    /// The stream they were read from.
    pub stream: &'a Arc<str>,
    /// The batch that they come from.
    pub input: &'a StreamBatch,
    /// Now.
    pub now_us: i64,
    /// Digest of the pipeline file.
    pub pipeline_version: &'a str,
}

impl Reject<'_> {
    /// Does with failed rows what `on_error` says, and keeps it in `effects`.
    ///
    /// # Errors
    /// `Input` with `on_error: fail`.
    pub fn put_aside(&self, failed: &FailedRows<'_>, effects: &mut Effects) -> Result<()> {
        let Some(first) = failed.failures.first() else { return Ok(()) };
        let (fate, letters) = match self.on_error {
            OnError::Fail => {
                return Err(Error::input(format!(
                    "{} failed on the record at partition {} offset {} of {}: {} (on_error: fail)",
                    self.component,
                    self.input.partition,
                    self.offset(failed, first.row),
                    self.stream,
                    first.failure.message
                )));
            }
            OnError::Skip => (Fate::Skipped, Vec::new()),
            OnError::DeadLetter | OnError::Default => (Fate::DeadLetter, self.letters(failed)?),
        };
        effects.failed(self, failed, fate, letters);
        Ok(())
    }

    fn offset(&self, failed: &FailedRows<'_>, row: u32) -> u64 {
        self.input.offset_of(failed.rows.origin[row as usize])
    }

    /// One dead letter for each failure, with its row as JSON.
    ///
    /// # Errors
    /// A column has no text form.
    pub fn letters(&self, failed: &FailedRows<'_>) -> Result<Vec<DeadLetter>> {
        let writer = RowWriter::bind(&failed.rows.batch)?;
        let letter = |failure: &RowFailure| {
            let mut raw = Vec::new();
            writer.write(failure.row as usize, &mut raw);
            DeadLetter {
                stage: failed.stage,
                component: self.component.to_string(),
                input: failed.input(failure.row),
                kind: failure.failure.kind.as_str().into(),
                message: failure.failure.message.clone(),
                raw: raw.into(),
                origin: Some(self.stream.to_string()),
                position: None,
                header: None,
                partition: Some(self.input.partition),
                offset: Some(self.offset(failed, failure.row)),
                event_time_us: failed.event_time_us(failure.row, self.input),
                failed_at_us: self.now_us,
                attempts: self.input.attempt(),
                pipeline_version: self.pipeline_version.into(),
                model_version: failed.model_version.map(str::to_owned),
            }
        };
        Ok(failed.failures.iter().map(letter).collect())
    }
}
