//! Moments: as numbers of microseconds, as text, and the two read out of each other. What is read is in
//! [`text`] (dates and times), [`zone`] (names of zones) and [`number`] (counts since the epoch).

mod number;
mod text;
mod zone;

pub use number::{timestamp_from_decimal, timestamp_from_int};
pub use text::{parse_timestamp, parse_timestamp_strict};

/// 0001-01-01T00:00:00Z, the first moment that RFC 3339 can write.
pub const TIMESTAMP_MIN_US: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z, the last moment that RFC 3339 can write.
pub const TIMESTAMP_MAX_US: i64 = 253_402_300_799_999_999;

const DAY_S: i64 = 86_400;

/// Why a text or a number is no timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampError {
    /// It does not have the form of one.
    Malformed,
    /// It has the form, but there is no such moment: month 13, 30 February, 25 o'clock, year 0 or 10000.
    OutOfRange,
    /// A number that can be read in two ways: `202405011230` is a minute of 2024, or milliseconds in 1976.
    Ambiguous,
}

/// Appends a moment as RFC 3339 in UTC: whole seconds, or 3 or 6 digits of fraction.
pub fn write_timestamp_us(us: i64, out: &mut Vec<u8>) {
    write_timestamp(us, 0, out);
}

/// As [`write_timestamp_us`], with `ns` (0 to 999) behind the microsecond.
pub(super) fn write_timestamp(us: i64, ns: u32, out: &mut Vec<u8>) {
    let (seconds, fraction_us) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000) as u32);
    let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S) as u32);
    write_date(days, out);
    let two = |value: u32| [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
    let (h, m, s) = (two(second / 3_600), two(second / 60 % 60), two(second % 60));
    out.extend_from_slice(&[b'T', h[0], h[1], b':', m[0], m[1], b':', s[0], s[1]]);
    if fraction_us != 0 || ns != 0 {
        let (value, digits) = match (fraction_us % 1_000, ns) {
            (0, 0) => (fraction_us / 1_000, 3),
            (_, 0) => (fraction_us, 6),
            _ => (fraction_us * 1_000 + ns, 9),
        };
        out.push(b'.');
        let start = out.len();
        out.resize(start + digits, b'0');
        let mut rest = value;
        for digit in out[start..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    out.push(b'Z');
}

/// Appends the date that is `days` after 1970-01-01. Years beyond four digits carry a sign, as ISO 8601 has it.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if !(0..=9999).contains(&year) {
        out.push(if year < 0 { b'-' } else { b'+' });
    }
    let absolute = year.unsigned_abs();
    if absolute > 9999 {
        super::write_u64(absolute / 10_000, out);
    }
    let two = |value: u64| [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
    let (century, year) = (two(absolute / 100 % 100), two(absolute % 100));
    let (month, day) = (two(u64::from(month)), two(u64::from(day)));
    out.extend_from_slice(&[century[0], century[1], year[0], year[1], b'-', month[0], month[1], b'-', day[0], day[1]]);
}

/// Year, month and day. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The reverse of [`civil_from_days`]; the date must exist.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The moment, from parts that were only read so far; an offset of minutes east.
fn moment(
    date: (i64, u32, u32),
    time: (u32, u32, u32),
    fraction_us: u32,
    offset_min: i64,
) -> Result<i64, TimestampError> {
    let ((year, month, day), (hour, minute, second)) = (date, time);
    // Second 60 is a leap second: it counts as the first of the next minute. 24:00:00 is the end of the day.
    let exists = (1..=9_999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && (hour <= 23 || (hour, minute, second, fraction_us) == (24, 0, 0, 0))
        && minute <= 59
        && second <= 60;
    if !exists {
        return Err(TimestampError::OutOfRange);
    }
    let seconds = days_from_civil(year, month, day) * DAY_S + i64::from(hour * 3_600 + minute * 60 + second);
    Ok((seconds - offset_min * 60) * 1_000_000 + i64::from(fraction_us))
}
