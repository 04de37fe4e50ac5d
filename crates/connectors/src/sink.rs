//! The sinks there are: their settings as one closed set, the check of those settings, and how to open one.

pub mod preview;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use millstream_core::{AnySink, Clock, Error, HumanDuration, Result, RowFailure, Secret, SinkBatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amqp::{AmqpSink, AmqpSinkConfig};
use crate::file::{FileSink, FileSinkConfig};
use crate::http::{HttpSink, HttpSinkConfig};
use crate::stdout::{StdoutSink, StdoutSinkConfig};
use crate::template::{Place, Template};

/// A sink's settings, told apart by `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SinkConfig {
    /// RabbitMQ, or another AMQP 0-9-1 broker.
    Amqp(AmqpSinkConfig),
    /// A web service (webhook).
    Http(HttpSinkConfig),
    /// Files in a folder.
    File(FileSinkConfig),
    /// Standard output.
    Stdout(StdoutSinkConfig),
}

/// What a sink is told when it is opened.
#[derive(Clone)]
pub struct SinkContext {
    /// The sink's name in the pipeline file.
    pub name: Arc<str>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The columns of the stream that the sink reads.
    pub schema: SchemaRef,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
}

impl fmt::Debug for SinkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkContext")
            .field("name", &self.name)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

/// What a sink writes of a change stream. Other streams have rows only, so only the default fits them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    /// The row of the stream as it is; of a change stream that is `op`, `ts`, `key`, `old` and `new`.
    #[default]
    Change,
    /// Of a change stream only the new image, as a plain row; deletes, which have none, are left out.
    New,
}

impl SinkConfig {
    /// The value of `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Amqp(_) => "amqp",
            Self::Http(_) => "http",
            Self::File(_) => "file",
            Self::Stdout(_) => "stdout",
        }
    }

    /// Finds settings that can't work for a stream with the columns `schema`. Pure: looks at neither disk nor network.
    ///
    /// # Errors
    /// Every problem, as the field (`routing_key`, `queues[1].name`) and what is wrong with it.
    pub fn check(&self, schema: &SchemaRef) -> Result<(), Vec<(String, String)>> {
        let mut problems = Problems::default();
        let image = match self {
            Self::Amqp(config) => {
                config.check(schema, &mut problems);
                config.image
            }
            Self::Http(config) => {
                config.check(schema, &mut problems);
                config.image
            }
            Self::File(config) => {
                config.check(&mut problems);
                config.image
            }
            Self::Stdout(config) => {
                config.check(schema, &mut problems);
                config.image
            }
        };
        if image == Image::New && !is_change_stream(schema) {
            problems
                .add("image", "`new` needs the change stream of a table (`from: TABLE.changes`); leave it away here");
        }
        if problems.0.is_empty() { Ok(()) } else { Err(problems.0) }
    }
}

/// Opens a sink. Nothing is connected to or written before the first batch.
///
/// # Errors
/// `Config`: a setting can't work.
pub fn build(config: &SinkConfig, context: SinkContext) -> Result<AnySink> {
    if let Err(problems) = config.check(&context.schema) {
        let list: Vec<String> = problems.into_iter().map(|(field, message)| format!("`{field}` {message}")).collect();
        return Err(Error::config(format!("sink {}: {}", context.name, list.join("; "))));
    }
    Ok(match config {
        SinkConfig::Amqp(config) => AnySink::Direct(Box::new(AmqpSink::new(config.clone(), context)?)),
        SinkConfig::Http(config) => AnySink::Direct(Box::new(HttpSink::new(config.clone(), context)?)),
        SinkConfig::File(config) => AnySink::Staged(Box::new(FileSink::new(config.clone(), context)?)),
        SinkConfig::Stdout(config) => AnySink::Direct(Box::new(StdoutSink::new(config.clone(), context)?)),
    })
}

/// True for the columns of a table's change stream.
pub fn is_change_stream(schema: &Schema) -> bool {
    let names = schema.fields().iter().map(|f| f.name().as_str());
    names.eq(["op", "ts", "key", "old", "new"]) && matches!(schema.field(4).data_type(), DataType::Struct(_))
}

/// What a sink writes of a batch: `batch` row `i` is the image of row `rows[i]` of the [`SinkBatch`].
#[derive(Debug)]
pub(crate) struct Payload {
    pub batch: RecordBatch,
    pub rows: Vec<u32>,
}

impl Payload {
    /// Takes the image that the settings ask for.
    pub(crate) fn of(batch: &RecordBatch, image: Image) -> Result<Self> {
        if image == Image::Change || !is_change_stream(batch.schema_ref()) {
            return Ok(Self { batch: batch.clone(), rows: (0..batch.num_rows() as u32).collect() });
        }
        let new = batch.column(4).as_struct();
        let rows: Vec<u32> = (0..batch.num_rows()).filter(|&row| new.is_valid(row)).map(|row| row as u32).collect();
        // A row without a new image holds anything below it, so it goes before the columns are checked for nulls.
        let kept = if rows.len() == batch.num_rows() {
            batch.clone()
        } else {
            take_record_batch(batch, &UInt32Array::from(rows.clone()))?
        };
        let new = kept.column(4).as_struct();
        let schema = Arc::new(Schema::new(new.fields().clone()));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(Self { batch: RecordBatch::try_new_with_options(schema, new.columns().to_vec(), &options)?, rows })
    }
}

/// How far a batch came before it had to be tried again, so that a retry does not begin at the first row.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// First and last id of the batch.
    batch: Option<(String, String)>,
    /// Payload rows that the other side has accepted or refused for good, but for those that are `pending`.
    pub done: usize,
    /// Payload rows before `done` that are still to be sent; the next ones last.
    pub pending: Vec<std::ops::Range<usize>>,
    /// Those it has refused.
    pub failures: Vec<RowFailure>,
}

impl Progress {
    /// Continues with `batch`: where it is another batch than last time, from its first row.
    pub(crate) fn resume(&mut self, batch: &SinkBatch) {
        let ids = (!batch.offsets.is_empty()).then(|| (batch.id(0), batch.id(batch.offsets.len() - 1)));
        if self.batch != ids {
            *self = Self { batch: ids, ..Self::default() };
        }
    }

    /// The batch is done; gives its failures and forgets it.
    pub(crate) fn finish(&mut self) -> Vec<RowFailure> {
        let mut failures = std::mem::take(self).failures;
        failures.sort_by_key(|f| f.row);
        failures
    }
}

/// Collects what is wrong with some settings.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(String, String)>);

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    pub(crate) fn check_not_zero(&mut self, field: &str, value: HumanDuration) {
        if value.0.is_zero() {
            self.add(field, "is zero");
        }
    }

    pub(crate) fn check_range(&mut self, field: &str, value: u32, min: u32, max: u32) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("is {value}: write {min} to {max}"));
        }
    }

    pub(crate) fn check_template(&mut self, field: impl Into<String>, text: &str, schema: &Schema, place: Place) {
        if let Err(message) = Template::parse(text, schema, place) {
            self.add(field, message);
        }
    }

    pub(crate) fn check_headers(&mut self, headers: &BTreeMap<String, Secret>) {
        for (name, value) in headers {
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                self.add(format!("headers.{name}"), "is no valid header name");
            }
            if reqwest::header::HeaderValue::from_str(value.expose()).is_err() {
                self.add(format!("headers.{name}"), "has a value with characters that no header may hold");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
