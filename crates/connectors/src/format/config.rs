//! The `decode:` setting of a source: a format's name, or a map with `format:` and what that format can be told.

mod csv;

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::encoding::TextEncoding;
use super::envelope::{Envelope, EnvelopeConfig, TimeUnit};
use super::framing::RECORD_LINES_MAX;

pub(super) use csv::one_byte;
pub use csv::{CsvConfig, ShortRows};

/// How the bytes of a record become fields. Written `decode: json`, or `decode: { format: csv, delimiter: ";" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeConfig {
    /// One JSON object per record.
    Json(JsonConfig),
    /// One CSV row per record.
    Csv(CsvConfig),
    /// The record, as one string field.
    Text(TextConfig),
    /// The record, as one bytes field.
    Raw,
    /// One XML document per record.
    Xml(XmlConfig),
}

impl Default for DecodeConfig {
    fn default() -> Self {
        Self::Json(JsonConfig::default())
    }
}

/// What to do when a JSON object names a declared field twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DuplicateKeys {
    /// The record fails as `malformed`.
    #[default]
    Error,
    /// The last value counts.
    Last,
}

/// Settings of `format: json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JsonConfig {
    /// A declared field that appears twice: an error, or the last one counts.
    pub duplicate_keys: DuplicateKeys,
    /// How values are written.
    pub values: Values,
    /// The encoding of the bytes; none is UTF-8.
    pub encoding: Option<TextEncoding>,
    /// Records are change events of a database.
    pub envelope: Option<EnvelopeConfig>,
}

/// Settings of `format: text`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextConfig {
    /// The encoding of the bytes; none is UTF-8.
    pub encoding: Option<TextEncoding>,
}

/// Which words are a `bool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bools {
    /// `true` and `false`.
    #[default]
    Strict,
    /// Also `1`/`0`, `yes`/`no`, `y`/`n`, `t`/`f`, `on`/`off`, in upper or lower case; in JSON the numbers 1 and 0 too.
    Words,
}

/// How values are written, where that is not the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Values {
    /// Which words are a `bool`.
    pub bools: Bools,
    /// A `float` has a comma where others have a point.
    pub decimal_comma: bool,
}

/// A ready-made XML mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// RSS, Atom and JSON Feed documents: one row per entry.
    Feed,
    /// NewsML-G2 items, messages and fragments of them: one row per document.
    #[serde(rename = "newsml-g2")]
    NewsmlG2,
    /// An NITF article, alone or inside NewsML: one row per document.
    Nitf,
}

/// Settings of `format: xml`: a preset, or a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XmlConfig {
    /// A ready-made mapping.
    Preset(Preset),
    /// Paths to fields.
    Mapping {
        /// Path of the element that makes one row; `None` is the root.
        record: Option<String>,
        /// The fields, in order.
        fields: Vec<(String, XmlField)>,
        /// Prefixes that paths may use, and the namespaces they stand for.
        namespaces: Vec<(String, String)>,
    },
}

/// Where a field of an XML mapping comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XmlField {
    /// The path, relative to the record's element: `a/b/@attr`, `//x`, `.`, `a[@role='main']/b[2]`.
    pub path: String,
    /// The type as written (`int`, `string?`, `[string]`); `None` is what the declared schema says, or `string`.
    pub kind: Option<String>,
    /// True where the field may be absent.
    pub optional: bool,
    /// True where every match is kept, as a list.
    pub repeated: bool,
    /// Used as if it were the text, where the path matches nothing.
    pub default: Option<String>,
}

/// The format's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FormatName {
    Json,
    Csv,
    Text,
    Raw,
    Xml,
}

/// The map as it is written. Which keys belong to which format is checked behind it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawDecode {
    /// `json`, `csv`, `text`, `raw` or `xml`.
    format: FormatName,
    /// json: what to do when a declared field appears twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duplicate_keys: Option<DuplicateKeys>,
    /// json, csv, text: the encoding of the bytes, by its name on the web (`utf-16le`, `latin1`, `windows-1252`,
    /// `shift_jis`, …; default `utf-8`). A byte order mark, and the charset of an HTTP body, come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<String>,
    /// json, csv: which words are a `bool`: `strict` (default) or `words`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bools: Option<Bools>,
    /// json: records are change events of a database, as this program writes them: `debezium`, `maxwell`, `canal` or
    /// `dms`. Their rows get a column `_op`, which is `insert`, `update` or `delete`, and a table that has it deletes
    /// by it (`docs/decoding.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope: Option<Envelope>,
    /// json, with an envelope: whose events count, by the table's name, with those of its schema and database in front
    /// or without: `orders`, `public.orders`. Default: every table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// json, with an envelope: what numbers in these fields count from 1970 on, where the event does not say it:
    /// `days`, `seconds`, `millis`, `micros` or `nanos`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    units: Option<Ordered<TimeUnit>>,
    /// csv: the character between fields (default a comma).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delimiter: Option<char>,
    /// csv: the quote character (default `"`), or `none`: quotes have no meaning, and no field holds a line break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quote: Option<String>,
    /// csv: the character that takes its meaning from the next one, such as `\`, inside quotes and outside (default:
    /// none; a quote inside of quotes is doubled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    escape: Option<char>,
    /// csv: a line that begins with this character is no record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<char>,
    /// csv: how many lines at the beginning of each file or body are skipped, before the header (default 0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skip_lines: Option<u32>,
    /// csv: whether the first line names the columns (default true).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<bool>,
    /// csv: the columns' names, where there is no header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<String>>,
    /// csv: what a row with too few cells is: an `error` (default), or `pad`: its missing cells are empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    short_rows: Option<ShortRows>,
    /// csv: cells that are nulls when they stand without quotes, such as `["NULL", "\\N"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nulls: Option<Vec<String>>,
    /// csv: `.` (default) or `,` between the whole part of a `float` and its fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decimal: Option<char>,
    /// csv: how many line breaks the quotes of one row may hold (default 1000). In a row with more, a quote is taken
    /// for one that is never closed: the row ends at its first line end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_lines: Option<u32>,
    /// xml: a ready-made mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<Preset>,
    /// xml: path of the element that makes one row (default: the root).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    /// xml: field name to path, or to a map with `path`, `type`, `optional`, `repeated`, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<Ordered<RawXmlField>>,
    /// xml: prefixes that paths use, and their namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespaces: Option<Ordered<String>>,
}

/// A field of a mapping as it is written.
#[derive(Debug, Clone)]
struct RawXmlField(XmlField);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawXmlFieldMap {
    /// Where the value is, relative to the record's element.
    path: String,
    /// The field's type; `string` by default.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Whether the field may be absent.
    #[serde(default, skip_serializing_if = "is_false")]
    optional: bool,
    /// Whether every match is kept, as a list.
    #[serde(default, skip_serializing_if = "is_false")]
    repeated: bool,
    /// The text to use where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // Serde asks for a reference.
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A map that keeps the order it was written in.
#[derive(Debug, Clone)]
struct Ordered<T>(Vec<(String, T)>);

impl TryFrom<RawDecode> for DecodeConfig {
    type Error = String;

    fn try_from(raw: RawDecode) -> Result<Self, String> {
        raw.check_keys()?;
        match raw.format {
            FormatName::Json => Ok(Self::Json(JsonConfig {
                duplicate_keys: raw.duplicate_keys.unwrap_or_default(),
                values: Values { bools: raw.bools.unwrap_or_default(), decimal_comma: false },
                encoding: text_encoding(raw.encoding.as_deref())?,
                envelope: envelope(raw.envelope, raw.table, raw.units)?,
            })),
            FormatName::Csv => csv::checked(raw).map(Self::Csv),
            FormatName::Text => Ok(Self::Text(TextConfig { encoding: text_encoding(raw.encoding.as_deref())? })),
            FormatName::Raw => Ok(Self::Raw),
            FormatName::Xml => xml_config(raw).map(Self::Xml),
        }
    }
}

impl RawDecode {
    /// Every key belongs to some formats.
    fn check_keys(&self) -> Result<(), String> {
        use FormatName::{Csv, Json, Text, Xml};
        let keys: [(&str, bool, &[FormatName]); 22] = [
            ("duplicate_keys", self.duplicate_keys.is_some(), &[Json]),
            ("encoding", self.encoding.is_some(), &[Json, Csv, Text]),
            ("bools", self.bools.is_some(), &[Json, Csv]),
            ("envelope", self.envelope.is_some(), &[Json]),
            ("table", self.table.is_some(), &[Json]),
            ("units", self.units.is_some(), &[Json]),
            ("delimiter", self.delimiter.is_some(), &[Csv]),
            ("quote", self.quote.is_some(), &[Csv]),
            ("escape", self.escape.is_some(), &[Csv]),
            ("comment", self.comment.is_some(), &[Csv]),
            ("skip_lines", self.skip_lines.is_some(), &[Csv]),
            ("header", self.header.is_some(), &[Csv]),
            ("columns", self.columns.is_some(), &[Csv]),
            ("short_rows", self.short_rows.is_some(), &[Csv]),
            ("nulls", self.nulls.is_some(), &[Csv]),
            ("decimal", self.decimal.is_some(), &[Csv]),
            ("max_lines", self.max_lines.is_some(), &[Csv]),
            ("preset", self.preset.is_some(), &[Xml]),
            ("record", self.record.is_some(), &[Xml]),
            ("fields", self.fields.is_some(), &[Xml]),
            ("namespaces", self.namespaces.is_some(), &[Xml]),
            ("format", true, &[Json, Csv, Text, FormatName::Raw, Xml]),
        ];
        let Some((key, _, formats)) =
            keys.into_iter().find(|(_, is_set, formats)| *is_set && !formats.contains(&self.format))
        else {
            return Ok(());
        };
        if key == "encoding" && self.format == Xml {
            return Err("`encoding` does not go with `format: xml`: a document says its encoding itself".into());
        }
        let names: Vec<String> =
            formats.iter().map(|name| format!("`format: {}`", format!("{name:?}").to_ascii_lowercase())).collect();
        Err(format!("`{key}` belongs to {}, not to `format: {}`", names.join(", "), self.format.as_str()))
    }
}

impl FormatName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Text => "text",
            Self::Raw => "raw",
            Self::Xml => "xml",
        }
    }
}

fn text_encoding(name: Option<&str>) -> Result<Option<TextEncoding>, String> {
    name.map(TextEncoding::named).transpose()
}

fn envelope(
    envelope: Option<Envelope>,
    table: Option<String>,
    units: Option<Ordered<TimeUnit>>,
) -> Result<Option<EnvelopeConfig>, String> {
    let Some(envelope) = envelope else {
        let stray = if table.is_some() { "table" } else { "units" };
        return match table.is_none() && units.is_none() {
            true => Ok(None),
            false => Err(format!("`{stray}` belongs to an `envelope`: debezium, maxwell, canal or dms")),
        };
    };
    if table.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err("`table` is empty: name a table, or leave it out".into());
    }
    Ok(Some(EnvelopeConfig { envelope, table, units: units.map(|units| units.0).unwrap_or_default() }))
}

fn xml_config(raw: RawDecode) -> Result<XmlConfig, String> {
    match (raw.preset, raw.fields) {
        (Some(preset), None) => {
            if raw.record.is_some() || raw.namespaces.is_some() {
                return Err("`record` and `namespaces` belong to a mapping with `fields`, not to a `preset`".into());
            }
            Ok(XmlConfig::Preset(preset))
        }
        (None, Some(fields)) if !fields.0.is_empty() => Ok(XmlConfig::Mapping {
            record: raw.record,
            fields: fields.0.into_iter().map(|(name, field)| (name, field.0)).collect(),
            namespaces: raw.namespaces.map(|n| n.0).unwrap_or_default(),
        }),
        (Some(_), Some(_)) => Err("write `preset` or `fields`, not both".into()),
        (None, _) => {
            Err("`format: xml` needs `fields` (field name: path) or a `preset`: feed, newsml-g2 or nitf".into())
        }
    }
}

impl RawDecode {
    /// Nothing but the format.
    fn of(format: FormatName) -> Self {
        Self {
            format,
            duplicate_keys: None,
            encoding: None,
            bools: None,
            envelope: None,
            table: None,
            units: None,
            delimiter: None,
            quote: None,
            escape: None,
            comment: None,
            skip_lines: None,
            header: None,
            columns: None,
            short_rows: None,
            nulls: None,
            decimal: None,
            max_lines: None,
            preset: None,
            record: None,
            fields: None,
            namespaces: None,
        }
    }
}

impl From<&DecodeConfig> for RawDecode {
    fn from(config: &DecodeConfig) -> Self {
        let mut raw = Self::of(FormatName::Text);
        let name = |encoding: Option<TextEncoding>| encoding.map(|encoding| encoding.name());
        match config {
            DecodeConfig::Json(json) => {
                raw.format = FormatName::Json;
                raw.duplicate_keys = Some(json.duplicate_keys);
                raw.bools = (json.values.bools != Bools::Strict).then_some(json.values.bools);
                raw.encoding = name(json.encoding);
                if let Some(config) = &json.envelope {
                    raw.envelope = Some(config.envelope);
                    raw.table.clone_from(&config.table);
                    raw.units = (!config.units.is_empty()).then(|| Ordered(config.units.clone()));
                }
            }
            DecodeConfig::Csv(csv) => {
                let dialect = &csv.dialect;
                raw.format = FormatName::Csv;
                raw.delimiter = Some(dialect.delimiter as char);
                raw.quote = Some(dialect.quote.map_or_else(|| "none".into(), |quote| (quote as char).to_string()));
                raw.escape = dialect.escape.map(char::from);
                raw.comment = dialect.comment.map(char::from);
                raw.skip_lines = (dialect.skip_lines > 0).then_some(dialect.skip_lines);
                raw.header = Some(dialect.header);
                raw.columns = (!csv.columns.is_empty()).then(|| csv.columns.clone());
                raw.short_rows = (csv.short_rows != ShortRows::Error).then_some(csv.short_rows);
                raw.nulls = (!csv.nulls.is_empty()).then(|| csv.nulls.clone());
                raw.decimal = csv.values.decimal_comma.then_some(',');
                raw.max_lines = (dialect.record_lines_max != RECORD_LINES_MAX).then_some(dialect.record_lines_max);
                raw.bools = (csv.values.bools != Bools::Strict).then_some(csv.values.bools);
                raw.encoding = name(csv.encoding);
            }
            DecodeConfig::Text(text) => raw.encoding = name(text.encoding),
            DecodeConfig::Raw => raw.format = FormatName::Raw,
            DecodeConfig::Xml(xml) => {
                raw.format = FormatName::Xml;
                match xml {
                    XmlConfig::Preset(preset) => raw.preset = Some(*preset),
                    XmlConfig::Mapping { record, fields, namespaces } => {
                        raw.record.clone_from(record);
                        let fields = fields.iter().map(|(name, field)| (name.clone(), RawXmlField(field.clone())));
                        raw.fields = Some(Ordered(fields.collect()));
                        raw.namespaces = (!namespaces.is_empty()).then(|| Ordered(namespaces.clone()));
                    }
                }
            }
        }
        raw
    }
}

impl Serialize for DecodeConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawDecode::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DecodeConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMap;

        impl<'de> Visitor<'de> for NameOrMap {
            type Value = DecodeConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a format (json, csv, text, raw) or a map with `format:`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<DecodeConfig, E> {
                match name {
                    "json" => Ok(DecodeConfig::Json(JsonConfig::default())),
                    "csv" => Ok(DecodeConfig::Csv(CsvConfig::default())),
                    "text" => Ok(DecodeConfig::Text(TextConfig::default())),
                    "raw" => Ok(DecodeConfig::Raw),
                    "xml" => Err(E::custom(
                        "xml needs a mapping or a preset: write `decode: { format: xml, preset: newsml-g2 }`, or `fields:` with paths",
                    )),
                    "feed" => Err(E::custom(
                        "a source of `type: feed` needs no `decode`; feeds out of files and messages are read by \
                         `decode: { format: xml, preset: feed }`",
                    )),
                    other => Err(E::custom(format!("unknown format `{other}`: known are json, csv, text, raw, xml"))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DecodeConfig, A::Error> {
                let raw = RawDecode::deserialize(MapAccessDeserializer::new(map))?;
                raw.try_into().map_err(serde::de::Error::custom)
            }
        }

        deserializer.deserialize_any(NameOrMap)
    }
}

impl JsonSchema for DecodeConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Decode".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<RawDecode>();
        json_schema!({
            "description": "how the bytes of a record become fields: a format, or a map with `format` and its settings",
            "anyOf": [{ "type": "string", "enum": ["json", "csv", "text", "raw"] }, map]
        })
    }
}

impl Serialize for RawXmlField {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let XmlField { path, kind, optional, repeated, default } = self.0.clone();
        RawXmlFieldMap { path, kind, optional, repeated, default }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawXmlField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrMap;

        impl<'de> Visitor<'de> for PathOrMap {
            type Value = RawXmlField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a map with `path`, `type`, `optional`, `repeated`, `default`")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<RawXmlField, E> {
                let path = path.to_owned();
                Ok(RawXmlField(XmlField { path, kind: None, optional: false, repeated: false, default: None }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawXmlField, A::Error> {
                let RawXmlFieldMap { path, kind, optional, repeated, default } =
                    RawXmlFieldMap::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawXmlField(XmlField { path, kind, optional, repeated, default }))
            }
        }

        deserializer.deserialize_any(PathOrMap)
    }
}

impl JsonSchema for RawXmlField {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "XmlField".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<RawXmlFieldMap>();
        json_schema!({ "anyOf": [{ "type": "string", "description": "the path" }, map] })
    }
}

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries: Vec<(String, T)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(n, _)| *n == name) {
                        return Err(serde::de::Error::custom(format!("`{name}` appears twice")));
                    }
                    entries.push((name, value));
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Map_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<DecodeConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn a_name_and_a_map_read_and_print() {
        assert_eq!(read(r#""json""#).unwrap(), DecodeConfig::default());
        assert_eq!(read(r#""csv""#).unwrap(), DecodeConfig::Csv(CsvConfig::default()));
        let csv = read(r#"{"format":"csv","delimiter":";","columns":["a","b"]}"#).unwrap();
        let DecodeConfig::Csv(config) = &csv else { panic!("{csv:?}") };
        assert!(!config.dialect.header);
        assert_eq!(config.dialect.delimiter, b';');
        let all = read(
            r##"{"format":"csv","quote":"none","escape":"\\","comment":"#","skip_lines":2,"short_rows":"pad",
                "nulls":["\\N"],"decimal":",","delimiter":";","max_lines":7,"bools":"words","encoding":"latin1"}"##,
        )
        .unwrap();
        assert!(matches!(&all, DecodeConfig::Csv(csv) if csv.dialect.quote.is_none() && csv.values.decimal_comma));
        let text = read(r#"{"format":"text","encoding":"utf-16"}"#).unwrap();
        let changes = read(
            r#"{"format":"json","envelope":"debezium","table":"public.orders","units":{"z":"days","a":"micros"}}"#,
        )
        .unwrap();
        let DecodeConfig::Json(JsonConfig { envelope: Some(envelope), .. }) = &changes else { panic!("{changes:?}") };
        assert_eq!(envelope.units, [("z".to_owned(), TimeUnit::Days), ("a".to_owned(), TimeUnit::Micros)]);
        let xml =
            r#"{"format":"xml","record":"//item","fields":{"z":"a/@b","a":{"path":"c","type":"int","optional":true}}}"#;
        let xml = read(xml).unwrap();
        let DecodeConfig::Xml(XmlConfig::Mapping { fields, .. }) = &xml else { panic!("{xml:?}") };
        assert_eq!(fields.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["z", "a"]);
        for config in [DecodeConfig::default(), text, DecodeConfig::Raw, csv, all, xml, changes] {
            assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn wrong_settings_say_what_to_do() {
        for (json, part) in [
            (r#""jsn""#, "unknown format `jsn`"),
            (r#""xml""#, "needs a mapping or a preset"),
            (r#"{"format":"json","delimiter":";"}"#, "`delimiter` belongs to `format: csv`, not to `format: json`"),
            (r#"{"format":"csv","quote":"''"}"#, "one ASCII character or `none`"),
            (r#"{"format":"csv","escape":"\"","decimal":";"}"#, "`quote` and `escape` must differ"),
            (r#"{"format":"csv","comment":","}"#, "`delimiter` and `comment` must differ"),
            (r#"{"format":"csv","decimal":";"}"#, "`decimal` must be `.` or `,`"),
            (r#"{"format":"csv","nulls":["a,b"]}"#, "no cell without quotes can be"),
            (r#"{"format":"csv","columns":["a","a"]}"#, "names `a` twice"),
            (r#"{"format":"csv","short_rows":"cut"}"#, "unknown variant `cut`"),
            (r#"{"format":"json","encoding":"latin-9000"}"#, "unknown encoding `latin-9000`"),
            (r#"{"format":"json","encoding":"utf-7"}"#, "unknown encoding"),
            (r#"{"format":"xml","preset":"feed","encoding":"latin1"}"#, "says its encoding itself"),
            (r#"{"format":"raw","encoding":"latin1"}"#, "not to `format: raw`"),
            (r#"{"format":"csv","delimiter":"é"}"#, "one ASCII character"),
            (r#"{"format":"csv","header":true,"columns":["a"]}"#, "header: false"),
            (r#"{"format":"xml"}"#, "needs `fields`"),
            (r#"{"format":"xml","preset":"feed","fields":{"a":"b"}}"#, "not both"),
            (r#"{"format":"xml","fields":{"a":"b","a":"c"}}"#, "appears twice"),
            (r#"{"format":"json","x":1}"#, "unknown field `x`"),
            (r#"{"format":"json","envelope":"goldengate"}"#, "unknown variant `goldengate`"),
            (r#"{"format":"csv","envelope":"canal"}"#, "`envelope` belongs to `format: json`"),
            (r#"{"format":"json","table":"orders"}"#, "`table` belongs to an `envelope`"),
            (r#"{"format":"json","units":{"at":"millis"}}"#, "`units` belongs to an `envelope`"),
            (r#"{"format":"json","envelope":"dms","table":" "}"#, "`table` is empty"),
            (r#"{"format":"json","envelope":"dms","units":{"at":"hours"}}"#, "unknown variant `hours`"),
        ] {
            let message = read(json).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
