//! `Retry-After` (RFC 9110, 10.2.3): seconds, or a date in any of the three forms that HTTP knows (5.6.7).

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};

/// No answer may close an endpoint for longer than this.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the endpoint asks to be left alone from `now_us` (microseconds since the epoch) on; none where the value
/// can't be read. A date that has passed asks for nothing.
pub(crate) fn parse(value: &str, now_us: i64) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Beyond u64 it is no less than the longest wait.
        return Some(value.parse().map_or(WAIT_MAX, Duration::from_secs).min(WAIT_MAX));
    }
    let at_us = date_us(value)?;
    Some(Duration::from_micros(u64::try_from(at_us.saturating_sub(now_us)).unwrap_or(0)).min(WAIT_MAX))
}

fn date_us(value: &str) -> Option<i64> {
    if let Ok(date) = DateTime::parse_from_rfc2822(value) {
        return Some(date.timestamp_micros());
    }
    let obsolete = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let date = obsolete.iter().find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())?;
    Some(date.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z, the moment of the examples in RFC 9110.
    const EXAMPLE_US: i64 = 784_111_777_000_000;

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_read() {
        let now_us = EXAMPLE_US - 90_000_000;
        for value in [
            "90",
            " 90 ",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(value, now_us), Some(Duration::from_secs(90)), "{value}");
        }
    }

    #[test]
    fn what_has_passed_asks_for_nothing_and_what_is_absurd_is_cut() {
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT", EXAMPLE_US + 1), Some(Duration::ZERO));
        assert_eq!(parse("0", EXAMPLE_US), Some(Duration::ZERO));
        for far in ["99999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(parse(far, EXAMPLE_US), Some(WAIT_MAX), "{far}");
        }
        for wrong in ["", "soon", "-5", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(parse(wrong, EXAMPLE_US), None, "{wrong}");
        }
    }
}
