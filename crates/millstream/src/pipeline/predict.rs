//! The `predict` step: a column of text in, a struct column out. The only step that suspends: bounded in flight, with
//! time-out, retry with back-off and jitter, and order kept.
//!
//! Retry lives here and nowhere below: only this step knows how long a record may still wait, counts the attempts for
//! the dead letter, and asks a model's `fallback` when they are used up.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use futures::stream;
use millstream_core::{Failure, FailureKind, Result, RowFailure, Rows};
use millstream_models::{BreakerState, Fallback, ModelHandle, Prediction, output_column_from};

use crate::config::checked::{OnError, PredictSpec};

/// Records that one call to the model's queue carries.
const CALL_RECORDS: usize = 32;

/// A `predict` step, ready to run; shared by the tasks of all partitions.
#[derive(Clone)]
pub struct PredictStep {
    spec: Arc<PredictSpec>,
    schema: SchemaRef,
    model: ModelHandle,
    /// Answers where the model as a whole can't.
    fallback: Option<Fallback>,
    /// The value of the output column where `on_error: default`.
    default: Option<ArrayRef>,
}

impl std::fmt::Debug for PredictStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PredictStep({})", self.spec.model)
    }
}

type Answer = std::result::Result<Prediction, Failure>;

/// What one call came to: an answer per text, and whether the fallback gave them.
type Called = (Vec<Answer>, bool);

impl PredictStep {
    /// A step whose rows come out with `schema`: the columns of the input, then the prediction.
    pub fn new(
        spec: PredictSpec,
        schema: SchemaRef,
        on_error: OnError,
        model: ModelHandle,
        fallback: Option<Fallback>,
    ) -> Result<Self> {
        let output = schema.fields().len() - 1;
        let default = match (on_error, &spec.default) {
            (OnError::Default, Some(value)) => Some(default_value(value, &schema, output)?),
            (OnError::Default, None) => Some(new_null_array(schema.field(output).data_type(), 1)),
            _ => None,
        };
        Ok(Self { spec: Arc::new(spec), schema, model, fallback, default })
    }

    /// `name@digest` of the model.
    pub fn model_version(&self) -> String {
        format!("{}@{}", self.model.info().name, self.model.info().digest)
    }

    /// Scores every row. Failures name rows of `rows.batch`; where a default is set, there are none.
    pub async fn run(&self, rows: &Rows) -> Result<(Rows, Vec<RowFailure>)> {
        let input = rows.batch.column(self.spec.input).as_string::<i32>().clone();
        let texts: Vec<u32> = (0..input.len() as u32).filter(|&row| input.is_valid(row as usize)).collect();
        let calls = stream::iter(texts.chunks(CALL_RECORDS).map(<[u32]>::to_vec)).map(|call| {
            let texts: Vec<String> = call.iter().map(|&row| input.value(row as usize).to_owned()).collect();
            async move { (call, self.call(texts).await) }
        });
        let in_flight = self.spec.max_in_flight.div_ceil(CALL_RECORDS).max(1);
        let mut answered = calls.buffered(in_flight);
        let null = || Err(Failure::new(FailureKind::MissingField, "the input of the model is null"));
        let mut answers: Vec<Answer> = (0..input.len()).map(|_| null()).collect();
        let mut by_fallback = vec![false; input.len()];
        while let Some((call, (results, is_fallback))) = answered.next().await {
            for (row, answer) in call.into_iter().zip(results) {
                answers[row as usize] = answer;
                by_fallback[row as usize] = is_fallback;
            }
        }
        self.assemble(rows, answers, &by_fallback)
    }

    /// One call, tried again as often as the step says; then the fallback is asked. One answer per text.
    async fn call(&self, texts: Vec<String>) -> Called {
        let failure = match self.attempts(&texts).await {
            Ok(answers) => return (answers, false),
            Err(failure) => failure,
        };
        let records = texts.len();
        let Some(fallback) = &self.fallback else { return (repeat(failure, records), false) };
        match tokio::time::timeout(self.spec.timeout, fallback.predict(texts)).await {
            Ok(Ok(answers)) if answers.len() == records => (answers, true),
            // Of two failures, the first is the one to look into.
            _ => {
                let message = format!("{}; its fallback failed too", failure.message);
                (repeat(Failure::new(failure.kind, message), records), false)
            }
        }
    }

    /// The model's answers, or why it can't answer.
    async fn attempts(&self, texts: &[String]) -> std::result::Result<Vec<Answer>, Failure> {
        let records = texts.len();
        let mut pause = self.spec.retry.initial;
        let mut attempt = 1;
        loop {
            let failure = match tokio::time::timeout(self.spec.timeout, self.model.predict(texts.to_vec())).await {
                Ok(Ok(answers)) if answers.len() == records => return Ok(answers),
                Ok(Ok(answers)) => Failure::new(
                    FailureKind::Model,
                    format!("the model gave {} answers to {records} inputs", answers.len()),
                ),
                Ok(Err(e)) if e.is_retry() => Failure::new(FailureKind::Model, e.to_string()),
                Ok(Err(e)) => return Err(Failure::new(FailureKind::Model, e.to_string())),
                Err(_) => Failure::new(FailureKind::Timeout, format!("no answer within {:?}", self.spec.timeout)),
            };
            // An open breaker stays open longer than these pauses: with a fallback there is nothing to wait for.
            if self.fallback.is_some() && self.is_shut_off() {
                return Err(failure);
            }
            if attempt >= self.spec.retry.attempts {
                let message = format!("{} (attempt {attempt} of {})", failure.message, self.spec.retry.attempts);
                return Err(Failure::new(failure.kind, message));
            }
            attempt += 1;
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(self.spec.retry.max);
        }
    }

    fn is_shut_off(&self) -> bool {
        self.model.stats().endpoint.is_some_and(|endpoint| endpoint.breaker != BreakerState::Closed)
    }

    fn assemble(&self, rows: &Rows, answers: Vec<Answer>, by_fallback: &[bool]) -> Result<(Rows, Vec<RowFailure>)> {
        let mut good = Vec::with_capacity(answers.len());
        let mut predictions = Vec::with_capacity(answers.len());
        let mut failures = Vec::new();
        for (row, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(prediction) => {
                    good.push(row as u32);
                    predictions.push(prediction);
                }
                Err(failure) => failures.push(RowFailure { row: row as u32, failure }),
            }
        }
        let fallback = self.fallback.as_ref().map(Fallback::info);
        let scorer = |i: usize| match &fallback {
            Some(fallback) if by_fallback[good[i] as usize] => fallback,
            _ => self.model.info(),
        };
        let mut column = output_column_from(self.model.info(), &predictions, scorer)?;
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

fn repeat(failure: Failure, records: usize) -> Vec<Answer> {
    vec![Err(failure); records]
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests;
