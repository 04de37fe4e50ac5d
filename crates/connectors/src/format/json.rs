//! JSON: one object per record, read in one pass straight into the declared columns.
//!
//! What is declared is coerced, everything else is checked and skipped. The grammar is in `json_parser`.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, RawBatch, StreamSchema};

use super::columns::{Built, Column, Fault, Text, decode_each, shorten};
use super::config::{DuplicateKeys, JsonConfig};
use super::json_parser::Parser;

/// The decoder of `decode: json`.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
    last_key_counts: bool,
}

impl JsonDecoder {
    pub(super) fn new(config: &JsonConfig, schema: &StreamSchema) -> Self {
        let last_key_counts = config.duplicate_keys == DuplicateKeys::Last;
        Self { fields: schema.clone(), schema: schema.arrow(), last_key_counts }
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let mut scratch = Vec::new();
        decode_each(raw, &self.fields.fields, &self.schema, &Text::Utf8, |record, columns| {
            let mut parser = Parser::new(record, self.last_key_counts, &mut scratch);
            parser.record(columns)
        })
    }

    fn split(&self, body: Bytes) -> Result<RawBatch, Failure> {
        split(body)
    }
}

/// Appends the JSON value that `text` is: a `json`, list or struct field in a CSV cell or an XML element.
pub(super) fn push_json_text(column: &mut Column<'_>, text: &str) -> Built {
    let mut scratch = Vec::new();
    // Checked first, so that what is no JSON at all is told from JSON of another type.
    let wrong = |_: Fault| Fault::mismatch(format!("`{}` is no JSON text", shorten(text.as_bytes())));
    let mut check = Parser::new(text.as_bytes(), true, &mut scratch);
    check.skip_spaces();
    check.skip(1).map_err(wrong)?;
    check.end().map_err(wrong)?;
    let mut parser = Parser::new(text.as_bytes(), true, &mut scratch);
    parser.skip_spaces();
    parser.value(column, 1)
}

/// A JSON document, a JSON array of records, or JSON texts one after another, usually one per line.
fn split(body: Bytes) -> Result<RawBatch, Failure> {
    let start = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut scratch = Vec::new();
    let mut parser = Parser::new(&body, true, &mut scratch);
    parser.go_to(start);
    parser.skip_spaces();
    let first = parser.at();
    let mut spans = Vec::new();
    match parser.peek() {
        None => {}
        Some(b'[') => {
            parser.array_items(&mut spans)?;
            parser.end()?;
        }
        Some(_) => {
            let whole = parser.skip(1).is_ok();
            let end = parser.at();
            parser.skip_spaces();
            if whole && parser.at() == body.len() {
                spans.push(first..end);
            } else if whole && memchr::memchr(b'\n', &body[first..end]).is_some() {
                // Pretty-printed documents, one after another.
                spans.push(first..end);
                while parser.at() < body.len() {
                    let from = parser.at();
                    parser.skip(1)?;
                    spans.push(from..parser.at());
                    parser.skip_spaces();
                }
            } else {
                spans = super::text::lines(&body, first);
            }
        }
    }
    Ok(RawBatch { data: body, spans, ..RawBatch::default() })
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
