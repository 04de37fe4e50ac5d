//! Declared schemas: the types a pipeline file may name, and the Arrow types they stand for.
//!
//! | declared | Arrow | note |
//! |---|---|---|
//! | `string` | `Utf8` | |
//! | `int` | `Int64` | |
//! | `float` | `Float64` | |
//! | `bool` | `Boolean` | |
//! | `timestamp` | `Timestamp(µs, "UTC")` | |
//! | `bytes` | `Binary` | base64 in JSON |
//! | `json` | `Utf8` | any JSON value, as text; field metadata `millstream.type` = `json` |
//! | `[T]` | `List<T>` | |
//! | `{a: T, b: U?}` | `Struct` | |
//!
//! A `?` behind a type makes it optional: absent and `null` are then the same, a null.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema, SchemaRef, TimeUnit};

/// Key of the field metadata that tells a `json` column from a `string` column.
pub const TYPE_KEY: &str = "millstream.type";

/// A declared type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldType {
    /// UTF-8 text.
    String,
    /// 64-bit signed integer.
    Int,
    /// 64-bit floating point.
    Float,
    /// `true` or `false`.
    Bool,
    /// A moment, in microseconds since the epoch, UTC.
    Timestamp,
    /// Bytes.
    Bytes,
    /// Any JSON value, kept as compact JSON text.
    Json,
    /// A list; its items are never null.
    List(Box<FieldType>),
    /// An object with declared fields.
    Struct(Vec<Field>),
}

/// A named field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name, as it stands in the input.
    pub name: String,
    /// The type.
    pub kind: FieldType,
    /// True where the field may be absent or null.
    pub optional: bool,
}

/// The fields that a stream declares, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamSchema {
    /// The fields.
    pub fields: Vec<Field>,
}

impl StreamSchema {
    /// The Arrow schema.
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.iter().map(Field::arrow).collect::<Fields>()))
    }

    /// Finds what no record could ever hold: no field at all, one name twice, objects without fields, too many levels.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn check(&self) -> Result<(), String> {
        if self.fields.is_empty() {
            return Err("the schema has no field".into());
        }
        check_fields(&self.fields, "", 1)
    }

    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.name == name)
    }
}

/// The most objects and lists inside each other that a schema may declare.
pub const SCHEMA_DEPTH_MAX: usize = 32;

fn check_fields(fields: &[Field], within: &str, depth: usize) -> Result<(), String> {
    for (i, field) in fields.iter().enumerate() {
        let path = if within.is_empty() { field.name.clone() } else { format!("{within}.{}", field.name) };
        if fields[..i].iter().any(|other| other.name == field.name) {
            return Err(format!("the schema names `{path}` twice"));
        }
        check_type(&field.kind, &path, depth)?;
    }
    Ok(())
}

fn check_type(kind: &FieldType, path: &str, depth: usize) -> Result<(), String> {
    if depth > SCHEMA_DEPTH_MAX {
        return Err(format!(
            "`{path}` lies below more than {SCHEMA_DEPTH_MAX} objects and lists: declare one of them as `json`"
        ));
    }
    match kind {
        FieldType::Struct(fields) if fields.is_empty() => Err(format!(
            "`{path}` is an object without fields: name those that are wanted, or write `{path}: json` to keep all of it"
        )),
        FieldType::Struct(fields) => check_fields(fields, path, depth + 1),
        FieldType::List(item) => check_type(item, path, depth + 1),
        _ => Ok(()),
    }
}

impl Field {
    /// The Arrow field.
    pub fn arrow(&self) -> ArrowField {
        let field = ArrowField::new(&self.name, self.kind.arrow(), self.optional);
        match self.kind {
            FieldType::Json => field.with_metadata(HashMap::from([(TYPE_KEY.into(), "json".into())])),
            _ => field,
        }
    }
}

impl FieldType {
    /// The Arrow type.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::String | Self::Json => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => timestamp_type(),
            Self::Bytes => DataType::Binary,
            Self::List(item) => {
                let field = Field { name: "item".into(), kind: (**item).clone(), optional: true };
                DataType::List(Arc::new(field.arrow()))
            }
            Self::Struct(fields) => DataType::Struct(fields.iter().map(Field::arrow).collect()),
        }
    }

    /// Reads `string`, `[int]`, `timestamp`, … with an optional `?` behind it; the flag says whether there was one.
    ///
    /// # Errors
    /// The message names the nearest known type.
    pub fn parse(text: &str) -> Result<(Self, bool), String> {
        let text = text.trim();
        // Each bracket is a level of this function.
        if text.bytes().filter(|byte| *byte == b'[').count() > SCHEMA_DEPTH_MAX {
            return Err(format!("more than {SCHEMA_DEPTH_MAX} lists inside each other: declare them as `json`"));
        }
        let (text, optional) = match text.strip_suffix('?') {
            Some(rest) => (rest.trim_end(), true),
            None => (text, false),
        };
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let (item, item_optional) = Self::parse(inner)?;
            if item_optional {
                return Err(format!("list items can't be optional: write `[{}]`", item));
            }
            return Ok((Self::List(Box::new(item)), optional));
        }
        let kind = match text {
            "string" => Self::String,
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "timestamp" => Self::Timestamp,
            "bytes" => Self::Bytes,
            "json" => Self::Json,
            other => {
                return Err(format!(
                    "unknown type `{other}`: known are string, int, float, bool, timestamp, bytes, json, and lists such as [string]"
                ));
            }
        };
        Ok((kind, optional))
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Int => f.write_str("int"),
            Self::Float => f.write_str("float"),
            Self::Bool => f.write_str("bool"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Bytes => f.write_str("bytes"),
            Self::Json => f.write_str("json"),
            Self::List(item) => write!(f, "[{item}]"),
            Self::Struct(fields) => {
                f.write_str("{")?;
                for (i, field) in fields.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    let mark = if field.optional { "?" } else { "" };
                    write!(f, "{comma}{}: {}{mark}", field.name, field.kind)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// The Arrow type of every timestamp in Millstream.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// True for a column that holds JSON text.
pub fn is_json(field: &ArrowField) -> bool {
    field.metadata().get(TYPE_KEY).is_some_and(|t| t == "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_read_and_print() {
        for text in ["string", "int", "[string]", "[[float]]", "json"] {
            let (kind, optional) = FieldType::parse(text).unwrap();
            assert_eq!(kind.to_string(), text);
            assert!(!optional);
        }
        assert_eq!(FieldType::parse("[int]?").unwrap(), (FieldType::List(Box::new(FieldType::Int)), true));
        assert!(FieldType::parse("strng").unwrap_err().contains("unknown type `strng`"));
        assert!(FieldType::parse("[int?]").is_err());
        assert!(FieldType::parse("[]").unwrap_err().contains("unknown type ``"));
        assert!(FieldType::parse(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn what_no_record_could_hold_is_refused() {
        let field = |name: &str, kind| Field { name: name.into(), kind, optional: true };
        let empty = FieldType::Struct(Vec::new());
        let deep = (0..40).fold(FieldType::Int, |kind, _| FieldType::Struct(vec![field("a", kind)]));
        for (fields, part) in [
            (vec![], "no field"),
            (vec![field("meta", empty.clone())], "`meta` is an object without fields"),
            (vec![field("list", FieldType::List(Box::new(empty.clone())))], "`list` is an object without fields"),
            (vec![field("a", FieldType::Struct(vec![field("b", empty)]))], "`a.b` is an object without fields"),
            (vec![field("a", FieldType::Int), field("a", FieldType::Int)], "`a` twice"),
            (
                vec![field("o", FieldType::Struct(vec![field("x", FieldType::Int), field("x", FieldType::Bool)]))],
                "`o.x` twice",
            ),
            (vec![field("deep", deep)], "more than 32"),
        ] {
            let problem = StreamSchema { fields }.check().unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
        let schema = StreamSchema { fields: vec![field("a", FieldType::Struct(vec![field("b", FieldType::Json)]))] };
        assert_eq!(schema.check(), Ok(()));
    }
}
