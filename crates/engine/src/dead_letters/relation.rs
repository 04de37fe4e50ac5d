//! The dead letters of all streams as a relation: `SELECT kind, count(*) FROM dead_letters GROUP BY kind`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use millstream_core::schema::timestamp_type;
use millstream_core::{Error, Result};
use millstream_sql::Relation;
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Log;

use super::{Entry, Filter, scan_from};

/// The relation's name.
pub const NAME: &str = "dead_letters";
/// Dead letters in a batch.
const BATCH: usize = 1024;

/// The dead letters of some streams.
#[derive(Debug)]
pub struct DeadLetters {
    logs: Vec<Log>,
    schemas: Arc<SchemaStore>,
    schema: SchemaRef,
}

impl DeadLetters {
    /// Of these logs.
    pub fn new(logs: Vec<Log>, schemas: Arc<SchemaStore>) -> Arc<Self> {
        let text = |name: &str| Field::new(name, DataType::Utf8, false);
        let maybe = |name: &str, data_type| Field::new(name, data_type, true);
        let schema = Schema::new(vec![
            text("id"),
            text("stream"),
            text("stage"),
            text("component"),
            text("kind"),
            text("message"),
            Field::new("attempts", DataType::Int64, false),
            Field::new("failed_at", timestamp_type(), false),
            maybe("event_time", timestamp_type()),
            maybe("origin", DataType::Utf8),
            maybe("position", DataType::Int64),
            maybe("partition", DataType::Int64),
            maybe("offset", DataType::Int64),
            Field::new("raw", DataType::Binary, false),
            maybe("text", DataType::Utf8),
            text("pipeline_version"),
            maybe("model_version", DataType::Utf8),
        ]);
        Arc::new(Self { logs, schemas, schema: Arc::new(schema) })
    }
}

#[async_trait]
impl Relation for DeadLetters {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn scan(
        &self,
        projection: Option<&[usize]>,
        _limit: Option<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let projection: Option<Arc<[usize]>> = projection.map(Into::into);
        let (logs, schemas, schema) = (self.logs.clone(), self.schemas.clone(), self.schema.clone());
        // The log to read, and the offset to go on from.
        let batches = stream::try_unfold((0, 0), move |(mut log, mut from)| {
            let (logs, schemas, schema, projection) =
                (logs.clone(), schemas.clone(), schema.clone(), projection.clone());
            async move {
                // Reading a log is work for the disk.
                let read = tokio::task::spawn_blocking(move || {
                    while log < logs.len() {
                        let mut entries = Vec::new();
                        scan_from(&logs[log], &schemas, &Filter::default(), from, &mut |entry| {
                            entries.push(entry);
                            entries.len() < BATCH
                        })?;
                        match entries.last() {
                            Some(last) => {
                                from = last.offset + 1;
                                let batch = rows(&entries, &schema, projection.as_deref())?;
                                return Ok(Some((batch, (log, from))));
                            }
                            None => (log, from) = (log + 1, 0),
                        }
                    }
                    Ok(None)
                });
                read.await.map_err(|e| Error::bug(format!("reading dead letters broke off: {e}")))?
            }
        });
        Ok(batches.boxed())
    }
}

fn rows(entries: &[Entry], schema: &SchemaRef, projection: Option<&[usize]>) -> Result<RecordBatch> {
    let text =
        |of: &dyn Fn(&Entry) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(entries.iter().map(of))) };
    let maybe = |of: &dyn Fn(&Entry) -> Option<String>| -> ArrayRef {
        Arc::new(entries.iter().map(of).collect::<StringArray>())
    };
    let number =
        |of: &dyn Fn(&Entry) -> Option<i64>| -> ArrayRef { Arc::new(entries.iter().map(of).collect::<Int64Array>()) };
    let moment = |of: &dyn Fn(&Entry) -> Option<i64>| -> ArrayRef {
        Arc::new(entries.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let signed = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok());
    let columns: Vec<ArrayRef> = vec![
        text(&Entry::id),
        text(&|e| e.stream.to_string()),
        text(&|e| e.letter.stage.as_str().to_owned()),
        text(&|e| e.letter.component.clone()),
        text(&|e| e.letter.kind.clone()),
        text(&|e| e.letter.message.clone()),
        number(&|e| Some(i64::from(e.letter.attempts))),
        moment(&|e| Some(e.letter.failed_at_us)),
        moment(&|e| e.letter.event_time_us),
        maybe(&|e| e.letter.origin.clone()),
        number(&|e| signed(e.letter.position)),
        number(&|e| e.letter.partition.map(i64::from)),
        number(&|e| signed(e.letter.offset)),
        Arc::new(BinaryArray::from_iter_values(entries.iter().map(|e| &e.letter.raw))),
        maybe(&|e| std::str::from_utf8(&e.letter.raw).ok().map(str::to_owned)),
        text(&|e| e.letter.pipeline_version.clone()),
        maybe(&|e| e.letter.model_version.clone()),
    ];
    let options = RecordBatchOptions::new().with_row_count(Some(entries.len()));
    match projection {
        None => Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?),
        Some(wanted) => {
            let projected = Arc::new(schema.project(wanted)?);
            let columns = wanted.iter().map(|&column| columns[column].clone()).collect();
            Ok(RecordBatch::try_new_with_options(projected, columns, &options)?)
        }
    }
}
