//! Rows on their way out, as JSON lines and as CSV.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use millstream_core::Result;
use millstream_core::json::ValueWriter;
use millstream_core::schema::is_json;

/// Writes CSV as RFC 4180 has it, but with a plain line feed behind each row.
///
/// A null is an empty cell, an empty string `""`. Numbers, booleans, timestamps and binary are written as in JSON
/// (without quotes), lists, structs and `json` columns as JSON text. A cell is quoted where it holds the delimiter, a
/// quote, a line break, or a space at either end.
#[derive(Debug, Clone, Copy)]
pub struct CsvEncoder {
    delimiter: u8,
}

impl Default for CsvEncoder {
    fn default() -> Self {
        Self { delimiter: b',' }
    }
}

enum Cells<'a> {
    Text(StringArray),
    Value(ValueWriter<'a>, &'a ArrayRef, /* quotes are JSON's own, not the value's */ bool),
}

impl CsvEncoder {
    /// An encoder with `delimiter` between cells.
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter }
    }

    /// Appends the line that names the columns.
    pub fn write_header(&self, schema: &Schema, out: &mut Vec<u8>) {
        for (i, field) in schema.fields().iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            self.write_cell(field.name().as_bytes(), out);
        }
        out.push(b'\n');
    }

    /// Appends the rows.
    ///
    /// # Errors
    /// A column's type has no text form.
    pub fn write_rows(&self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
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
        let mut scratch = Vec::new();
        for row in 0..batch.num_rows() {
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
                        writer.write(row, &mut scratch);
                        match scratch.as_slice() {
                            // A NaN has no JSON, and so no CSV.
                            b"null" if *scalar => {}
                            [b'"', text @ .., b'"'] if *scalar => self.write_cell(text, out),
                            text => self.write_cell(text, out),
                        }
                    }
                }
            }
            out.push(b'\n');
        }
        Ok(())
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
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Int64Type};
    use millstream_core::schema::timestamp_type;

    use millstream_core::json::write_lines;

    use super::*;

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("a,b", Arc::new(StringArray::from(vec![Some("x"), Some(""), None, Some("say \"hi\",\nthere")]))),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3), Some(4)]))),
            ("f", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 1e300, 2.0]))),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 3]).with_data_type(timestamp_type()))),
            (
                "l",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                    Some(vec![Some(1), Some(2)]),
                    Some(vec![]),
                    None,
                    Some(vec![None]),
                ])),
            ),
        ];
        let fields: Vec<_> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, a)| a).collect()).unwrap()
    }

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let batch = batch();
        let mut out = Vec::new();
        CsvEncoder::default().write_header(batch.schema_ref(), &mut out);
        CsvEncoder::default().write_rows(&batch, &mut out).unwrap();
        let expected = concat!(
            "\"a,b\",n,f,t,l\n",
            "x,1,0.5,1970-01-01T00:00:00Z,\"[1,2]\"\n",
            "\"\",,,1970-01-01T00:00:00.000001Z,[]\n",
            ",-3,1e300,1970-01-01T00:00:00.000002Z,\n",
            "\"say \"\"hi\"\",\nthere\",4,2.0,1970-01-01T00:00:00.000003Z,[null]\n",
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_lines_are_one_object_per_line() {
        let mut out = Vec::new();
        write_lines(&batch(), &mut out).unwrap();
        let lines: Vec<_> = out.split(|&b| b == b'\n').collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[1], br#"{"a,b":"","n":null,"f":null,"t":"1970-01-01T00:00:00.000001Z","l":[]}"#);
    }
}
