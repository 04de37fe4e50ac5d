//! Rows on their way out: the mirror of the decoders. Each encoder binds the columns of a batch once, then writes row
//! after row into one buffer; no field is allocated.

mod config;
mod csv;
mod json;
mod raw;
mod text;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use millstream_core::schema::is_json;
use millstream_core::{Encoded, Encoder, Failure, RowFailure};

pub use self::config::{CsvOutConfig, EncodeConfig};
use crate::template::Place;

/// The encoder for rows with the columns of `schema`; none for Parquet, whose records can't be told apart. `place` is
/// where the lines of `text` go.
///
/// # Errors
/// The format does not fit the columns; the message says what to write.
pub fn build(encode: &EncodeConfig, schema: &Schema, place: Place) -> Result<Option<Arc<dyn Encoder>>, String> {
    Ok(Some(match encode {
        EncodeConfig::Json { pretty } => Arc::new(json::JsonEncoder::new(*pretty)),
        EncodeConfig::Csv(config) => Arc::new(csv::CsvEncoder::new(config, schema)),
        EncodeConfig::Text { template } => Arc::new(text::TextEncoder::new(template.as_deref(), schema, place)?),
        EncodeConfig::Raw { column } => Arc::new(raw::RawEncoder::new(column.as_deref(), schema)?),
        EncodeConfig::Parquet => return Ok(None),
    }))
}

/// What `encode: json` makes.
pub(crate) fn json_lines() -> Arc<dyn Encoder> {
    Arc::new(json::JsonEncoder::new(false))
}

/// Adds records to what was encoded.
trait Push {
    /// Row `row` lies from `start` to the end of the data; what is written next is no part of it.
    fn push(&mut self, row: usize, start: usize);

    /// Row `row` can't be a record; what was written of it is taken back.
    fn refuse(&mut self, row: usize, start: usize, failure: Failure);
}

impl Push for Encoded {
    fn push(&mut self, row: usize, start: usize) {
        let span: Range<usize> = start..self.data.len();
        self.spans.push(span);
        self.rows.push(row as u32);
    }

    fn refuse(&mut self, row: usize, start: usize, failure: Failure) {
        self.data.truncate(start);
        self.failures.push(RowFailure { row: row as u32, failure });
    }
}

fn with_room(rows: usize) -> Encoded {
    Encoded { spans: Vec::with_capacity(rows), rows: Vec::with_capacity(rows), ..Encoded::default() }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

/// The only column for which `fits` holds.
fn only(schema: &Schema, fits: impl Fn(&DataType) -> bool) -> Option<usize> {
    let mut fitting = (0..schema.fields().len()).filter(|&i| {
        let field = schema.field(i);
        fits(field.data_type()) && !is_json(field)
    });
    fitting.next().filter(|_| fitting.next().is_none())
}

#[cfg(test)]
mod tests;
