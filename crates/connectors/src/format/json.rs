//! JSON: one object per record, read in one pass straight into the declared columns.
//!
//! What is declared is coerced, everything else is checked and skipped. The grammar is in `json_parser`.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, RawBatch, StreamSchema};

use super::columns::{Built, Column, Columns, Fault, Text, decode_with, shorten};
use super::config::{DuplicateKeys, JsonConfig};
use super::encoding::{TextEncoding, to_utf8};
use super::framing::{self, Framing};
use super::json_parser::Parser;

/// The decoder of `decode: json`.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
    config: JsonConfig,
}

impl JsonDecoder {
    pub(super) fn new(config: &JsonConfig, schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), config: config.clone() }
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let mut scratch = Vec::new();
        let last_key_counts = self.config.duplicate_keys == DuplicateKeys::Last;
        let columns = Columns::written(&self.fields.fields, raw.len(), self.config.values);
        decode_with(raw, columns, &self.schema, &Text::Utf8, |record, columns| {
            let mut parser = Parser::new(record, last_key_counts, &mut scratch);
            parser.record(columns)
        })
    }

    fn split(&self, body: Bytes, charset: Option<&str>) -> Result<RawBatch, Failure> {
        split_body(body, charset, self.config.encoding)
    }
}

/// A body in any encoding, cut into records.
pub(super) fn split_body(
    body: Bytes,
    charset: Option<&str>,
    encoding: Option<TextEncoding>,
) -> Result<RawBatch, Failure> {
    split(to_utf8(body, charset, encoding)?)
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

/// A JSON document, a JSON array of records, or documents one after another: on lines, or not even that.
fn split(body: Bytes) -> Result<RawBatch, Failure> {
    let start = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut scratch = Vec::new();
    let mut parser = Parser::new(&body, true, &mut scratch);
    parser.go_to(start);
    parser.skip_spaces();
    if parser.peek() != Some(b'[') {
        return Ok(framing::split(Framing::Json, body));
    }
    // Of a list that is cut off nothing is taken: whoever sent it is told.
    let mut spans = Vec::new();
    parser.array_items(&mut spans)?;
    parser.skip_spaces();
    if parser.at() < body.len() {
        // Several lists, or a list and documents.
        return Ok(framing::split(Framing::Json, body));
    }
    Ok(RawBatch { data: body, spans, ..RawBatch::default() })
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
