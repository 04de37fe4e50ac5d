//! Numbers as moments: a count since 1970-01-01T00:00:00Z, whose unit follows from its magnitude, or a date and time
//! written without separators.
//!
//! | digits | what it is | reaches |
//! |---|---|---|
//! | up to 11 | seconds | year 5138 |
//! | 8, from `19000101` to `21991231` | a date, `YYYYMMDD` | |
//! | 12, 13 | milliseconds | from 1973 to 2286 |
//! | 14 | `YYYYMMDDhhmmss` | |
//! | 15, 16 | microseconds | from 1973 to 2286 |
//! | 17 | `YYYYMMDDhhmmssSSS` | |
//! | 18, 19 | nanoseconds | from 1973 to 2262 |
//!
//! The last day of the year 9999 is what programs write for "never": its seconds, milliseconds and microseconds are
//! what they are, not a minute of January 1978.
//!
//! Where both readings have been seen in practice (12 digits that are a minute of the years 1900 to 2199, and
//! milliseconds of 1976), the number is [`TimestampError::Ambiguous`]. Below zero there are counts only.

use super::{TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, TimestampError, moment};

const DIGITS_11: u64 = 100_000_000_000;

/// What one unit of a count is.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

/// Microseconds since the epoch, of a whole number; see the table of this module.
///
/// # Errors
/// `Malformed`: it has the length of a date and time without separators, and is none. `OutOfRange`: beyond the years 1
/// to 9999. `Ambiguous`: it can be read in two ways.
pub fn timestamp_from_int(value: i64) -> Result<i64, TimestampError> {
    match reading(value)? {
        Reading::Calendar(us) => Ok(us),
        Reading::Count(unit) => in_range(unit.whole_us(value)),
    }
}

/// [`timestamp_from_int`] of a decimal number as JSON has it (`1714566600.25`, `1.7145666e9`). What is smaller than a
/// microsecond is rounded.
///
/// # Errors
/// As for [`timestamp_from_int`]; `Malformed` also where the text is no number.
pub fn timestamp_from_decimal(text: &str) -> Result<i64, TimestampError> {
    if text.bytes().any(|b| matches!(b, b'e' | b'E')) {
        let value: f64 = text.parse().map_err(|_| TimestampError::Malformed)?;
        // Beyond what any unit holds; plain digits of such a number would be a long text.
        if !value.is_finite() || value.abs() >= 1e19 {
            return Err(TimestampError::OutOfRange);
        }
        return plain_decimal(&format!("{value}"));
    }
    plain_decimal(text)
}

/// Digits, with a point or a comma and more digits behind them where it is no whole number.
pub(super) fn plain_decimal(text: &str) -> Result<i64, TimestampError> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(digits) || !all_digits(fraction) {
        return Err(TimestampError::Malformed);
    }
    let value: i64 = whole.parse().map_err(|_| TimestampError::OutOfRange)?;
    let fraction: f64 = format!("0.{fraction}").parse().map_err(|_| TimestampError::Malformed)?;
    match reading(value)? {
        // `20240501.0`, as programs write that hold whole numbers in floats.
        Reading::Calendar(us) if fraction == 0.0 => Ok(us),
        Reading::Calendar(us) if digits.len() == 14 => Ok(us + (fraction * 1e6) as i64),
        Reading::Calendar(_) => Err(TimestampError::Malformed),
        Reading::Count(unit) => {
            let part = (fraction * unit.us()).round() as i64;
            let whole = unit.whole_us(value);
            in_range(if whole.is_some() && text.starts_with('-') {
                whole.map(|us| us - part)
            } else {
                whole.map(|us| us + part)
            })
        }
    }
}

enum Reading {
    /// The moment that is written there.
    Calendar(i64),
    Count(Unit),
}

fn reading(value: i64) -> Result<Reading, TimestampError> {
    let size = value.unsigned_abs();
    let by_magnitude = match size {
        0..DIGITS_11 => Unit::Seconds,
        DIGITS_11..100_000_000_000_000 => Unit::Milliseconds,
        100_000_000_000_000..100_000_000_000_000_000 => Unit::Microseconds,
        _ => Unit::Nanoseconds,
    };
    if value < 0 {
        return Ok(Reading::Count(by_magnitude));
    }
    for (unit, seconds) in
        [(Unit::Seconds, size), (Unit::Milliseconds, size / 1_000), (Unit::Microseconds, size / 1_000_000)]
    {
        if (253_402_214_400..=253_402_300_799).contains(&seconds) {
            return Ok(Reading::Count(unit));
        }
    }
    match size {
        19_000_101..=21_991_231 => calendar(size * 1_000_000, 0),
        190_001_010_000..=219_912_312_359 if calendar(size * 100, 0).is_ok() => Err(TimestampError::Ambiguous),
        10_000_000_000_000..100_000_000_000_000 => calendar(size, 0),
        10_000_000_000_000_000..100_000_000_000_000_000 => calendar(size / 1_000, (size % 1_000) as u32 * 1_000),
        _ => Ok(Reading::Count(by_magnitude)),
    }
}

/// `YYYYMMDDhhmmss` as one number. What is no moment is malformed: it may be meant as something else.
fn calendar(digits: u64, fraction_us: u32) -> Result<Reading, TimestampError> {
    let two = |divisor: u64| (digits / divisor % 100) as u32;
    let date = ((digits / 10_000_000_000) as i64, two(100_000_000), two(1_000_000));
    let us = moment(date, (two(10_000), two(100), two(1)), fraction_us, 0).map_err(|_| TimestampError::Malformed)?;
    Ok(Reading::Calendar(us))
}

fn in_range(us: Option<i64>) -> Result<i64, TimestampError> {
    us.filter(|us| (TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US).contains(us)).ok_or(TimestampError::OutOfRange)
}

impl Unit {
    /// One of it, in microseconds.
    fn us(self) -> f64 {
        match self {
            Self::Seconds => 1e6,
            Self::Milliseconds => 1e3,
            Self::Microseconds => 1.0,
            Self::Nanoseconds => 1e-3,
        }
    }

    fn whole_us(self, value: i64) -> Option<i64> {
        match self {
            Self::Seconds => value.checked_mul(1_000_000),
            Self::Milliseconds => value.checked_mul(1_000),
            Self::Microseconds => Some(value),
            Self::Nanoseconds => Some(value.div_euclid(1_000)),
        }
    }
}
