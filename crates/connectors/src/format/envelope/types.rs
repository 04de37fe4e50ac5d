//! How Debezium writes values that JSON has no type for, and what they become in a declared column.
//!
//! With a `schema` in the event, the name of each column's type says it; without one, `units:` does, or the value
//! itself. Names: "Data type mappings" of
//! <https://debezium.io/documentation/reference/stable/connectors/postgresql.html> and
//! <https://debezium.io/documentation/reference/stable/connectors/mysql.html>.

use base64::Engine;
use millstream_core::json::{TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, write_timestamp_us};
use millstream_core::{FailureKind, Field, FieldType};
use serde::Deserialize;
use serde_json::Value;

use super::config::TimeUnit;
use super::decimal;
use crate::format::coerce::{BASE64, push_number, push_text};
use crate::format::columns::{Built, Column, Fault, shorten};

/// What stands for a value that the database did not send with an update: a long text that has not changed.
const UNAVAILABLE: &[u8] = b"\"__debezium_unavailable_value\"";
/// Digits of a number that may be a date, in days, or a moment of January 1970, in seconds.
const DAYS_DIGITS_MAX: usize = 6;
const US_PER_S: u64 = 1_000_000;

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// As in any JSON.
    Plain,
    /// As in any JSON, says Debezium's schema.
    Known,
    /// By Debezium, without a schema that says how.
    Unknown,
    /// A count from 1970 on.
    Count(TimeUnit),
    /// A count from midnight on.
    TimeOfDay(TimeUnit),
    /// A decimal with so many digits behind the point.
    Decimal(i64),
    /// JSON as text in a string.
    Json,
}

#[derive(Deserialize)]
struct VariableDecimal {
    scale: i64,
    value: String,
}

impl Written {
    /// By the name of the type in the event's schema, and its parameters.
    fn named(name: &str, parameters: &Value) -> Self {
        match name {
            "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => Self::Count(TimeUnit::Days),
            "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => Self::Count(TimeUnit::Millis),
            "io.debezium.time.MicroTimestamp" => Self::Count(TimeUnit::Micros),
            "io.debezium.time.NanoTimestamp" => Self::Count(TimeUnit::Nanos),
            "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => Self::TimeOfDay(TimeUnit::Millis),
            "io.debezium.time.MicroTime" => Self::TimeOfDay(TimeUnit::Micros),
            "io.debezium.time.NanoTime" => Self::TimeOfDay(TimeUnit::Nanos),
            "org.apache.kafka.connect.data.Decimal" => {
                // Parameters are strings.
                let scale = parameters.get("scale").and_then(Value::as_str).and_then(|scale| scale.parse().ok());
                Self::Decimal(scale.unwrap_or(0))
            }
            "io.debezium.data.Json" => Self::Json,
            _ => Self::Known,
        }
    }

    /// Appends one value, the JSON text `value`, where it is not as in any JSON; false where it is.
    pub(super) fn push(self, column: &mut Column<'_>, value: &[u8]) -> Built<bool> {
        match (self, value.first()) {
            (Self::Plain, _) => Ok(false),
            (_, Some(b'"')) if value == UNAVAILABLE => Err(Fault::new(
                FailureKind::MissingField,
                "the database did not send it, because the update did not change it: set the table's REPLICA IDENTITY to \
                 FULL, or leave the field out",
            )),
            (Self::Count(unit), Some(b'-' | b'0'..=b'9')) => push_count(column, unit, value),
            (Self::TimeOfDay(unit), Some(b'-' | b'0'..=b'9')) => push_time_of_day(column, unit, value),
            (Self::Decimal(scale), Some(b'"')) if *column.kind != FieldType::Bytes => {
                let text: String = serde_json::from_slice(value).map_err(|_| no_decimal(value))?;
                push_decimal(column, &text, scale)
            }
            (Self::Json, Some(b'"')) => {
                let text: String = serde_json::from_slice(value).map_err(|_| Fault::mismatch("is no text"))?;
                push_text(column, &text)?;
                Ok(true)
            }
            (_, Some(b'{')) if matches!(column.kind, FieldType::Int | FieldType::Float | FieldType::String) => {
                // `io.debezium.data.VariableScaleDecimal`: a decimal whose column does not say its scale.
                let decimal: VariableDecimal = serde_json::from_slice(value).map_err(|_| no_decimal(value))?;
                push_decimal(column, &decimal.value, decimal.scale)
            }
            (Self::Unknown, Some(b'-' | b'0'..=b'9')) if *column.kind == FieldType::Timestamp => {
                if value.iter().filter(|b| b.is_ascii_digit()).count() > DAYS_DIGITS_MAX {
                    return Ok(false);
                }
                Err(Fault::mismatch(format!(
                    "{} may count days or seconds: write `units: {{ FIELD: days }}` below `decode`, or have the \
                     connector send schemas",
                    shorten(value)
                )))
            }
            _ => Ok(false),
        }
    }
}

/// How the columns are written, by the `schema` of an event; none where it is no such schema.
pub(super) fn by_schema(schema: &[u8], fields: &[Field]) -> Option<Vec<Written>> {
    let schema: Value = serde_json::from_slice(schema).ok()?;
    let named = |list: &Value, name: &str| -> Option<Value> {
        list.as_array()?.iter().find(|field| field["field"].as_str() == Some(name)).cloned()
    };
    // Both images have the same columns.
    let row = named(&schema["fields"], "after").or_else(|| named(&schema["fields"], "before"))?;
    let written = |field: &Field| {
        let column = named(&row["fields"], &field.name)?;
        Some(Written::named(column["name"].as_str().unwrap_or_default(), &column["parameters"]))
    };
    Some(fields.iter().map(|field| written(field).unwrap_or(Written::Unknown)).collect())
}

fn push_count(column: &mut Column<'_>, unit: TimeUnit, value: &[u8]) -> Built<bool> {
    if !matches!(column.kind, FieldType::Timestamp | FieldType::String) {
        return Ok(false);
    }
    let us =
        count(value).and_then(|count| unit.us(count)).filter(|us| (TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US).contains(us));
    let us = us.ok_or_else(|| {
        Fault::new(FailureKind::OutOfRange, format!("{} is no moment between the years 1 and 9999", shorten(value)))
    })?;
    if *column.kind == FieldType::Timestamp {
        column.push_int(us);
        return Ok(true);
    }
    let mut text = Vec::new();
    write_timestamp_us(us, &mut text);
    if unit == TimeUnit::Days {
        text.truncate("2026-01-01".len());
    }
    column.push_bytes(&text)?;
    Ok(true)
}

/// MySQL's may be negative, and longer than a day.
fn push_time_of_day(column: &mut Column<'_>, unit: TimeUnit, value: &[u8]) -> Built<bool> {
    match column.kind {
        FieldType::String => {}
        FieldType::Timestamp => {
            return Err(Fault::mismatch(format!(
                "{} is a time of day, which is no moment: declare it `string` or `int`",
                shorten(value)
            )));
        }
        _ => return Ok(false),
    }
    let us = count(value)
        .and_then(|count| unit.us(count))
        .ok_or_else(|| Fault::new(FailureKind::OutOfRange, format!("{} is no time of day", shorten(value))))?;
    let (sign, us) = (if us < 0 { "-" } else { "" }, us.unsigned_abs());
    let (seconds, fraction) = (us / US_PER_S, us % US_PER_S);
    let mut text = format!("{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        text.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    column.push_bytes(text.as_bytes())?;
    Ok(true)
}

fn count(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn push_decimal(column: &mut Column<'_>, base64: &str, scale: i64) -> Built<bool> {
    let integer = BASE64.decode(base64).map_err(|_| no_decimal(base64.as_bytes()))?;
    let text = decimal::text(&integer, scale).ok_or_else(|| {
        Fault::new(FailureKind::OutOfRange, format!("a decimal of {} bytes and scale {scale}", integer.len()))
    })?;
    push_number(column, text.as_bytes(), !text.contains('.'))?;
    Ok(true)
}

fn no_decimal(value: &[u8]) -> Fault {
    Fault::mismatch(format!("`{}` is no decimal as Kafka Connect writes them", shorten(value)))
}
