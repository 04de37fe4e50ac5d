//! Formats of dates: `%Y-%m-%d`, and Java's patterns, `yyyy-MM-dd`, which Flink's functions take.
//!
//! What has no `%` is a pattern: as a format it would be a text without any date in it.

use std::borrow::Cow;

use arrow::array::StringArray;
use arrow::array::{Array, AsArray};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs};

/// The argument of a function as a format, translated once where it is constant.
pub(super) fn as_format(argument: ColumnarValue) -> Result<ColumnarValue> {
    match argument {
        ColumnarValue::Scalar(ScalarValue::Utf8(Some(pattern))) => {
            Ok(ColumnarValue::Scalar(ScalarValue::Utf8(Some(format_at_run_time(&pattern)?.into_owned()))))
        }
        ColumnarValue::Array(patterns) if patterns.data_type().is_string() => {
            let patterns = patterns.as_string::<i32>();
            let formats = patterns.iter().map(|pattern| pattern.map(format_at_run_time).transpose());
            Ok(ColumnarValue::Array(std::sync::Arc::new(formats.collect::<Result<StringArray>>()?)))
        }
        other => Ok(other),
    }
}

/// An error where a constant argument behind the first one is no pattern.
pub(super) fn check_formats(name: &str, args: &ReturnFieldArgs<'_>) -> Result<()> {
    for constant in args.scalar_arguments.iter().skip(1).flatten() {
        if let Some(Err(wrong)) = constant.try_as_str().flatten().map(format_of) {
            return plan_err!("{name} takes {wrong}");
        }
    }
    Ok(())
}

fn format_at_run_time(pattern: &str) -> Result<Cow<'_, str>> {
    match format_of(pattern) {
        Ok(format) => Ok(format),
        Err(wrong) => exec_err!("a pattern of dates is wrong: {wrong}"),
    }
}

/// The format for a pattern; a format stays one.
fn format_of(pattern: &str) -> Result<Cow<'_, str>, String> {
    if pattern.contains('%') {
        return Ok(Cow::Borrowed(pattern));
    }
    let mut format = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    while let Some(first) = rest.next() {
        match first {
            '\'' if rest.next_if_eq(&'\'').is_some() => format.push('\''),
            '\'' => loop {
                match rest.next() {
                    Some('\'') if rest.next_if_eq(&'\'').is_none() => break,
                    Some(literal) => format.push(literal),
                    None => return Err("a pattern whose quotes are closed: yyyy-MM-dd'T'HH:mm".into()),
                }
            },
            letter if letter.is_ascii_alphabetic() => {
                let mut count = 1;
                while rest.next_if_eq(&letter).is_some() {
                    count += 1;
                }
                format.push_str(field(letter, count)?);
            }
            literal => format.push(literal),
        }
    }
    Ok(Cow::Owned(format))
}

/// What so many of a letter stand for in Java's `DateTimeFormatter`.
fn field(letter: char, count: usize) -> Result<&'static str, String> {
    Ok(match (letter, count) {
        ('y' | 'u', 2) => "%y",
        ('y' | 'u', 1 | 4) => "%Y",
        ('M' | 'L', 1) => "%-m",
        ('M' | 'L', 2) => "%m",
        ('M' | 'L', 3) => "%b",
        ('M' | 'L', 4) => "%B",
        ('d', 1) => "%-d",
        ('d', 2) => "%d",
        ('D', 1) => "%-j",
        ('D', 3) => "%j",
        ('E', 1..=3) => "%a",
        ('E', 4) => "%A",
        ('H', 1) => "%-H",
        ('H', 2) => "%H",
        ('h', 1) => "%-I",
        ('h', 2) => "%I",
        ('a', 1) => "%p",
        ('m', 1) => "%-M",
        ('m', 2) => "%M",
        ('s', 1) => "%-S",
        ('s', 2) => "%S",
        ('S', 3) => "%3f",
        ('S', 6) => "%6f",
        ('S', 9) => "%9f",
        ('Z', 1..=3) | ('x' | 'X', 2) => "%z",
        ('x' | 'X', 3) => "%:z",
        _ => {
            let letters = String::from(letter).repeat(count.min(10));
            return Err(format!(
                "a pattern of yyyy, MM, dd, HH, mm, ss, SSS and their like, or a format of %Y, %m, %d, …; \
                 not `{letters}`"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_patterns_become_formats() {
        for (pattern, format) in [
            ("yyyy-MM-dd HH:mm:ss.SSS", "%Y-%m-%d %H:%M:%S.%3f"),
            ("yyyy-MM-dd'T'HH:mm:ssXXX", "%Y-%m-%dT%H:%M:%S%:z"),
            ("d. MMMM yy, h 'o''clock' a", "%-d. %B %y, %-I o'clock %p"),
            ("EEE ''yy", "%a '%y"),
            ("%d.%m.%Y", "%d.%m.%Y"),
            ("", ""),
        ] {
            assert_eq!(format_of(pattern).unwrap(), format, "{pattern}");
        }
        assert!(format_of("yyyy-MM-dd VV").unwrap_err().contains("not `VV`"));
        assert!(format_of("yyyy 'T").unwrap_err().contains("quotes"));
    }
}
