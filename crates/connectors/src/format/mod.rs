//! From bytes to rows and back: the formats that sources decode and sinks write.
//!
//! `docs/decoding.md` holds the rules: which JSON, CSV or XML value is accepted for which declared type, and what each
//! bad record is called.

mod coerce;
mod columns;
mod config;
mod csv;
pub(crate) mod encode;
pub(crate) mod encoding;
mod envelope;
pub mod feed;
pub(crate) mod framing;
mod json;
mod json_parser;
mod presets;
mod text;
mod xml;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::{Decoder, Field, FieldType, StreamSchema};

pub use config::{
    Bools, CsvConfig, DecodeConfig, DuplicateKeys, JsonConfig, Preset, ShortRows, TextConfig, Values, XmlConfig,
    XmlField,
};
pub use encode::{CsvOutConfig, EncodeConfig};
pub use encoding::TextEncoding;
pub use envelope::{Envelope, EnvelopeConfig, OP_COLUMN, TimeUnit};
pub use framing::{CsvDialect, Framing};

/// How a file source cuts what it reads for this decoder.
pub fn framing(decode: &DecodeConfig) -> Framing {
    match decode {
        DecodeConfig::Text(_) => Framing::Lines,
        DecodeConfig::Json(_) => Framing::Json,
        DecodeConfig::Csv(csv) => Framing::Csv(csv.dialect),
        DecodeConfig::Raw | DecodeConfig::Xml(_) => Framing::Whole,
    }
}

/// The encoding of what this decoder is given, where it is not UTF-8 or said by the bytes themselves.
pub fn encoding(decode: &DecodeConfig) -> Option<TextEncoding> {
    match decode {
        DecodeConfig::Json(json) => json.encoding,
        DecodeConfig::Csv(csv) => csv.encoding,
        DecodeConfig::Text(text) => text.encoding,
        DecodeConfig::Raw | DecodeConfig::Xml(_) => None,
    }
}

/// The schema of the rows: the declared one where there is one, else what the format itself says. Pure.
///
/// # Errors
/// The format needs a declared schema, or the declared one does not fit it; the message says what to write.
pub fn effective_schema(decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
    let schema = match decode {
        DecodeConfig::Json(_) | DecodeConfig::Csv(_) => declared.cloned().ok_or_else(|| {
            "json and csv need a `schema:`: name each field and its type, `id: string` say".to_owned()
        })?,
        DecodeConfig::Text(_) => single(declared, "text", &FieldType::String)?,
        DecodeConfig::Raw => single(declared, "data", &FieldType::Bytes)?,
        DecodeConfig::Xml(XmlConfig::Preset(preset)) => presets::schema(*preset, declared)?,
        DecodeConfig::Xml(XmlConfig::Mapping { fields, .. }) => xml::mapping_schema(fields, declared)?,
    };
    schema.check()?;
    match envelope(decode) {
        Some(config) => envelope::fields(config, &schema),
        None => Ok(schema),
    }
}

/// The columns of the rows, whose fields are those that [`effective_schema`] gave.
pub fn columns(decode: &DecodeConfig, schema: &StreamSchema) -> SchemaRef {
    match envelope(decode) {
        Some(_) => envelope::columns(schema),
        None => schema.arrow(),
    }
}

/// What says that records are change events of a database; their rows have the column [`OP_COLUMN`].
pub fn envelope(decode: &DecodeConfig) -> Option<&EnvelopeConfig> {
    match decode {
        DecodeConfig::Json(json) => json.envelope.as_ref(),
        _ => None,
    }
}

/// The schema of a format with one field of a fixed type; a declared schema may rename it.
fn single(declared: Option<&StreamSchema>, name: &str, kind: &FieldType) -> Result<StreamSchema, String> {
    match declared {
        None => Ok(StreamSchema { fields: vec![Field { name: name.into(), kind: kind.clone(), optional: false }] }),
        Some(schema) if schema.fields.len() == 1 && schema.fields[0].kind == *kind => Ok(schema.clone()),
        Some(_) => Err(format!("this format gives one field: declare `{name}: {kind}`, or leave `schema` out")),
    }
}

/// Builds the decoder for `schema`, which is what [`effective_schema`] gave.
///
/// # Errors
/// A path of an XML mapping is no path, or names a prefix that is not declared.
pub fn build(decode: &DecodeConfig, schema: &StreamSchema) -> Result<Arc<dyn Decoder>, String> {
    Ok(match decode {
        DecodeConfig::Json(config) => match &config.envelope {
            Some(envelope) => Arc::new(envelope::EnvelopeDecoder::new(envelope, config, schema)),
            None => Arc::new(json::JsonDecoder::new(config, schema)),
        },
        DecodeConfig::Csv(config) => Arc::new(csv::CsvDecoder::new(config, schema)?),
        DecodeConfig::Text(config) => Arc::new(text::TextDecoder::text(config, schema)),
        DecodeConfig::Raw => Arc::new(text::TextDecoder::raw(schema)),
        DecodeConfig::Xml(XmlConfig::Preset(preset)) => presets::build(*preset, schema)?,
        DecodeConfig::Xml(XmlConfig::Mapping { record, fields, namespaces }) => {
            Arc::new(xml::XmlDecoder::new(record.as_deref(), fields, namespaces, schema)?)
        }
    })
}
