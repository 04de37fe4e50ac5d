//! The `predict` step: a column of text, or several columns, in; a struct column out. The only step that suspends:
//! bounded in flight, with time-out and retry, and order kept; while the model is away, it waits. It turns rows to
//! inputs and answers to rows; between them is the [`Scorer`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use millstream_core::{Failure, FailureKind, Result, RowFailure, Rows};
use millstream_models::{ModelInfo, output_column_from};
use tokio_util::sync::CancellationToken;

use crate::scorer::waiting::{Patience, Told};
use crate::scorer::{Answer, Asking, Keep, Scorer};
use crate::spec::{OnError, PredictSpec};

mod inputs;

/// Records that one call to the model's queue carries.
const CALL_RECORDS: usize = 32;

/// A `predict` step, ready to run; shared by the tasks of all partitions.
#[derive(Clone)]
pub struct PredictStep {
    spec: Arc<PredictSpec>,
    schema: SchemaRef,
    scorer: Scorer,
    asking: Asking,
    /// The value of the output column where `on_error: default`.
    default: Option<ArrayRef>,
}

impl std::fmt::Debug for PredictStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PredictStep({})", self.spec.model)
    }
}

impl PredictStep {
    /// A step whose rows come out with `schema`: the columns of the input, then the prediction.
    pub fn new(
        spec: PredictSpec,
        schema: SchemaRef,
        on_error: OnError,
        scorer: Scorer,
        stop: CancellationToken,
        told: Arc<dyn Told>,
    ) -> Result<Self> {
        let output = schema.fields().len() - 1;
        let default = match (on_error, &spec.default) {
            (OnError::Default, Some(value)) => Some(default_value(value, &schema, output)?),
            (OnError::Default, None) => Some(new_null_array(schema.field(output).data_type(), 1)),
            _ => None,
        };
        let call_inputs = spec.max_in_flight.clamp(1, CALL_RECORDS);
        let asking = Asking {
            timeout: spec.timeout,
            retry: spec.retry,
            call_inputs,
            calls: (spec.max_in_flight / call_inputs).max(1),
            keep: Keep::First,
            patience: Some(Patience { give_up_after: spec.give_up_after, stop, told }),
        };
        Ok(Self { spec: Arc::new(spec), schema, scorer, asking, default })
    }

    /// `name@digest` of the model.
    pub fn model_version(&self) -> String {
        let info = self.scorer.info();
        format!("{}@{}", info.name, info.digest)
    }

    /// Scores every row. Failures name rows of `rows.batch`; where a default is set, there are none.
    ///
    /// # Errors
    /// The cache can't be read or written; the pipeline stops while the model is away (`STOPPED`).
    pub async fn run(&self, rows: &Rows) -> Result<(Rows, Vec<RowFailure>)> {
        let inputs = inputs::read(&self.spec.input, &rows.batch)?;
        let is_null: Vec<bool> = inputs.iter().map(Option::is_none).collect();
        let inputs: Vec<_> = inputs.into_iter().flatten().collect();
        let mut scored = self.scorer.score(&inputs, &self.asking).await?.into_iter();
        let null = || Err(Failure::new(FailureKind::MissingField, "the input of the model is null").into());
        let answer = |is_null| if is_null { Some(null()) } else { scored.next() };
        self.assemble(rows, is_null.into_iter().filter_map(answer).collect())
    }

    fn assemble(&self, rows: &Rows, answers: Vec<Answer>) -> Result<(Rows, Vec<RowFailure>)> {
        let mut good = Vec::with_capacity(answers.len());
        let mut predictions = Vec::with_capacity(answers.len());
        let mut scorers: Vec<Arc<ModelInfo>> = Vec::with_capacity(answers.len());
        let mut failures = Vec::new();
        for (row, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(scored) => {
                    good.push(row as u32);
                    predictions.push(scored.prediction);
                    scorers.push(scored.by);
                }
                Err(unanswered) => failures.push(RowFailure { row: row as u32, failure: unanswered.failure }),
            }
        }
        let mut column = output_column_from(&self.scorer.info(), &predictions, |i| &*scorers[i])?;
        let kept = match &self.default {
            None if failures.is_empty() => rows.clone(),
            None => rows.take(&good)?,
            Some(default) => {
                column = with_default(&column, default, rows.len(), &failures)?;
                failures.clear();
                rows.clone()
            }
        };
        let mut columns = kept.batch.columns().to_vec();
        columns.push(column);
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        Ok((Rows { batch, origin: kept.origin }, failures))
    }
}

/// Puts `default` where a row failed; `good` holds the other rows in order.
fn with_default(good: &ArrayRef, default: &ArrayRef, rows: usize, failures: &[RowFailure]) -> Result<ArrayRef> {
    let all = concat(&[good.as_ref(), default.as_ref()])?;
    let default_index = good.len() as u32;
    let mut failed = failures.iter().map(|f| f.row).peekable();
    let mut next_good = 0;
    let indices: Vec<u32> = (0..rows as u32)
        .map(|row| {
            if failed.next_if_eq(&row).is_some() {
                return default_index;
            }
            next_good += 1;
            next_good - 1
        })
        .collect();
    Ok(arrow::compute::take(&all, &arrow::array::UInt32Array::from(indices), None)?)
}

fn default_value(value: &serde_json::Value, schema: &SchemaRef, output: usize) -> Result<ArrayRef> {
    if value.is_null() {
        return Ok(new_null_array(schema.field(output).data_type(), 1));
    }
    let wrong = |e: arrow::error::ArrowError| {
        millstream_core::Error::config(format!("`default` does not fit the type of the prediction: {e}"))
    };
    let field = Arc::new(arrow::datatypes::Schema::new(vec![schema.field(output).clone()]));
    let mut decoder = arrow::json::ReaderBuilder::new(field).build_decoder().map_err(wrong)?;
    decoder.serialize(&[serde_json::json!({ schema.field(output).name(): value })]).map_err(wrong)?;
    let batch = decoder.flush().map_err(wrong)?;
    batch.map(|b| b.column(0).clone()).ok_or_else(|| millstream_core::Error::config("`default` is empty"))
}

#[cfg(test)]
mod tests;
