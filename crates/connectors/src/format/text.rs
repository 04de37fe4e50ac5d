//! `text`: the record is one string. `raw`: the record is one bytes value.

use std::ops::Range;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, RawBatch, StreamSchema};

use super::columns::{Text, decode_each};

/// The decoder of both.
#[derive(Debug)]
pub(super) struct TextDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
    raw: bool,
}

impl TextDecoder {
    /// For `decode: text`; the schema has one `string` field.
    pub(super) fn text(schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), raw: false }
    }

    /// For `decode: raw`; the schema has one `bytes` field.
    pub(super) fn raw(schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), raw: true }
    }
}

impl Decoder for TextDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let text = if self.raw { Text::Bytes } else { Text::Utf8 };
        decode_each(raw, &self.fields.fields, &self.schema, &text, |record, columns| {
            columns.begin();
            columns.mark(0);
            columns.column(0).push_bytes(record)?;
            columns.end()
        })
    }

    fn split(&self, body: Bytes) -> Result<RawBatch, Failure> {
        if self.raw {
            return Ok(RawBatch::single(body, "".into()));
        }
        let start = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Ok(RawBatch { spans: lines(&body, start), data: body, ..RawBatch::default() })
    }
}

/// The lines from `start` on that are not blank, without their ends.
pub(super) fn lines(body: &[u8], start: usize) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut from = start;
    while from < body.len() {
        let end = memchr::memchr(b'\n', &body[from..]).map_or(body.len(), |i| from + i);
        let content = if end > from && body[end - 1] == b'\r' { end - 1 } else { end };
        if !body[from..content].trim_ascii().is_empty() {
            spans.push(from..content);
        }
        from = end + 1;
    }
    spans
}
