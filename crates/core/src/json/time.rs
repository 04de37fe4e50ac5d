//! Moments as text: RFC 3339 (with the liberties of ISO 8601 that are seen in practice) and RFC 2822 as RSS uses it.

/// 0001-01-01T00:00:00Z, the first moment that RFC 3339 can write.
pub const TIMESTAMP_MIN_US: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z, the last moment that RFC 3339 can write.
pub const TIMESTAMP_MAX_US: i64 = 253_402_300_799_999_999;

const DAY_S: i64 = 86_400;

/// Why a text is no timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampError {
    /// It does not have the form of one.
    Malformed,
    /// It has the form, but there is no such moment: month 13, 30 February, 25 o'clock, year 0 or 10000.
    OutOfRange,
}

/// Microseconds since the epoch, of `2024-05-01T12:30:00.5+02:00`, `2024-05-01 12:30`, `2024-05-01` or
/// `Wed, 1 May 2024 12:30:00 GMT`. Without an offset it is UTC. Digits behind the microsecond are cut off.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    parse_timestamp_strict(text).ok()
}

/// [`parse_timestamp`] that tells what is no timestamp from what is an impossible one.
///
/// # Errors
/// See [`TimestampError`].
pub fn parse_timestamp_strict(text: &str) -> Result<i64, TimestampError> {
    let mut input = Input(text.as_bytes().trim_ascii());
    let starts_with_date = input.0.len() > 4 && input.0[4] == b'-' || input.0.iter().take(7).any(|&b| b == b'-');
    let us = match input.0.first() {
        Some(b'0'..=b'9') if starts_with_date => input.iso()?,
        Some(b'+' | b'-') => {
            return Err(if input.far_year() { TimestampError::OutOfRange } else { TimestampError::Malformed });
        }
        _ => input.rfc_2822()?,
    };
    if (TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US).contains(&us) { Ok(us) } else { Err(TimestampError::OutOfRange) }
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
    // Second 60 is a leap second: it counts as the first of the next minute.
    let exists = (1..=9_999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !exists {
        return Err(TimestampError::OutOfRange);
    }
    let seconds = days_from_civil(year, month, day) * DAY_S + i64::from(hour * 3_600 + minute * 60 + second);
    Ok((seconds - offset_min * 60) * 1_000_000 + i64::from(fraction_us))
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// Exactly `count` digits.
    fn digits(&mut self, count: usize) -> Result<u32, TimestampError> {
        let mut value = 0;
        let head = self.0.get(..count).ok_or(TimestampError::Malformed)?;
        for &byte in head {
            if !byte.is_ascii_digit() {
                return Err(TimestampError::Malformed);
            }
            value = value * 10 + u32::from(byte - b'0');
        }
        self.0 = &self.0[count..];
        Ok(value)
    }

    /// One digit or two.
    fn one_or_two(&mut self) -> Result<u32, TimestampError> {
        let count = if self.0.get(1).is_some_and(u8::is_ascii_digit) { 2 } else { 1 };
        self.digits(count)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), TimestampError> {
        if self.eat(byte) { Ok(()) } else { Err(TimestampError::Malformed) }
    }

    fn skip_spaces(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn end(&self) -> Result<(), TimestampError> {
        if self.0.is_empty() { Ok(()) } else { Err(TimestampError::Malformed) }
    }

    /// True for `+12024-01-01…` and `-0044-03-15…`: years that ISO 8601 can write and RFC 3339 can't.
    fn far_year(&self) -> bool {
        let rest = &self.0[1..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        digits >= 4 && rest.get(digits) == Some(&b'-')
    }

    fn iso(&mut self) -> Result<i64, TimestampError> {
        let year_digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if year_digits > 4 && self.0.get(year_digits) == Some(&b'-') {
            return Err(TimestampError::OutOfRange);
        }
        let year = i64::from(self.digits(4)?);
        self.expect(b'-')?;
        let month = self.digits(2)?;
        self.expect(b'-')?;
        let date = (year, month, self.digits(2)?);
        if self.0.is_empty() {
            return moment(date, (0, 0, 0), 0, 0);
        }
        if !(self.eat(b'T') || self.eat(b't') || self.eat(b' ')) {
            return Err(TimestampError::Malformed);
        }
        let hour = self.digits(2)?;
        self.expect(b':')?;
        let minute = self.digits(2)?;
        let (mut second, mut fraction_us) = (0, 0);
        if self.eat(b':') {
            second = self.digits(2)?;
            if self.eat(b'.') || self.eat(b',') {
                fraction_us = self.fraction_us()?;
            }
        }
        self.skip_spaces();
        let offset_min = match self.0.first() {
            None => 0,
            Some(b'Z' | b'z') => {
                self.0 = &self.0[1..];
                0
            }
            _ => self.offset_min()?,
        };
        self.end()?;
        moment(date, (hour, minute, second), fraction_us, offset_min)
    }

    /// 1 to 9 digits, as microseconds.
    fn fraction_us(&mut self) -> Result<u32, TimestampError> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&count) {
            return Err(TimestampError::Malformed);
        }
        let value = self.digits(count)?;
        Ok(if count <= 6 { value * 10_u32.pow(6 - count as u32) } else { value / 10_u32.pow(count as u32 - 6) })
    }

    /// `+02:00`, `+0200`, `+02`: minutes east of UTC.
    fn offset_min(&mut self) -> Result<i64, TimestampError> {
        let sign = match self.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(TimestampError::Malformed),
        };
        self.0 = &self.0[1..];
        let hours = self.digits(2)?;
        let minutes = if self.eat(b':') || !self.0.is_empty() { self.digits(2)? } else { 0 };
        if hours > 23 || minutes > 59 {
            return Err(TimestampError::OutOfRange);
        }
        Ok(sign * i64::from(hours * 60 + minutes))
    }

    /// `Wed, 01 May 2024 12:30:00 +0200`; the weekday and the seconds may be missing, the year may have two digits.
    fn rfc_2822(&mut self) -> Result<i64, TimestampError> {
        if self.0.first().is_some_and(u8::is_ascii_alphabetic) {
            self.word()?;
            if !self.eat(b',') && self.0.first() != Some(&b' ') {
                return Err(TimestampError::Malformed);
            }
            self.skip_spaces();
        }
        let day = self.one_or_two()?;
        self.skip_spaces();
        let month = month_number(self.word()?)?;
        self.skip_spaces();
        let year = match self.0.iter().take_while(|b| b.is_ascii_digit()).count() {
            2 => match self.digits(2)? {
                short @ 0..50 => 2000 + i64::from(short),
                short => 1900 + i64::from(short),
            },
            4 => i64::from(self.digits(4)?),
            5.. => return Err(TimestampError::OutOfRange),
            _ => return Err(TimestampError::Malformed),
        };
        self.skip_spaces();
        let hour = self.one_or_two()?;
        self.expect(b':')?;
        let minute = self.digits(2)?;
        let second = if self.eat(b':') { self.digits(2)? } else { 0 };
        self.skip_spaces();
        let offset_min = match self.0.first() {
            None => 0,
            Some(b'+' | b'-') => self.offset_min()?,
            _ => zone_offset_min(self.word()?)?,
        };
        self.end()?;
        moment((year, month, day), (hour, minute, second), 0, offset_min)
    }

    /// ASCII letters, at least one.
    fn word(&mut self) -> Result<&[u8], TimestampError> {
        let length = self.0.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        if length == 0 {
            return Err(TimestampError::Malformed);
        }
        let (word, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(word)
    }
}

/// `Jan`, `january`: the first three letters count.
fn month_number(word: &[u8]) -> Result<u32, TimestampError> {
    const MONTHS: &[u8] = b"janfebmaraprmayjunjulaugsepoctnovdec";
    let head = word.get(..3).ok_or(TimestampError::Malformed)?;
    let index = MONTHS.chunks_exact(3).position(|name| name.eq_ignore_ascii_case(head));
    index.map(|i| i as u32 + 1).ok_or(TimestampError::Malformed)
}

/// The zones of RFC 2822, section 4.3.
fn zone_offset_min(word: &[u8]) -> Result<i64, TimestampError> {
    const ZONES: [(&[u8], i64); 12] = [
        (b"GMT", 0),
        (b"UT", 0),
        (b"UTC", 0),
        (b"Z", 0),
        (b"EST", -5),
        (b"EDT", -4),
        (b"CST", -6),
        (b"CDT", -5),
        (b"MST", -7),
        (b"MDT", -6),
        (b"PST", -8),
        (b"PDT", -7),
    ];
    let zone = ZONES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    zone.map(|(_, hours)| hours * 60).ok_or(TimestampError::Malformed)
}
