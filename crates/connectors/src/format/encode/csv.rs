//! One line of CSV per row, as RFC 4180 has it, but with a plain line feed behind each row.
//!
//! A null is an empty cell, an empty string `""`. Numbers, booleans, timestamps and binary are written as in JSON
//! (without quotes), lists, structs and `json` columns as JSON text. A cell is quoted where it holds the delimiter, a
//! quote, a line break, or a space at either end.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use millstream_core::json::ValueWriter;
use millstream_core::schema::is_json;
use millstream_core::{Encoded, Encoder, Result};

use super::config::CsvOutConfig;
use super::{Push, is_text, with_room};

/// Writes CSV.
#[derive(Debug)]
pub(super) struct CsvEncoder {
    delimiter: u8,
    header: Vec<u8>,
}

enum Cells<'a> {
    Text(StringArray),
    Value(ValueWriter<'a>, &'a ArrayRef, /* quotes are JSON's own, not the value's */ bool),
}

impl CsvEncoder {
    pub(super) fn new(config: &CsvOutConfig, schema: &Schema) -> Self {
        let mut encoder = Self { delimiter: config.delimiter, header: Vec::new() };
        if config.header {
            let mut header = Vec::new();
            for (i, field) in schema.fields().iter().enumerate() {
                if i > 0 {
                    header.push(config.delimiter);
                }
                encoder.write_cell(field.name().as_bytes(), &mut header);
            }
            header.push(b'\n');
            encoder.header = header;
        }
        encoder
    }

    fn write_cell(&self, text: &[u8], out: &mut Vec<u8>) {
        let outer_space = text.first().is_none_or(|&b| b == b' ') || text.last() == Some(&b' ');
        let special = |&b: &u8| b == self.delimiter || matches!(b, b'"' | b'\n' | b'\r');
        if !outer_space && !text.iter().any(special) {
            out.extend_from_slice(text);
            return;
        }
        out.push(b'"');
        for &byte in text {
            if byte == b'"' {
                out.push(b'"');
            }
            out.push(byte);
        }
        out.push(b'"');
    }

    fn write_row(&self, columns: &[Cells<'_>], row: usize, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            match column {
                Cells::Text(text) if text.is_null(row) => {}
                Cells::Text(text) => self.write_cell(text.value(row).as_bytes(), out),
                Cells::Value(_, array, _) if array.is_null(row) => {}
                Cells::Value(writer, _, scalar) => {
                    scratch.clear();
                    writer.write(row, scratch);
                    match scratch.as_slice() {
                        // A NaN has no JSON, and so no CSV.
                        b"null" if *scalar => {}
                        [b'"', text @ .., b'"'] if *scalar => self.write_cell(text, out),
                        text => self.write_cell(text, out),
                    }
                }
            }
        }
    }
}

impl Encoder for CsvEncoder {
    fn media_type(&self) -> &'static str {
        "text/csv"
    }

    fn header(&self) -> &[u8] {
        &self.header
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        let schema = batch.schema_ref();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            columns.push(match array.data_type() {
                kind if is_text(kind) && !is_json(field) => {
                    Cells::Text(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
                }
                kind => {
                    Cells::Value(ValueWriter::bind(array.as_ref(), field)?, array, !kind.is_nested() && !is_json(field))
                }
            });
        }
        let (mut out, mut scratch) = (with_room(batch.num_rows()), Vec::new());
        for row in 0..batch.num_rows() {
            let start = out.data.len();
            self.write_row(&columns, row, &mut scratch, &mut out.data);
            out.push(row, start);
            out.data.push(b'\n');
        }
        Ok(out)
    }
}
