//! What a text or a number becomes in a field of a declared type. The table is in `docs/decoding.md`.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use millstream_core::json::{TimestampError, parse_timestamp_strict, timestamp_from_decimal, timestamp_from_int};
use millstream_core::{FailureKind, FieldType};

use super::columns::{Built, Column, Fault, shorten};
use super::config::Bools;
use super::json;

/// Base64 as RFC 4648 section 4 has it; the padding may be missing.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn out_of_range(what: &str, value: &[u8]) -> Fault {
    Fault::new(FailureKind::OutOfRange, format!("`{}` is beyond what {what} holds", shorten(value)))
}

fn mismatch(what: &str, value: &[u8]) -> Fault {
    Fault::mismatch(format!("`{}` is no {what}", shorten(value)))
}

/// Appends the value that `text` stands for: a CSV cell, the text of an XML element, a JSON string.
pub(super) fn push_text(column: &mut Column<'_>, text: &str) -> Built {
    match column.kind {
        FieldType::String => column.push_bytes(text.as_bytes()),
        FieldType::Int => {
            column.push_int(int_from_text(text)?);
            Ok(())
        }
        FieldType::Float => {
            let value = if column.written.decimal_comma { float_with_comma(text)? } else { float_from_text(text)? };
            column.push_float(value);
            Ok(())
        }
        FieldType::Bool => match bool_from_text(text, column.written.bools) {
            Some(value) => {
                column.push_bool(value);
                Ok(())
            }
            None => Err(mismatch("bool", text.as_bytes())),
        },
        FieldType::Timestamp => {
            column.push_int(timestamp_from_text(text)?);
            Ok(())
        }
        FieldType::Bytes => column.build_bytes(|data| match BASE64.decode_vec(text, data) {
            Ok(()) => Ok(()),
            Err(_) => Err(mismatch("base64", text.as_bytes())),
        }),
        FieldType::Json | FieldType::List(_) | FieldType::Struct(_) => json::push_json_text(column, text),
    }
}

fn bool_from_text(text: &str, bools: Bools) -> Option<bool> {
    match text {
        "true" => return Some(true),
        "false" => return Some(false),
        _ if bools == Bools::Strict => return None,
        _ => {}
    }
    let is_one_of = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_one_of(&["1", "true", "yes", "y", "t", "on"]) {
        return Some(true);
    }
    is_one_of(&["0", "false", "no", "n", "f", "off"]).then_some(false)
}

/// A number with a comma where others have a point. A point has no meaning then, so that thousands are never fractions.
fn float_with_comma(text: &str) -> Built<f64> {
    if text.contains('.') {
        return Err(mismatch("float with a decimal comma", text.as_bytes()));
    }
    float_from_text(&text.replacen(',', ".", 1))
}

/// Decimal digits with an optional minus.
fn int_from_text(text: &str) -> Built<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(mismatch("int", text.as_bytes()));
    }
    text.parse().map_err(|_| out_of_range("an int (64 bits)", text.as_bytes()))
}

/// A JSON number, or one with a sign, leading zeros or a bare point in front, as `f64` reads it; no `inf`, no `NaN`.
fn float_from_text(text: &str) -> Built<f64> {
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(value) if numeric && value.is_finite() => Ok(value),
        Ok(_) if numeric => Err(out_of_range("a float (64 bits)", text.as_bytes())),
        _ => Err(mismatch("float", text.as_bytes())),
    }
}

/// A date and time, or a number that counts from the epoch.
pub(super) fn timestamp_from_text(text: &str) -> Built<i64> {
    parse_timestamp_strict(text).map_err(|e| no_timestamp(e, text.as_bytes()))
}

#[cold]
fn no_timestamp(error: TimestampError, value: &[u8]) -> Fault {
    match error {
        TimestampError::Malformed => mismatch("timestamp", value),
        TimestampError::OutOfRange => Fault::new(
            FailureKind::OutOfRange,
            format!("`{}` is no moment between the years 1 and 9999", shorten(value)),
        ),
        TimestampError::Ambiguous => Fault::mismatch(format!(
            "`{}` is a date and time without separators or a count of milliseconds: write the date with them",
            shorten(value)
        )),
    }
}

/// Appends a JSON number, whose text is `number` and follows the grammar of RFC 8259.
#[inline]
pub(super) fn push_number(column: &mut Column<'_>, number: &[u8], integral: bool) -> Built {
    match column.kind {
        FieldType::Int => {
            let value = if integral { int_from_digits(number) } else { None };
            let value = match value {
                Some(value) => value,
                None => int_from_decimal(number)?,
            };
            column.push_int(value);
            Ok(())
        }
        FieldType::Float => {
            column.push_float(float_from_number(number)?);
            Ok(())
        }
        FieldType::Timestamp => {
            let us = match if integral { int_from_digits(number) } else { None } {
                Some(value) => timestamp_from_int(value),
                None => timestamp_from_decimal(std::str::from_utf8(number).unwrap_or_default()),
            };
            let us = us.map_err(|e| match e {
                TimestampError::OutOfRange => out_of_range("a timestamp", number),
                e => no_timestamp(e, number),
            })?;
            column.push_int(us);
            Ok(())
        }
        FieldType::String | FieldType::Json => column.push_bytes(number),
        FieldType::Bool if column.written.bools == Bools::Words && matches!(number, b"0" | b"1") => {
            column.push_bool(number == b"1");
            Ok(())
        }
        kind => Err(Fault::mismatch(format!("the number {} is no {kind}", shorten(number)))),
    }
}

/// `None` where it does not fit.
#[inline]
fn int_from_digits(number: &[u8]) -> Option<i64> {
    let (negative, digits) = match number {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let mut value = 0_u64;
    if digits.len() > 19 {
        return None;
    }
    for &digit in digits {
        // Nineteen digits fit a u64.
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

fn float_from_number(number: &[u8]) -> Built<f64> {
    let text = std::str::from_utf8(number).unwrap_or_default();
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(out_of_range("a float (64 bits)", number)),
    }
}

/// `12.0`, `1.5e3`: exact, without a detour through a float.
fn int_from_decimal(number: &[u8]) -> Built<i64> {
    let (negative, rest) = match number {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mantissa_end = rest.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(rest.len());
    let (mantissa, exponent) = rest.split_at(mantissa_end);
    let point = mantissa.iter().position(|&b| b == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.get(point + 1..).unwrap_or_default();
    let mut digits = Vec::with_capacity(mantissa.len());
    digits.extend_from_slice(&mantissa[..point]);
    digits.extend_from_slice(fraction);
    let first = digits.iter().position(|&d| d != b'0').unwrap_or(digits.len());
    let trailing = digits[first..].iter().rev().take_while(|&&d| d == b'0').count();
    let significant = &digits[first..digits.len() - trailing];
    if significant.is_empty() {
        return Ok(0);
    }
    let exponent = match exponent.get(1..) {
        None => 0,
        // An exponent that does not fit an i64 is as far out as one that does not fit 64 bits of result.
        Some(text) => {
            let text = std::str::from_utf8(text).unwrap_or_default();
            text.parse().unwrap_or(if text.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 })
        }
    };
    let scale = exponent.saturating_sub(fraction.len() as i64).saturating_add(trailing as i64);
    if scale < 0 {
        return Err(mismatch("whole number", number));
    }
    let too_large = || out_of_range("an int (64 bits)", number);
    if significant.len() as i64 + scale.min(64) > 19 {
        return Err(too_large());
    }
    let mut text = if negative { vec![b'-'] } else { Vec::new() };
    text.extend_from_slice(significant);
    text.resize(text.len() + scale as usize, b'0');
    int_from_digits(&text).ok_or_else(too_large)
}

/// Appends a JSON `true` or `false`.
pub(super) fn push_bool(column: &mut Column<'_>, value: bool) -> Built {
    match column.kind {
        FieldType::Bool => {
            column.push_bool(value);
            Ok(())
        }
        FieldType::String | FieldType::Json => column.push_bytes(if value { b"true" } else { b"false" }),
        kind => Err(Fault::mismatch(format!("{value} is no {kind}"))),
    }
}
