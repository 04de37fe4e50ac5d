//! The `predict` step: a column of text, or several columns, in; a struct column out. The only step that suspends: bounded in flight, with
//! time-out, retry with back-off and jitter, and order kept.
//!
//! Retry lives here and nowhere below: only this step knows how long a record may still wait, counts the attempts for
//! the dead letter, and asks a model's `fallback` when they are used up.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, stream};
use millstream_core::{Failure, FailureKind, Result, RowFailure, Rows};
use millstream_models::{BreakerState, Fallback, Input, ModelHandle, ModelInfo, Scored, output_column_from};

use super::model_cache::ModelCache;
use super::shadow::Shadow;
use crate::config::checked::{OnError, PredictSpec};

mod inputs;

/// Records that one call to the model's queue carries, and bytes of what they ask.
const CALL_RECORDS: usize = 32;
const CALL_BYTES: usize = 4 << 20;

/// A `predict` step, ready to run; shared by the tasks of all partitions.
#[derive(Clone)]
pub struct PredictStep {
    spec: Arc<PredictSpec>,
    schema: SchemaRef,
    model: ModelHandle,
    /// Answers where the model as a whole can't.
    fallback: Option<Fallback>,
    /// What the model has said before.
    cache: Option<Arc<ModelCache>>,
    /// Scores the same records on the side.
    shadow: Option<Arc<Shadow>>,
    /// The value of the output column where `on_error: default`.
    default: Option<ArrayRef>,
}

impl std::fmt::Debug for PredictStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PredictStep({})", self.spec.model)
    }
}

type Answer = std::result::Result<Scored, Failure>;

/// Why the attempts of a call came to nothing.
struct GaveUp {
    failure: Failure,
    /// A time-out, with more than one text and with attempts left: one of the texts may be what the others waited for.
    next_attempt: Option<u32>,
}

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
        Ok(Self { spec: Arc::new(spec), schema, model, fallback, cache: None, shadow: None, default })
    }

    /// The same with what stands beside the model.
    #[must_use]
    pub fn beside(mut self, cache: Option<Arc<ModelCache>>, shadow: Option<Arc<Shadow>>) -> Self {
        self.cache = cache;
        self.shadow = shadow;
        self
    }

    /// `name@digest` of the model.
    pub fn model_version(&self) -> String {
        let info = self.model.info();
        format!("{}@{}", info.name, info.digest)
    }

    /// Scores every row. Failures name rows of `rows.batch`; where a default is set, there are none.
    ///
    /// # Errors
    /// The cache can't be read or written.
    pub async fn run(&self, rows: &Rows) -> Result<(Rows, Vec<RowFailure>)> {
        let inputs = inputs::read(&self.spec.input, &rows.batch)?;
        let null = || Err(Failure::new(FailureKind::MissingField, "the input of the model is null"));
        let mut answers: Vec<Answer> = inputs.iter().map(|_| null()).collect();
        let mut to_ask: Vec<u32> = (0..rows.len() as u32).filter(|&row| inputs[row as usize].is_some()).collect();
        let mut repeats = Vec::new();
        if let Some(cache) = &self.cache {
            let records = to_ask.len();
            (to_ask, repeats) = first_of_each(&inputs, &to_ask);
            to_ask = self.look_up(cache, &inputs, to_ask, &mut answers).await?;
            cache.count_lookups((records - to_ask.len()) as u64, to_ask.len() as u64);
        }
        let calls = stream::iter(cut(&inputs, &to_ask)).map(|call| {
            let asked: Vec<Input> = call.iter().filter_map(|&row| inputs[row as usize].clone()).collect();
            async move { (call, self.ask(asked).await) }
        });
        let in_flight = self.spec.max_in_flight.div_ceil(CALL_RECORDS).max(1);
        let mut answered = calls.buffered(in_flight);
        while let Some((call, results)) = answered.next().await {
            for (row, answer) in call.into_iter().zip(results?) {
                answers[row as usize] = answer;
            }
        }
        for (row, first) in repeats {
            answers[row as usize] = answers[first as usize].clone();
        }
        self.offer_to_shadow(&inputs, &answers);
        self.assemble(rows, answers)
    }

    /// Fills in what the cache knows; gives the rows that the model has to be asked for.
    async fn look_up(
        &self,
        cache: &ModelCache,
        inputs: &[Option<Input>],
        rows: Vec<u32>,
        answers: &mut [Answer],
    ) -> Result<Vec<u32>> {
        let info = self.model.info();
        let keys: Vec<Cow<'_, str>> =
            rows.iter().filter_map(|&row| inputs[row as usize].as_ref()).map(Input::key).collect();
        let known = cache.lookup(&info, &keys.iter().map(|key| &**key).collect::<Vec<_>>()).await?;
        let mut missing = Vec::new();
        for (row, prediction) in rows.into_iter().zip(known) {
            match prediction {
                Some(prediction) => answers[row as usize] = Ok(Scored { prediction, by: info.clone() }),
                None => missing.push(row),
            }
        }
        Ok(missing)
    }

    /// One call; what the model says is in the cache, if there is one, when this returns.
    async fn ask(&self, inputs: Vec<Input>) -> Result<Vec<Answer>> {
        let answers = self.call(inputs.clone(), 1).await;
        if let Some(cache) = &self.cache {
            let name = self.model.info().name.clone();
            let keys: Vec<Cow<'_, str>> = inputs.iter().map(Input::key).collect();
            let said = keys.iter().zip(&answers).filter_map(|(key, answer)| match answer {
                // What a fallback says is not the model's.
                Ok(scored) if scored.by.name == name => Some((&*scored.by.digest, &**key, &scored.prediction)),
                _ => None,
            });
            cache.keep(said).await?;
        }
        Ok(answers)
    }

    /// One call, tried again as often as the step says, from attempt `first` on; then the fallback is asked. One answer per
    /// input.
    fn call(&self, inputs: Vec<Input>, first: u32) -> BoxFuture<'_, Vec<Answer>> {
        async move {
            let failure = match self.attempts(&inputs, first).await {
                Ok(answers) => return answers,
                Err(GaveUp { next_attempt: Some(next), .. }) => {
                    // Each for itself: whoever is to blame takes no other with it.
                    let alone = inputs.into_iter().map(|input| self.call(vec![input], next));
                    return join_all(alone).await.into_iter().flatten().collect();
                }
                Err(GaveUp { failure, .. }) => failure,
            };
            let records = inputs.len();
            let Some(fallback) = &self.fallback else { return repeat(failure, records) };
            match tokio::time::timeout(self.spec.timeout, fallback.predict(inputs)).await {
                Ok(Ok(answers)) if answers.len() == records => {
                    let by = Arc::new(fallback.info());
                    let scored = |prediction| Scored { prediction, by: by.clone() };
                    answers.into_iter().map(|answer| answer.map(scored)).collect()
                }
                // Of two failures, the first is the one to look into.
                _ => {
                    let message = format!("{}; its fallback failed too", failure.message);
                    repeat(Failure::new(failure.kind, message), records)
                }
            }
        }
        .boxed()
    }

    /// The model's answers, or why it can't answer.
    async fn attempts(&self, inputs: &[Input], first: u32) -> std::result::Result<Vec<Answer>, GaveUp> {
        let records = inputs.len();
        let mut pause = self.spec.retry.initial;
        let mut attempt = first;
        let gave_up = |failure| GaveUp { failure, next_attempt: None };
        loop {
            let asked = tokio::time::timeout(self.spec.timeout, self.model.predict_scored(inputs.to_vec())).await;
            let failure = match asked {
                Ok(Ok(answers)) if answers.len() == records => return Ok(answers),
                Ok(Ok(answers)) => Failure::new(
                    FailureKind::Model,
                    format!("the model gave {} answers to {records} inputs", answers.len()),
                ),
                Ok(Err(e)) if e.is_retry() => Failure::new(FailureKind::Model, e.to_string()),
                Ok(Err(e)) => return Err(gave_up(Failure::new(FailureKind::Model, e.to_string()))),
                Err(_) => Failure::new(FailureKind::Timeout, format!("no answer within {:?}", self.spec.timeout)),
            };
            // An open breaker stays open longer than these pauses: with a fallback there is nothing to wait for.
            if self.fallback.is_some() && self.is_shut_off() {
                return Err(gave_up(failure));
            }
            if attempt >= self.spec.retry.attempts {
                let message = format!("{} (attempt {attempt} of {})", failure.message, self.spec.retry.attempts);
                return Err(gave_up(Failure::new(failure.kind, message)));
            }
            attempt += 1;
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(self.spec.retry.max);
            if failure.kind == FailureKind::Timeout && records > 1 {
                return Err(GaveUp { failure, next_attempt: Some(attempt) });
            }
        }
    }

    fn is_shut_off(&self) -> bool {
        self.model.stats().endpoint.is_some_and(|endpoint| endpoint.breaker != BreakerState::Closed)
    }

    fn offer_to_shadow(&self, inputs: &[Option<Input>], answers: &[Answer]) {
        let Some(shadow) = &self.shadow else { return };
        let name = self.model.info().name.clone();
        let scored = answers.iter().enumerate().filter_map(|(row, answer)| {
            let scored = answer.as_ref().ok().filter(|scored| scored.by.name == name)?;
            Some((inputs[row].clone()?, scored))
        });
        let (mut offer, mut bytes) = (Vec::new(), 0);
        for (input, scored) in scored {
            bytes += input.len();
            offer.push((input, scored.clone()));
            if offer.len() == CALL_RECORDS || bytes >= CALL_BYTES {
                shadow.offer(std::mem::take(&mut offer));
                bytes = 0;
            }
        }
        shadow.offer(offer);
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
                Err(failure) => failures.push(RowFailure { row: row as u32, failure }),
            }
        }
        let mut column = output_column_from(&self.model.info(), &predictions, |i| &*scorers[i])?;
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

/// The first row of each input, and each further row with the first one of its input.
fn first_of_each(inputs: &[Option<Input>], rows: &[u32]) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut first_row: HashMap<Cow<'_, str>, u32> = HashMap::with_capacity(rows.len());
    let mut firsts = Vec::with_capacity(rows.len());
    let mut repeats = Vec::new();
    for &row in rows {
        let Some(input) = &inputs[row as usize] else { continue };
        match first_row.entry(input.key()) {
            std::collections::hash_map::Entry::Occupied(first) => repeats.push((row, *first.get())),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(row);
                firsts.push(row);
            }
        }
    }
    (firsts, repeats)
}

/// Cuts rows into calls of at most [`CALL_RECORDS`] and about [`CALL_BYTES`].
fn cut(inputs: &[Option<Input>], rows: &[u32]) -> Vec<Vec<u32>> {
    let mut calls: Vec<Vec<u32>> = Vec::new();
    let mut bytes = 0;
    for &row in rows {
        let length = inputs[row as usize].as_ref().map_or(0, Input::len);
        match calls.last_mut() {
            Some(call) if call.len() < CALL_RECORDS && bytes + length <= CALL_BYTES => {
                call.push(row);
                bytes += length;
            }
            _ => {
                calls.push(vec![row]);
                bytes = length;
            }
        }
    }
    calls
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
