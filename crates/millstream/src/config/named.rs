//! The types of the pipeline file that have a notation of their own, by the name of their definition in the schema.

use millstream_connectors::format::{DecodeConfig, EncodeConfig};
use millstream_core::{ByteSize, FieldType, HumanDuration};
use millstream_models::Rate;
use serde::Deserialize;
use serde::de::{IntoDeserializer, value::Error as ValueError};

/// Name of the definition of secrets.
pub const SECRET: &str = "Secret";
/// Name of the definition of what is sent and may hold a secret.
pub const SECRET_VALUE: &str = "SecretValue";
/// Names of the definitions of everything that is never printed: a text, anything, an object.
pub const SECRETS: [&str; 3] = [SECRET, SECRET_VALUE, "HiddenJson"];
/// Name of the definition of a declared type.
pub const FIELD_TYPE: &str = "FieldType";

/// A type that is checked by its own parser, whose message says what is expected.
pub struct NamedType {
    /// Name of its definition in the schema.
    pub definition: &'static str,
    /// What a message calls it.
    pub called: &'static str,
    /// The check.
    pub parse: fn(&str) -> Result<(), String>,
}

/// All of them.
pub const NAMED_TYPES: [NamedType; 6] = [
    NamedType {
        definition: "Duration",
        called: "a duration such as 30s",
        parse: |text| HumanDuration::parse(text).map(drop),
    },
    NamedType { definition: "ByteSize", called: "a size such as 64MiB", parse: |text| ByteSize::parse(text).map(drop) },
    NamedType { definition: "Rate", called: "a rate such as 50/s", parse: |text| Rate::parse(text).map(drop) },
    NamedType { definition: "Decode", called: "a format such as json", parse: decode },
    NamedType { definition: "Encode", called: "a format such as json", parse: encode },
    NamedType {
        definition: FIELD_TYPE,
        called: "a type such as string",
        parse: |text| FieldType::parse(text).map(drop),
    },
];

fn decode(text: &str) -> Result<(), String> {
    let parsed: Result<DecodeConfig, ValueError> = DecodeConfig::deserialize(text.into_deserializer());
    parsed.map(drop).map_err(|e| e.to_string())
}

fn encode(text: &str) -> Result<(), String> {
    let parsed: Result<EncodeConfig, ValueError> = EncodeConfig::deserialize(text.into_deserializer());
    parsed.map(drop).map_err(|e| e.to_string())
}
