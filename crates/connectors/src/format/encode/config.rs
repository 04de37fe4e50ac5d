//! The `encode:` setting of a sink: a format's name, or a map with `format:` and what that format can be told. The
//! names are those of `decode:`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::config::one_byte;

/// How a row becomes bytes. Written `encode: json`, or `encode: { format: csv, delimiter: ";" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodeConfig {
    /// One JSON object per row.
    Json {
        /// With line breaks and indentation.
        pretty: bool,
    },
    /// One CSV row per row.
    Csv(CsvOutConfig),
    /// One line of text per row.
    Text {
        /// The line, with columns in braces; none is the only string.
        template: Option<String>,
    },
    /// The bytes of one column.
    Raw {
        /// The column; none is the only one of bytes.
        column: Option<String>,
    },
    /// Parquet, for files.
    Parquet,
}

/// Settings of `format: csv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsvOutConfig {
    /// Between cells.
    pub delimiter: u8,
    /// The first line names the columns.
    pub header: bool,
}

impl Default for CsvOutConfig {
    fn default() -> Self {
        Self { delimiter: b',', header: true }
    }
}

impl Default for EncodeConfig {
    fn default() -> Self {
        Self::Json { pretty: false }
    }
}

impl EncodeConfig {
    /// The format's name.
    pub fn name(&self) -> &'static str {
        self.format().as_str()
    }

    /// The extension of files that hold it.
    pub fn extension(&self) -> &'static str {
        match self {
            Self::Json { .. } => "jsonl",
            Self::Csv(_) => "csv",
            Self::Text { .. } => "txt",
            Self::Raw { .. } => "bin",
            Self::Parquet => "parquet",
        }
    }

    fn format(&self) -> FormatName {
        match self {
            Self::Json { .. } => FormatName::Json,
            Self::Csv(_) => FormatName::Csv,
            Self::Text { .. } => FormatName::Text,
            Self::Raw { .. } => FormatName::Raw,
            Self::Parquet => FormatName::Parquet,
        }
    }
}

/// The format's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FormatName {
    Json,
    Csv,
    Text,
    Raw,
    Parquet,
}

impl FormatName {
    const ALL: [Self; 5] = [Self::Json, Self::Csv, Self::Text, Self::Raw, Self::Parquet];

    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Text => "text",
            Self::Raw => "raw",
            Self::Parquet => "parquet",
        }
    }
}

/// The map as it is written. Which keys belong to which format is checked behind it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawEncode {
    /// `json`, `csv`, `text`, `raw` or `parquet`.
    format: FormatName,
    /// json: with line breaks and indentation, for people (default false).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pretty: Option<bool>,
    /// csv: the character between cells (default a comma).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delimiter: Option<char>,
    /// csv: whether the first line names the columns (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<bool>,
    /// text: the line, with columns in braces: `"{id} {sentiment.label}"` (default: the only string).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    /// raw: the column whose bytes are written as they are (default: the only one of bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
}

impl RawEncode {
    fn of(format: FormatName) -> Self {
        Self { format, pretty: None, delimiter: None, header: None, template: None, column: None }
    }

    /// Every key belongs to one format.
    fn check_keys(&self) -> Result<(), String> {
        let keys = [
            ("pretty", self.pretty.is_some(), FormatName::Json),
            ("delimiter", self.delimiter.is_some(), FormatName::Csv),
            ("header", self.header.is_some(), FormatName::Csv),
            ("template", self.template.is_some(), FormatName::Text),
            ("column", self.column.is_some(), FormatName::Raw),
        ];
        match keys.into_iter().find(|(_, is_set, format)| *is_set && *format != self.format) {
            None => Ok(()),
            Some((key, _, format)) => {
                let (format, here) = (format.as_str(), self.format.as_str());
                Err(format!("`{key}` belongs to `format: {format}`, not to `format: {here}`"))
            }
        }
    }
}

impl TryFrom<RawEncode> for EncodeConfig {
    type Error = String;

    fn try_from(raw: RawEncode) -> Result<Self, String> {
        raw.check_keys()?;
        Ok(match raw.format {
            FormatName::Json => Self::Json { pretty: raw.pretty.unwrap_or_default() },
            FormatName::Csv => {
                let delimiter = raw.delimiter.map_or(Ok(b','), |c| one_byte("delimiter", c))?;
                if delimiter == b'"' {
                    return Err("`delimiter` can't be the quote".into());
                }
                Self::Csv(CsvOutConfig { delimiter, header: raw.header.unwrap_or(true) })
            }
            FormatName::Text => Self::Text { template: raw.template },
            FormatName::Raw => Self::Raw { column: raw.column },
            FormatName::Parquet => Self::Parquet,
        })
    }
}

impl From<&EncodeConfig> for RawEncode {
    fn from(config: &EncodeConfig) -> Self {
        let mut raw = Self::of(config.format());
        match config {
            EncodeConfig::Json { pretty } => raw.pretty = pretty.then_some(true),
            EncodeConfig::Csv(csv) => {
                raw.delimiter = Some(csv.delimiter as char);
                raw.header = Some(csv.header);
            }
            EncodeConfig::Text { template } => raw.template.clone_from(template),
            EncodeConfig::Raw { column } => raw.column.clone_from(column),
            EncodeConfig::Parquet => {}
        }
        raw
    }
}

impl Serialize for EncodeConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawEncode::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EncodeConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMap;

        impl<'de> Visitor<'de> for NameOrMap {
            type Value = EncodeConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a format (json, csv, text, raw, parquet) or a map with `format:`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<EncodeConfig, E> {
                let Some(format) = FormatName::ALL.into_iter().find(|format| format.as_str() == name) else {
                    let message = format!("unknown format `{name}`: known are json, csv, text, raw, parquet");
                    return Err(E::custom(message));
                };
                RawEncode::of(format).try_into().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EncodeConfig, A::Error> {
                let raw = RawEncode::deserialize(MapAccessDeserializer::new(map))?;
                raw.try_into().map_err(serde::de::Error::custom)
            }
        }

        deserializer.deserialize_any(NameOrMap)
    }
}

impl JsonSchema for EncodeConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Encode".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<RawEncode>();
        json_schema!({
            "description": "how a row becomes bytes: a format, or a map with `format` and its settings",
            "anyOf": [{ "type": "string", "enum": ["json", "csv", "text", "raw", "parquet"] }, map]
        })
    }
}
