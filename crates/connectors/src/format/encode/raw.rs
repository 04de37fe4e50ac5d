//! The bytes of one column, as they are: nothing before, between and behind them.

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use millstream_core::{Encoded, Encoder, Failure, FailureKind, Result};

use super::{Push, is_text, only, with_room};
use crate::template::nearest;

/// Writes the bytes of a column.
#[derive(Debug)]
pub(super) struct RawEncoder {
    column: usize,
    name: String,
}

impl RawEncoder {
    /// Without a name, it is the only column of bytes.
    pub(super) fn new(column: Option<&str>, schema: &Schema) -> Result<Self, String> {
        let column = match column {
            Some(name) => schema.index_of(name).map_err(|_| {
                let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                format!("names `{name}`, which is no column{}", nearest(name, &known))
            })?,
            None => only(schema, is_binary).ok_or(
                "needs a column such as `{ format: raw, column: body }`: the rows have none of bytes, or several",
            )?,
        };
        let field = schema.field(column);
        if !is_binary(field.data_type()) && !is_text(field.data_type()) {
            return Err(format!("names `{}`, which is neither bytes nor a string", field.name()));
        }
        Ok(Self { column, name: field.name().clone() })
    }
}

impl Encoder for RawEncoder {
    fn media_type(&self) -> &'static str {
        "application/octet-stream"
    }

    fn header(&self) -> &[u8] {
        b""
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        let values: ArrayRef = cast(batch.column(self.column), &DataType::Binary)?;
        let Some(values) = values.as_any().downcast_ref::<BinaryArray>() else { return Ok(Encoded::default()) };
        let mut out = with_room(values.len());
        for row in 0..values.len() {
            let start = out.data.len();
            if values.is_null(row) {
                let message = format!("`{}` is null: there are no bytes to write", self.name);
                out.refuse(row, start, Failure::new(FailureKind::MissingField, message));
                continue;
            }
            out.data.extend_from_slice(values.value(row));
            out.push(row, start);
        }
        Ok(out)
    }
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}
