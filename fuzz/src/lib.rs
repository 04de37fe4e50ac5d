//! What the targets share.

use std::sync::Arc;

use arrow::datatypes::Schema;
use millstream_connectors::format::{self, DecodeConfig};
use millstream_core::decode::Decoder;
use millstream_core::schema::{Field, FieldType, StreamSchema};

/// Splits off the first byte, which chooses, from the rest, which is the input.
pub fn choice(data: &[u8]) -> Option<(usize, &[u8])> {
    data.split_first().map(|(first, rest)| (usize::from(*first), rest))
}

/// A schema with a field of every type.
pub fn every_type() -> StreamSchema {
    let types = [
        ("id", "string"),
        ("n", "int?"),
        ("x", "float?"),
        ("ok", "bool?"),
        ("at", "timestamp?"),
        ("day", "timestamp?"),
        ("tags", "[string]?"),
        ("doc", "json?"),
        ("data", "bytes?"),
        ("part", "{ a: int?, b: [float]? }?"),
    ];
    let field = |(name, text): (&str, &str)| {
        let (kind, optional) = FieldType::parse(text).ok()?;
        Some(Field { name: name.into(), kind, optional })
    };
    StreamSchema { fields: types.into_iter().filter_map(field).collect() }
}

/// A decoder of every format, with the settings that change how bytes are read.
pub fn decoders() -> Vec<Arc<dyn Decoder>> {
    let settings = [
        r#""json""#,
        r#"{"format": "json", "duplicate_keys": "last", "bools": "words"}"#,
        r#"{"format": "json", "encoding": "utf-16le"}"#,
        r#"{"format": "json", "envelope": "debezium", "units": {"at": "micros"}}"#,
        r#"{"format": "json", "envelope": "maxwell", "table": "shop.orders"}"#,
        r#"{"format": "json", "envelope": "canal", "bools": "words"}"#,
        r#"{"format": "json", "envelope": "dms", "duplicate_keys": "last"}"#,
        r#""csv""#,
        r#"{"format": "csv", "delimiter": ";", "header": true, "quote": "'"}"#,
        r#"{"format": "csv", "encoding": "windows-1252", "header": false}"#,
        r#""text""#,
        r#""raw""#,
        r#"{"format": "xml", "preset": "feed"}"#,
        r#"{"format": "xml", "preset": "newsml-g2"}"#,
        r#"{"format": "xml", "preset": "nitf"}"#,
        r#"{"format": "xml", "record": "//item", "fields": {"id": "@id", "text": {"path": ".", "optional": true}, "all": {"path": "a/b[2]/@c", "repeated": true}}}"#,
    ];
    let mut decoders = Vec::new();
    for text in settings {
        let decode: DecodeConfig = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let declared = matches!(decode, DecodeConfig::Json(_) | DecodeConfig::Csv(_)).then(every_type);
        let schema = format::effective_schema(&decode, declared.as_ref()).unwrap_or_else(|e| panic!("{text}: {e}"));
        decoders.push(format::build(&decode, &schema).unwrap_or_else(|e| panic!("{text}: {e}")));
    }
    decoders
}

/// Columns for templates: text, a number, a list and something nested.
pub fn columns() -> Schema {
    every_type().arrow().as_ref().clone()
}
