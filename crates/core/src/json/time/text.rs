//! Text as moments. Every form in which the place of year, month and day can't be mistaken is read: RFC 3339 and
//! ISO 8601 (extended and basic), RFC 2822 and what feeds and programs make of it, RFC 850, `asctime`, the dates of
//! JavaScript, Go and of web servers' logs, and numbers (see [`super::number`]). `01/02/2024` is none of them.

use super::number::plain_decimal;
use super::{TIMESTAMP_MAX_US, TIMESTAMP_MIN_US, TimestampError, moment, zone};

/// Microseconds since the epoch, of `2024-05-01T12:30:00.5+02:00`, `2024-05-01 12:30`, `20240501T123000Z`,
/// `Wed, 1 May 2024 12:30:00 GMT`, `1714566600.5` and their kin. Without a zone it is UTC, without a time midnight.
/// Digits behind the microsecond are cut off.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    parse_timestamp_strict(text).ok()
}

/// [`parse_timestamp`] that tells what is no timestamp from what is an impossible one.
///
/// # Errors
/// See [`TimestampError`].
pub fn parse_timestamp_strict(text: &str) -> Result<i64, TimestampError> {
    let mut text = text.trim();
    let spaced;
    if !text.is_ascii() {
        // Spaces that do not break stand in feeds, and before the AM of browsers.
        spaced = text.replace(|c: char| c.is_whitespace(), " ");
        text = &spaced;
    }
    let us = read(text)?;
    if (TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US).contains(&us) { Ok(us) } else { Err(TimestampError::OutOfRange) }
}

fn read(text: &str) -> Result<i64, TimestampError> {
    let bytes = text.as_bytes();
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let behind = &bytes[digits..];
    let mut input = Input(bytes);
    let mut parts = Parts::default();
    match (digits, behind.first()) {
        (0, Some(b'+' | b'-')) if input.has_far_year() => return Err(TimestampError::OutOfRange),
        (0, Some(b'+')) => return Err(TimestampError::Malformed),
        (0, Some(b'-')) => return count(text, &text[1..]),
        (1.., None) => return count(text, text),
        (8.., Some(b'.' | b',')) if behind[1..].iter().all(u8::is_ascii_digit) => return count(text, text),
        (5..8 | 9.., Some(b'-')) if digits != 14 => return Err(TimestampError::OutOfRange),
        (4, Some(b'-' | b'/')) if behind.get(1).is_some_and(u8::is_ascii_digit) => input.iso_date(&mut parts)?,
        (8 | 12 | 14, _) => input.basic_date(digits, &mut parts)?,
        _ => {}
    }
    // Most moments end here; nothing else needs to be looked for.
    if input.0 != b"Z" || !parts.has_date() {
        input.tokens(&mut parts)?;
    }
    parts.finish()
}

/// A number in text: eight digits are a date or nothing, nine and more a count or a date and time, as
/// [`super::number`] says. Leading zeros are no number that anyone counts with.
fn count(text: &str, digits: &str) -> Result<i64, TimestampError> {
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    let is_date = whole == 8 && !text.starts_with('-') && (19_000_101..=21_991_231).contains(&number_of(&digits[..8]));
    if !(is_date || whole >= 9) || digits.starts_with('0') {
        return Err(TimestampError::Malformed);
    }
    if whole == 20 && whole == text.len() {
        // `YYYYMMDDhhmmss` and microseconds, more than 64 bits hold as a number.
        return plain_decimal(&format!("{}.{}", &text[..14], &text[14..]));
    }
    plain_decimal(text)
}

fn number_of(digits: &str) -> u32 {
    digits.parse().unwrap_or(0)
}

/// What has been read of a date and time.
#[derive(Default)]
struct Parts {
    year: Option<i64>,
    month: Option<u32>,
    day: Option<u32>,
    time: Option<Time>,
    /// 12 or 0 hours to add to a time of 12 hours.
    half: Option<u32>,
    /// Minutes east of UTC, as a number.
    offset_min: Option<i64>,
    /// Minutes east of UTC, by a name.
    zone_min: Option<i64>,
}

#[derive(Clone, Copy, Default)]
struct Time {
    hour: u32,
    minute: u32,
    second: u32,
    fraction_us: u32,
}

impl Parts {
    fn finish(self) -> Result<i64, TimestampError> {
        let (Some(year), Some(month), Some(day)) = (self.year, self.month, self.day) else {
            return Err(TimestampError::Malformed);
        };
        let mut time = self.time.unwrap_or_default();
        if let Some(half) = self.half {
            if !(1..=12).contains(&time.hour) {
                return Err(TimestampError::OutOfRange);
            }
            time.hour = time.hour % 12 + half;
        }
        let offset_min = match (self.offset_min, self.zone_min) {
            // `GMT+0100` and `+0100 CET`; but what would `+0100 EST` be?
            (Some(offset), Some(zone)) if zone != 0 && zone != offset => return Err(TimestampError::Malformed),
            (Some(offset), _) => offset,
            (None, zone) => zone.unwrap_or(0),
        };
        moment((year, month, day), (time.hour, time.minute, time.second), time.fraction_us, offset_min)
    }

    fn has_date(&self) -> bool {
        self.year.is_some() && self.month.is_some() && self.day.is_some()
    }
}

/// Puts a part where there is none yet.
fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), TimestampError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(TimestampError::Malformed),
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// `2024-05-01` or `2024/5/1`, and the `T` behind it.
    fn iso_date(&mut self, parts: &mut Parts) -> Result<(), TimestampError> {
        parts.year = Some(i64::from(self.digits(4)?));
        let separator = self.0.first().copied().unwrap_or_default();
        self.0 = &self.0[1..];
        parts.month = Some(self.one_or_two()?);
        self.expect(separator)?;
        parts.day = Some(self.one_or_two()?);
        self.time_behind_date(parts)
    }

    /// `20240501`, and behind it `T123000`, or without a `T` as many digits as there are.
    fn basic_date(&mut self, digits: usize, parts: &mut Parts) -> Result<(), TimestampError> {
        parts.year = Some(i64::from(self.digits(4)?));
        parts.month = Some(self.digits(2)?);
        parts.day = Some(self.digits(2)?);
        if digits > 8 {
            parts.time = Some(self.time()?);
            return Ok(());
        }
        self.time_behind_date(parts)
    }

    fn time_behind_date(&mut self, parts: &mut Parts) -> Result<(), TimestampError> {
        let spaces = self.0.iter().take_while(|b| **b == b' ').count();
        let behind = if spaces > 0 { spaces } else { usize::from(matches!(self.0.first(), Some(b'T' | b't'))) };
        if behind > 0 && self.0.get(behind).is_some_and(u8::is_ascii_digit) {
            self.0 = &self.0[behind..];
            parts.time = Some(self.time()?);
        }
        Ok(())
    }

    /// The rest, whose parts may come in any order that leaves no doubt.
    fn tokens(&mut self, parts: &mut Parts) -> Result<(), TimestampError> {
        if self.0.is_empty() && !parts.has_date() {
            return Err(TimestampError::Malformed);
        }
        let mut first = !parts.has_date();
        loop {
            while matches!(self.0.first(), Some(b',')) || self.0.first().is_some_and(u8::is_ascii_whitespace) {
                self.0 = &self.0[1..];
            }
            match self.0.first() {
                None => return Ok(()),
                // `(Coordinated Universal Time)`; and `[Europe/Berlin]`, which says again what the offset has said.
                Some(b'(') if parts.has_date() && self.0.ends_with(b")") => return Ok(()),
                Some(b'[') if parts.offset_min.or(parts.zone_min).is_some() && self.0.ends_with(b"]") => return Ok(()),
                Some(b'+' | b'-') if parts.has_date() => {
                    let offset = self.offset_min()?;
                    set(&mut parts.offset_min, offset)?;
                }
                Some(b'0'..=b'9') => self.number(parts)?,
                Some(byte) if byte.is_ascii_alphabetic() || (first && !byte.is_ascii()) => self.word(parts, first)?,
                Some(_) => return Err(TimestampError::Malformed),
            }
            first = false;
        }
    }

    /// A day, a year or a time.
    fn number(&mut self, parts: &mut Parts) -> Result<(), TimestampError> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        match count {
            1 | 2 if self.0.get(count) == Some(&b':') => {
                let time = self.time()?;
                return set(&mut parts.time, time);
            }
            1 | 2 if parts.day.is_none() => {
                parts.day = Some(self.digits(count)?);
                let head: Vec<u8> = self.0.iter().take(2).map(u8::to_ascii_lowercase).collect();
                if matches!(&head[..], b"st" | b"nd" | b"rd" | b"th") {
                    self.0 = &self.0[2..];
                }
            }
            2 => {
                let short = i64::from(self.digits(2)?);
                set(&mut parts.year, if short < 50 { 2000 + short } else { 1900 + short })?;
            }
            4 => {
                let year = i64::from(self.digits(4)?);
                set(&mut parts.year, year)?;
            }
            5.. if parts.month.is_some() => return Err(TimestampError::OutOfRange),
            _ => return Err(TimestampError::Malformed),
        }
        // `06-Nov-94`, and `01/May/2024:12:30:00` of web servers' logs.
        let joins = matches!(self.0.first(), Some(b'-' | b'/' | b'.'))
            && parts.month.is_none()
            && self.0.get(1).is_some_and(u8::is_ascii_alphabetic);
        if joins || (count == 4 && parts.has_date() && self.0.first() == Some(&b':')) {
            self.0 = &self.0[1..];
        }
        Ok(())
    }

    /// A month, a weekday, a zone, or the half of a day.
    fn word(&mut self, parts: &mut Parts, first: bool) -> Result<(), TimestampError> {
        let is_part = |b: &&u8| b.is_ascii_alphabetic() || (first && !b.is_ascii());
        let length = self.0.iter().take_while(is_part).count();
        let (word, rest) = self.0.split_at(length);
        self.0 = rest;
        // A weekday may be in any language and wrong; `mar., 2 janv.` is a Tuesday, for its comma.
        let comma = rest.first() == Some(&b',') || rest.starts_with(b".,");
        let month = if first && comma { None } else { month_number(word) };
        if let Some(month) = month.filter(|_| parts.month.is_none()) {
            parts.month = Some(month);
            self.eat(b'.');
            if matches!(self.0, [b'-' | b'/', b'0'..=b'9', ..]) && !parts.has_date() {
                self.0 = &self.0[1..];
            }
            return Ok(());
        }
        let half = match word {
            b"AM" | b"am" | b"Am" => Some(0),
            b"PM" | b"pm" | b"Pm" => Some(12),
            b"a" | b"A" | b"p" | b"P" if parts.time.is_some() && rest.starts_with(b".") => {
                let half = if word.eq_ignore_ascii_case(b"a") { 0 } else { 12 };
                self.0 = &rest[1..];
                let m = self.eat(b'm') || self.eat(b'M');
                if !m || !self.eat(b'.') {
                    return Err(TimestampError::Malformed);
                }
                Some(half)
            }
            _ => None,
        };
        if let Some(half) = half.filter(|_| parts.time.is_some()) {
            return set(&mut parts.half, half);
        }
        if first || is_weekday(word) {
            self.eat(b'.');
            return Ok(());
        }
        if word.eq_ignore_ascii_case(b"at") && parts.has_date() && parts.time.is_none() {
            return Ok(());
        }
        match zone::offset_min(word) {
            Some(minutes) if parts.day.is_some() => set(&mut parts.zone_min, minutes),
            _ => Err(TimestampError::Malformed),
        }
    }

    /// `12:30`, `12:30:00.5`, `1230`, `123000`, `12`.
    fn time(&mut self) -> Result<Time, TimestampError> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let extended = self.0.get(count) == Some(&b':');
        let hour = match count {
            1 | 2 if extended => self.digits(count)?,
            2 | 4 | 6 if !extended => self.digits(2)?,
            _ => return Err(TimestampError::Malformed),
        };
        let mut time = Time { hour, ..Time::default() };
        let mut seconds = false;
        if extended {
            self.expect(b':')?;
            time.minute = self.digits(2)?;
            if self.eat(b':') {
                time.second = self.digits(2)?;
                seconds = true;
            }
        } else {
            if count > 2 {
                time.minute = self.digits(2)?;
            }
            if count > 4 {
                time.second = self.digits(2)?;
                seconds = true;
            }
        }
        if seconds && matches!(self.0, [b'.', ..] | [b',', b'0'..=b'9', ..]) {
            self.0 = &self.0[1..];
            time.fraction_us = self.fraction_us()?;
        }
        Ok(time)
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

    /// `+02:00`, `+0200`, `+02`, `+2`: minutes east of UTC.
    fn offset_min(&mut self) -> Result<i64, TimestampError> {
        let sign = if self.eat(b'-') { -1 } else { 1 };
        self.eat(b'+');
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let hours = self.digits(if count == 1 || count == 3 { 1 } else { 2 })?;
        let minutes = if self.eat(b':') || count > 2 { self.digits(2)? } else { 0 };
        if hours > 23 || minutes > 59 {
            return Err(TimestampError::OutOfRange);
        }
        Ok(sign * i64::from(hours * 60 + minutes))
    }

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

    /// True for `+12024-01-01…` and `-0044-03-15…`: years that ISO 8601 can write and RFC 3339 can't.
    fn has_far_year(&self) -> bool {
        let rest = &self.0[1..];
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        digits >= 4 && rest.get(digits) == Some(&b'-')
    }
}

/// `Jan`, `january`, `Sept`: the first three letters count.
fn month_number(word: &[u8]) -> Option<u32> {
    const MONTHS: &[u8] = b"janfebmaraprmayjunjulaugsepoctnovdec";
    let head = word.get(..3).filter(|_| word.len() <= 9)?;
    let index = MONTHS.chunks_exact(3).position(|name| name.eq_ignore_ascii_case(head))?;
    Some(index as u32 + 1)
}

fn is_weekday(word: &[u8]) -> bool {
    const DAYS: &[u8] = b"montuewedthufrisatsun";
    word.get(..3).is_some_and(|head| DAYS.chunks_exact(3).any(|name| name.eq_ignore_ascii_case(head)))
}
