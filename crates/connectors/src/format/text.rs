//! `text`: the record is one string. `raw`: the record is one bytes value.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, RawBatch, StreamSchema};

use super::columns::{Text, decode_each};
use super::config::TextConfig;
use super::encoding::to_utf8;
use super::framing::{self, Framing};

/// The decoder of both.
#[derive(Debug)]
pub(super) struct TextDecoder {
    fields: StreamSchema,
    schema: SchemaRef,
    /// None for `raw`.
    text: Option<TextConfig>,
}

impl TextDecoder {
    /// For `decode: text`; the schema has one `string` field.
    pub(super) fn text(config: &TextConfig, schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), text: Some(config.clone()) }
    }

    /// For `decode: raw`; the schema has one `bytes` field.
    pub(super) fn raw(schema: &StreamSchema) -> Self {
        Self { fields: schema.clone(), schema: schema.arrow(), text: None }
    }
}

impl Decoder for TextDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let text = if self.text.is_none() { Text::Bytes } else { Text::Utf8 };
        decode_each(raw, &self.fields.fields, &self.schema, &text, |record, columns| {
            columns.begin();
            columns.mark(0);
            columns.column(0).push_bytes(record)?;
            columns.end()
        })
    }

    fn split(&self, body: Bytes, charset: Option<&str>) -> Result<RawBatch, Failure> {
        match &self.text {
            None => Ok(RawBatch::single(body, "".into())),
            Some(config) => Ok(framing::split(Framing::Lines, to_utf8(body, charset, config.encoding)?)),
        }
    }
}
