//! What a sink writes of a batch, and how far it came with it.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use millstream_core::{Encoded, Encoder, Result, RowFailure, SinkBatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::Problems;
use crate::format::encode::{self, EncodeConfig};
use crate::template::Place;

/// The new image in a change stream.
const NEW: usize = 4;

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

/// True for the columns of a table's change stream.
pub fn is_change_stream(schema: &Schema) -> bool {
    let names = schema.fields().iter().map(|f| f.name().as_str());
    names.eq(["op", "ts", "key", "old", "new"]) && matches!(schema.field(NEW).data_type(), DataType::Struct(_))
}

/// What a sink writes of each row: its image, in a format whose records can be told apart.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    encoder: Arc<dyn Encoder>,
    image: Image,
    /// Templates name columns of the stream, so that they can say what kind of change it is.
    reads_stream: bool,
}

impl Body {
    /// JSON lines.
    pub(crate) fn json(image: Image) -> Self {
        Self { encoder: encode::json_lines(), image, reads_stream: false }
    }

    /// The media type of what is written.
    pub(crate) fn media_type(&self) -> &'static str {
        self.encoder.media_type()
    }

    /// What comes before the first record of a file or a request.
    pub(crate) fn header(&self) -> &[u8] {
        self.encoder.header()
    }

    /// The records of a batch; their rows are those of `batch`. Rows without the image that is asked for are left out.
    pub(crate) fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        let payload =
            if self.reads_stream { Payload::rows_of(batch, self.image)? } else { Payload::of(batch, self.image)? };
        let mut encoded = self.encoder.encode(&payload.batch)?;
        let failed = encoded.failures.iter_mut().map(|failure| &mut failure.row);
        encoded.rows.iter_mut().chain(failed).for_each(|row| *row = payload.rows[*row as usize]);
        Ok(encoded)
    }
}

impl Problems {
    /// What `encode` and `image` come to for a stream with the columns `schema`; none for Parquet, too. `place` is
    /// where lines of text go.
    pub(crate) fn check_body(
        &mut self,
        encode: &EncodeConfig,
        image: Image,
        schema: &SchemaRef,
        place: Place,
    ) -> Option<Body> {
        let reads_stream = matches!(encode, EncodeConfig::Text { template: Some(_) });
        let columns = if reads_stream { schema.clone() } else { image_schema(schema, image) };
        match encode::build(encode, &columns, place) {
            Ok(encoder) => Some(Body { encoder: encoder?, image, reads_stream }),
            Err(message) => {
                self.add("encode", message);
                None
            }
        }
    }

    /// Only change streams have images.
    pub(crate) fn check_image(&mut self, image: Image, schema: &Schema) {
        if image == Image::New && !is_change_stream(schema) {
            self.add("image", "`new` needs the change stream of a table (`from: TABLE.changes`); leave it out here");
        }
    }

    /// Formats that a sink has no use for.
    pub(crate) fn check_encode(&mut self, encode: &EncodeConfig, kind: &str) {
        match encode {
            EncodeConfig::Parquet if kind != "file" => {
                self.add("encode", format!("`parquet` makes files: a sink of `type: {kind}` has none"));
            }
            EncodeConfig::Json { pretty: true } if kind != "stdout" => {
                self.add("encode", format!("`pretty` is for people: a sink of `type: {kind}` writes compact JSON"));
            }
            _ => {}
        }
    }
}

/// The columns of an image.
fn image_schema(schema: &SchemaRef, image: Image) -> SchemaRef {
    match (image, schema.fields().get(NEW).map(|field| field.data_type())) {
        (Image::New, Some(DataType::Struct(fields))) if is_change_stream(schema) => {
            Arc::new(Schema::new(fields.clone()))
        }
        _ => schema.clone(),
    }
}

/// What a sink writes of a batch: `batch` row `i` is the image of row `rows[i]` of the stream's batch.
#[derive(Debug)]
pub(crate) struct Payload {
    pub batch: RecordBatch,
    pub rows: Vec<u32>,
}

impl Payload {
    /// Takes the image that the settings ask for.
    pub(crate) fn of(batch: &RecordBatch, image: Image) -> Result<Self> {
        let Self { batch, rows } = Self::rows_of(batch, image)?;
        if image == Image::Change || !is_change_stream(batch.schema_ref()) {
            return Ok(Self { batch, rows });
        }
        let new = batch.column(NEW).as_struct();
        let schema = Arc::new(Schema::new(new.fields().clone()));
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(Self { batch: RecordBatch::try_new_with_options(schema, new.columns().to_vec(), &options)?, rows })
    }

    /// The rows that have the image that the settings ask for, with all columns of the stream. A row without a new
    /// image holds anything below it, so it goes before those columns are looked at.
    fn rows_of(batch: &RecordBatch, image: Image) -> Result<Self> {
        let all = || (0..batch.num_rows() as u32).collect();
        if image == Image::Change || !is_change_stream(batch.schema_ref()) {
            return Ok(Self { batch: batch.clone(), rows: all() });
        }
        let new = batch.column(NEW);
        if new.null_count() == 0 {
            return Ok(Self { batch: batch.clone(), rows: all() });
        }
        let rows: Vec<u32> = (0..batch.num_rows()).filter(|&row| new.is_valid(row)).map(|row| row as u32).collect();
        Ok(Self { batch: take_record_batch(batch, &UInt32Array::from(rows.clone()))?, rows })
    }
}

/// How far a batch came before it had to be tried again, so that a retry does not begin at the first row.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// First and last id of the batch.
    batch: Option<(String, String)>,
    /// Records that the other side has accepted or refused for good, but for those that are `pending`.
    pub done: usize,
    /// Records before `done` that are still to be sent; the next ones last.
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

    /// The batch is done; gives its failures, with those of rows that are no records, and forgets it.
    pub(crate) fn finish(&mut self, not_encoded: Vec<RowFailure>) -> Vec<RowFailure> {
        let mut failures = std::mem::take(self).failures;
        failures.extend(not_encoded);
        failures.sort_by_key(|f| f.row);
        failures
    }
}

#[cfg(test)]
pub(crate) mod tests;
