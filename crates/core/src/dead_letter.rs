//! A record that could not be used, with everything needed to understand it and to try again.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, AsArray, BinaryBuilder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::schema::timestamp_type;
use crate::{Error, Result};

/// The stage that a record failed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Bytes to rows, by the declared schema.
    Decode,
    /// A SQL step.
    Transform,
    /// A model.
    Predict,
    /// A sink.
    Deliver,
}

impl Stage {
    /// The name in JSON, metrics and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Transform => "transform",
            Self::Predict => "predict",
            Self::Deliver => "deliver",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::Decode, Self::Transform, Self::Predict, Self::Deliver]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| Error::corruption(format!("dead letter names the unknown stage `{text}`")))
    }
}

/// One entry of the dead letter queue.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The stage that failed; a redrive goes back in front of it.
    pub stage: Stage,
    /// The source, transform or sink that failed.
    pub component: String,
    /// Of a transform or table: the relation that it took the record from.
    pub input: Option<String>,
    /// A [`crate::FailureKind`] as text.
    pub kind: String,
    /// Why, for a person.
    pub message: String,
    /// For `decode`: the bytes as the source received them. Else: the record as the stage was given it, as JSON.
    pub raw: Bytes,
    /// What the record came from: a file's path, a URL.
    pub origin: Option<String>,
    /// Where it began there: a byte offset, a sequence number.
    pub position: Option<u64>,
    /// The CSV header that the bytes belong to, where there is one.
    pub header: Option<Bytes>,
    /// Partition of the stream the record was read from; none where it had not reached a stream.
    pub partition: Option<u32>,
    /// Offset in that partition.
    pub offset: Option<u64>,
    /// Event time, microseconds since the epoch.
    pub event_time_us: Option<i64>,
    /// When it failed, microseconds since the epoch.
    pub failed_at_us: i64,
    /// How often it has been tried, this failure included.
    pub attempts: u32,
    /// Digest of the pipeline file that was running.
    pub pipeline_version: String,
    /// `name@digest` of the model, for `predict`.
    pub model_version: Option<String>,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let int = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
    Arc::new(Schema::new(vec![
        text("stage", false),
        text("component", false),
        text("input", true),
        text("kind", false),
        text("message", false),
        Field::new("raw", DataType::Binary, false),
        text("origin", true),
        int("position", true),
        Field::new("header", DataType::Binary, true),
        int("partition", true),
        int("offset", true),
        Field::new("event_time", timestamp_type(), true),
        Field::new("failed_at", timestamp_type(), false),
        int("attempts", false),
        text("pipeline_version", false),
        text("model_version", true),
    ]))
});

impl DeadLetter {
    /// The columns that dead letters are stored as.
    pub fn schema() -> SchemaRef {
        SCHEMA.clone()
    }

    /// Entries as columns.
    pub fn to_batch(entries: &[Self]) -> Result<RecordBatch> {
        let mut text: [StringBuilder; 8] = Default::default();
        let mut int: [Int64Builder; 4] = Default::default();
        let (mut raw, mut header) = (BinaryBuilder::new(), BinaryBuilder::new());
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        let (mut event_time, mut failed_at) = (time(), time());
        for e in entries {
            text[0].append_value(e.stage.as_str());
            text[1].append_value(&e.component);
            text[2].append_value(&e.kind);
            text[3].append_value(&e.message);
            raw.append_value(&e.raw);
            text[4].append_option(e.origin.as_deref());
            int[0].append_option(e.position.map(|v| v as i64));
            header.append_option(e.header.as_deref());
            int[1].append_option(e.partition.map(i64::from));
            int[2].append_option(e.offset.map(|v| v as i64));
            event_time.append_option(e.event_time_us);
            failed_at.append_value(e.failed_at_us);
            int[3].append_value(i64::from(e.attempts));
            text[5].append_value(&e.pipeline_version);
            text[6].append_option(e.model_version.as_deref());
            text[7].append_option(e.input.as_deref());
        }
        let [mut stage, mut component, mut kind, mut message, mut origin, mut pipeline, mut model, mut input] = text;
        let [mut position, mut partition, mut offset, mut attempts] = int;
        Ok(RecordBatch::try_new(
            Self::schema(),
            vec![
                Arc::new(stage.finish()),
                Arc::new(component.finish()),
                Arc::new(input.finish()),
                Arc::new(kind.finish()),
                Arc::new(message.finish()),
                Arc::new(raw.finish()),
                Arc::new(origin.finish()),
                Arc::new(position.finish()),
                Arc::new(header.finish()),
                Arc::new(partition.finish()),
                Arc::new(offset.finish()),
                Arc::new(event_time.finish()),
                Arc::new(failed_at.finish()),
                Arc::new(attempts.finish()),
                Arc::new(pipeline.finish()),
                Arc::new(model.finish()),
            ],
        )?)
    }

    /// The entries in a batch that [`DeadLetter::to_batch`] made.
    ///
    /// # Errors
    /// The batch has other columns.
    pub fn from_batch(batch: &RecordBatch) -> Result<Vec<Self>> {
        if batch.schema_ref().fields() != SCHEMA.fields() {
            return Err(Error::corruption("a dead letter batch has other columns than this version writes"));
        }
        let text = |column: usize, row: usize| {
            let values = batch.column(column).as_string::<i32>();
            values.is_valid(row).then(|| values.value(row).to_owned())
        };
        let bytes = |column: usize, row: usize| {
            let values = batch.column(column).as_binary::<i32>();
            values.is_valid(row).then(|| Bytes::copy_from_slice(values.value(row)))
        };
        let int = |column: usize, row: usize| {
            let values = batch.column(column).as_primitive::<Int64Type>();
            values.is_valid(row).then(|| values.value(row))
        };
        let time = |column: usize, row: usize| {
            let values = batch.column(column).as_primitive::<TimestampMicrosecondType>();
            values.is_valid(row).then(|| values.value(row))
        };
        (0..batch.num_rows())
            .map(|row| {
                Ok(Self {
                    stage: Stage::parse(&text(0, row).unwrap_or_default())?,
                    component: text(1, row).unwrap_or_default(),
                    input: text(2, row),
                    kind: text(3, row).unwrap_or_default(),
                    message: text(4, row).unwrap_or_default(),
                    raw: bytes(5, row).unwrap_or_default(),
                    origin: text(6, row),
                    position: int(7, row).map(|v| v as u64),
                    header: bytes(8, row),
                    partition: int(9, row).map(|v| v as u32),
                    offset: int(10, row).map(|v| v as u64),
                    event_time_us: time(11, row),
                    failed_at_us: time(12, row).unwrap_or_default(),
                    attempts: int(13, row).unwrap_or(1) as u32,
                    pipeline_version: text(14, row).unwrap_or_default(),
                    model_version: text(15, row),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_the_columns() {
        let entry = DeadLetter {
            stage: Stage::Decode,
            component: "wire".into(),
            input: Some("left".into()),
            kind: "malformed".into(),
            message: "not JSON".into(),
            raw: Bytes::from_static(&[0xff, 0x00, b'{']),
            origin: None,
            position: Some(u64::from(u32::MAX) + 1),
            header: Some(Bytes::from_static(b"a,b")),
            partition: None,
            offset: None,
            event_time_us: None,
            failed_at_us: 1_700_000_000_000_000,
            attempts: 2,
            pipeline_version: "abc".into(),
            model_version: None,
        };
        let batch = DeadLetter::to_batch(std::slice::from_ref(&entry)).unwrap();
        assert_eq!(DeadLetter::from_batch(&batch).unwrap(), [entry]);
    }
}
