//! Rows as JSON, written straight from Arrow columns, and the text form of moments.
//!
//! | column | JSON |
//! |---|---|
//! | null | `null` |
//! | strings | string, escaped as RFC 8259 asks and no further |
//! | integers | number, exact |
//! | floats | the shortest number that reads back the same; `null` for NaN and infinities |
//! | booleans | `true`, `false` |
//! | timestamps | RFC 3339 in UTC, `Z`, with no, 3, 6 or (nanoseconds only) 9 digits of fraction |
//! | dates, decimals, times, … | date as `YYYY-MM-DD`, decimal as number, the rest as Arrow prints it, quoted |
//! | binary | base64, standard alphabet, padded |
//! | `json` columns | as they are |
//! | lists, structs, maps | array, object, object |

mod time;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, Int64Array, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, RecordBatch, StringArray, StringViewArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Result;
use crate::schema::is_json;

pub use time::{
    TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, TimestampError, parse_timestamp, parse_timestamp_strict,
    timestamp_from_decimal, timestamp_from_int, write_timestamp_us,
};

/// Rows as JSON lines.
///
/// # Errors
/// A column's type has no text form.
pub fn lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    write_lines(batch, &mut lines)?;
    Ok(lines)
}

/// Appends each row as a JSON object and a line break.
///
/// # Errors
/// A column's type has no text form.
pub fn write_lines(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let writer = RowWriter::bind(batch)?;
    for row in 0..batch.num_rows() {
        writer.write(row, out);
        out.push(b'\n');
    }
    Ok(())
}

/// Writes rows of one batch; columns are downcast and names escaped once, when it is bound.
pub struct RowWriter<'a> {
    /// `{"name":` and `,"name":`, and the column.
    columns: Vec<(Vec<u8>, Column<'a>)>,
}

impl<'a> RowWriter<'a> {
    /// A writer for the rows of `batch`.
    ///
    /// # Errors
    /// A column's type has no text form at all.
    pub fn bind(batch: &'a RecordBatch) -> Result<Self> {
        let fields = batch.schema_ref().fields().iter();
        Ok(Self { columns: named_columns(fields.map(|f| f.as_ref()).zip(batch.columns()))? })
    }

    /// Appends row `row` to `out` as one JSON object, without a line break.
    ///
    /// # Panics
    /// `row` is beyond the batch.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        write_object(&self.columns, row, out);
    }
}

impl std::fmt::Debug for RowWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowWriter({} columns)", self.columns.len())
    }
}

/// One value after another of one column, as JSON.
pub struct ValueWriter<'a>(Column<'a>);

impl<'a> ValueWriter<'a> {
    /// A writer for the values of `array`, which is a column called `field`.
    ///
    /// # Errors
    /// The type has no text form at all.
    pub fn bind(array: &'a dyn Array, field: &Field) -> Result<Self> {
        Column::bind(array, field).map(Self)
    }

    /// Appends value `row` to `out`.
    ///
    /// # Panics
    /// `row` is beyond the column.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        self.0.write(row, out);
    }
}

impl std::fmt::Debug for ValueWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ValueWriter")
    }
}

/// Appends one row as a JSON object. For many rows of a batch, [`RowWriter`] is much faster.
pub fn write_row(batch: &RecordBatch, row: usize, out: &mut Vec<u8>) {
    match RowWriter::bind(batch) {
        Ok(writer) => writer.write(row, out),
        Err(_) => out.extend_from_slice(b"{}"),
    }
}

/// One row as JSON text.
pub fn to_string(batch: &RecordBatch, row: usize) -> String {
    let mut out = Vec::new();
    write_row(batch, row, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends one value as JSON. For many values of a column, [`ValueWriter`] is much faster.
pub fn write_value(array: &dyn Array, row: usize, field: &Field, out: &mut Vec<u8>) {
    match Column::bind(array, field) {
        Ok(column) => column.write(row, out),
        Err(_) => out.extend_from_slice(b"null"),
    }
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut clean = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPE[byte as usize];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[clean..i]);
        clean = i + 1;
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
    }
    out.extend_from_slice(&bytes[clean..]);
    out.push(b'"');
}

/// What follows the backslash for a byte that must be escaped; 0 for every other byte.
const ESCAPE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table[0x08] = b'b';
    table[0x0c] = b'f';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

fn named_columns<'a, 'f>(
    columns: impl Iterator<Item = (&'f Field, &'a ArrayRef)>,
) -> Result<Vec<(Vec<u8>, Column<'a>)>> {
    columns
        .enumerate()
        .map(|(i, (field, array))| {
            let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
            write_str(field.name(), &mut prefix);
            prefix.push(b':');
            Ok((prefix, Column::bind(array.as_ref(), field)?))
        })
        .collect()
}

fn write_object(columns: &[(Vec<u8>, Column<'_>)], row: usize, out: &mut Vec<u8>) {
    if columns.is_empty() {
        out.push(b'{');
    }
    for (prefix, column) in columns {
        out.extend_from_slice(prefix);
        column.write(row, out);
    }
    out.push(b'}');
}

/// A downcast column and its nulls.
struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Null,
    Bool(&'a BooleanArray),
    Int(&'a Int64Array),
    /// The other integers, widened one at a time.
    SmallInt(Box<dyn Fn(usize) -> i64 + 'a>),
    UInt(&'a PrimitiveArray<UInt64Type>),
    Float(&'a PrimitiveArray<Float64Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    /// A `json` column: text that is JSON already.
    Json(Box<dyn Fn(usize) -> &'a str + 'a>),
    TimestampUs(&'a PrimitiveArray<TimestampMicrosecondType>),
    /// Seconds and milliseconds as microseconds; out of their range as null.
    Timestamp(Box<dyn Fn(usize) -> Option<i64> + 'a>),
    TimestampNs(&'a PrimitiveArray<TimestampNanosecondType>),
    Date(&'a PrimitiveArray<Date32Type>),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    Bytes(Box<dyn Fn(usize) -> &'a [u8] + 'a>),
    List(Box<dyn Fn(usize) -> std::ops::Range<usize> + 'a>, Box<Column<'a>>),
    Struct(Vec<(Vec<u8>, Column<'a>)>),
    Map(&'a arrow::array::MapArray, Box<Column<'a>>, Box<Column<'a>>),
    Dictionary(Vec<usize>, Box<Column<'a>>),
    Decimal(ArrayFormatter<'a>),
    Other(ArrayFormatter<'a>),
}

const DISPLAY: FormatOptions<'static> = FormatOptions::new();

fn small_int<'a, T>(array: &'a dyn Array) -> Values<'a>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    let values = array.as_primitive::<T>();
    Values::SmallInt(Box::new(move |row| values.value(row).into()))
}

impl<'a> Column<'a> {
    fn bind(array: &'a dyn Array, field: &Field) -> Result<Self> {
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int64 => Values::Int(array.as_primitive::<Int64Type>()),
            DataType::Int32 => small_int::<Int32Type>(array),
            DataType::Int16 => small_int::<Int16Type>(array),
            DataType::Int8 => small_int::<Int8Type>(array),
            DataType::UInt32 => small_int::<UInt32Type>(array),
            DataType::UInt16 => small_int::<UInt16Type>(array),
            DataType::UInt8 => small_int::<UInt8Type>(array),
            DataType::UInt64 => Values::UInt(array.as_primitive()),
            DataType::Float64 => Values::Float(array.as_primitive()),
            DataType::Float32 => Values::Float32(array.as_primitive()),
            DataType::Utf8 if is_json(field) => {
                let text = array.as_string::<i32>();
                Values::Json(Box::new(move |row| text.value(row)))
            }
            DataType::Utf8View if is_json(field) => {
                let text = array.as_string_view();
                Values::Json(Box::new(move |row| text.value(row)))
            }
            DataType::Utf8 => Values::Utf8(array.as_string()),
            DataType::LargeUtf8 => Values::LargeUtf8(array.as_string()),
            DataType::Utf8View => Values::Utf8View(array.as_string_view()),
            DataType::Timestamp(unit, _) => Self::bind_timestamp(array, *unit),
            DataType::Date32 => Values::Date(array.as_primitive()),
            DataType::Binary => Values::Binary(array.as_binary()),
            DataType::LargeBinary => Values::LargeBinary(array.as_binary()),
            DataType::BinaryView => {
                let bytes = array.as_binary_view();
                Values::Bytes(Box::new(move |row| bytes.value(row)))
            }
            DataType::FixedSizeBinary(_) => {
                let bytes = array.as_fixed_size_binary();
                Values::Bytes(Box::new(move |row| bytes.value(row)))
            }
            DataType::Dictionary(_, _) => return Self::bind_dictionary(array, field),
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Values::Decimal(ArrayFormatter::try_new(array, &DISPLAY)?)
            }
            _ => Self::bind_nested(array)?,
        };
        Ok(Self { nulls: array.nulls(), values })
    }

    fn bind_timestamp(array: &'a dyn Array, unit: TimeUnit) -> Values<'a> {
        match unit {
            TimeUnit::Microsecond => Values::TimestampUs(array.as_primitive()),
            TimeUnit::Nanosecond => Values::TimestampNs(array.as_primitive()),
            TimeUnit::Millisecond => {
                let values = array.as_primitive::<TimestampMillisecondType>();
                Values::Timestamp(Box::new(move |row| values.value(row).checked_mul(1_000)))
            }
            TimeUnit::Second => {
                let values = array.as_primitive::<TimestampSecondType>();
                Values::Timestamp(Box::new(move |row| values.value(row).checked_mul(1_000_000)))
            }
        }
    }

    fn bind_nested(array: &'a dyn Array) -> Result<Values<'a>> {
        Ok(match array.data_type() {
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                let range = move |row| list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
                Values::List(Box::new(range), Box::new(Self::bind(list.values().as_ref(), item)?))
            }
            DataType::LargeList(item) => {
                let list = array.as_list::<i64>();
                let range = move |row| list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
                Values::List(Box::new(range), Box::new(Self::bind(list.values().as_ref(), item)?))
            }
            DataType::FixedSizeList(item, length) => {
                let (list, length) = (array.as_fixed_size_list(), *length as usize);
                let range = move |row| row * length..(row + 1) * length;
                Values::List(Box::new(range), Box::new(Self::bind(list.values().as_ref(), item)?))
            }
            DataType::Struct(fields) => {
                let columns = array.as_struct().columns();
                Values::Struct(named_columns(fields.iter().map(|f| f.as_ref()).zip(columns))?)
            }
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(pair) if pair.len() == 2 => {
                    let map = array.as_map();
                    let key = Self::bind(map.keys().as_ref(), &pair[0])?;
                    Values::Map(map, Box::new(key), Box::new(Self::bind(map.values().as_ref(), &pair[1])?))
                }
                _ => Values::Other(ArrayFormatter::try_new(array, &DISPLAY)?),
            },
            _ => Values::Other(ArrayFormatter::try_new(array, &DISPLAY)?),
        })
    }

    fn bind_dictionary(array: &'a dyn Array, field: &Field) -> Result<Self> {
        let dictionary = array.as_any_dictionary();
        let values = Box::new(Self::bind(dictionary.values().as_ref(), field)?);
        Ok(Self { nulls: array.nulls(), values: Values::Dictionary(dictionary.normalized_keys(), values) })
    }

    #[inline]
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.values {
            Values::Utf8(values) => write_str(values.value(row), out),
            Values::Int(values) => write_int(values.value(row), out),
            Values::Float(values) => write_float(values.value(row), out),
            Values::TimestampUs(values) => write_quoted_timestamp(values.value(row), 0, out),
            Values::Bool(values) => out.extend_from_slice(if values.value(row) { b"true" } else { b"false" }),
            _ => self.write_rare(row, out),
        }
    }

    fn write_rare(&self, row: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::SmallInt(value) => write_int(value(row), out),
            Values::UInt(values) => write_u64(values.value(row), out),
            Values::Float32(values) => write_float32(values.value(row), out),
            Values::LargeUtf8(values) => write_str(values.value(row), out),
            Values::Utf8View(values) => write_str(values.value(row), out),
            Values::Json(text) => match text(row) {
                "" => out.extend_from_slice(b"null"),
                text => out.extend_from_slice(text.as_bytes()),
            },
            Values::Timestamp(value) => match value(row) {
                Some(us) => write_quoted_timestamp(us, 0, out),
                None => out.extend_from_slice(b"null"),
            },
            Values::TimestampNs(values) => {
                let ns = values.value(row);
                write_quoted_timestamp(ns.div_euclid(1_000), ns.rem_euclid(1_000) as u32, out);
            }
            Values::Date(values) => {
                out.push(b'"');
                time::write_date(i64::from(values.value(row)), out);
                out.push(b'"');
            }
            Values::Binary(values) => write_base64(values.value(row), out),
            Values::LargeBinary(values) => write_base64(values.value(row), out),
            Values::Bytes(value) => write_base64(value(row), out),
            Values::List(range, items) => {
                out.push(b'[');
                for (i, item) in range(row).enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    items.write(item, out);
                }
                out.push(b']');
            }
            Values::Struct(columns) => write_object(columns, row, out),
            Values::Map(map, keys, values) => write_map(map, keys, values, row, out),
            Values::Dictionary(keys, values) => values.write(keys[row], out),
            Values::Decimal(text) => {
                let text = text.value(row).to_string();
                out.extend_from_slice(text.as_bytes());
            }
            Values::Other(text) => write_str(&text.value(row).to_string(), out),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

/// Keys of a JSON object are strings, whatever the key column holds.
fn write_map(map: &arrow::array::MapArray, keys: &Column<'_>, values: &Column<'_>, row: usize, out: &mut Vec<u8>) {
    let range = map.value_offsets()[row] as usize..map.value_offsets()[row + 1] as usize;
    out.push(b'{');
    for (i, entry) in range.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let start = out.len();
        keys.write(entry, out);
        if out.get(start) != Some(&b'"') {
            let key = String::from_utf8_lossy(&out[start..]).into_owned();
            out.truncate(start);
            write_str(&key, out);
        }
        out.push(b':');
        values.write(entry, out);
    }
    out.push(b'}');
}

/// Appends a number.
pub fn write_int(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write_u64(value.unsigned_abs(), out);
}

fn write_u64(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `{:?}` is the shortest text that reads back the same, with an exponent where that is shorter: a JSON number.
fn write_float(value: f64, out: &mut Vec<u8>) {
    use std::io::Write;
    if value.is_finite() {
        let _ = write!(out, "{value:?}"); // Writing to a Vec can't fail.
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_float32(value: f32, out: &mut Vec<u8>) {
    use std::io::Write;
    if value.is_finite() {
        let _ = write!(out, "{value:?}"); // As above.
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_quoted_timestamp(us: i64, ns: u32, out: &mut Vec<u8>) {
    out.push(b'"');
    time::write_timestamp(us, ns, out);
    out.push(b'"');
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
    out.push(b'"');
}

#[cfg(test)]
mod tests;
