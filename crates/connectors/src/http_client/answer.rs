//! What the head of an answer says, where several connectors read it.

use std::time::Duration;

use millstream_core::Clock;
use reqwest::header::HeaderValue;

/// The longest that a server may ask to be left alone.
pub(crate) const SERVER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The value of a `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3). A date that has passed is no
/// wait.
pub(crate) fn retry_after(value: &HeaderValue, clock: &dyn Clock) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    let us = date.timestamp_micros().saturating_sub(clock.now_us());
    Some(Duration::from_micros(u64::try_from(us).unwrap_or_default()))
}

/// The label of the encoding that a `Content-Type` names as its `charset`.
pub fn charset(content_type: &HeaderValue) -> Option<String> {
    let parameters = content_type.to_str().ok()?.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    let value = value.trim().trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use millstream_core::ManualClock;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 2024-05-01T12:00:10Z
        let clock = ManualClock::new(1_714_564_810_000_000);
        for (text, wanted) in [
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("Wed, 01 May 2024 12:00:40 GMT", Some(30)),
            ("Wed, 01 May 2024 11:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let wait = retry_after(&HeaderValue::from_static(text), &clock);
            assert_eq!(wait, wanted.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn the_charset_of_a_content_type_is_found_however_it_is_written() {
        for (text, wanted) in [
            ("application/rss+xml; charset=ISO-8859-1", Some("ISO-8859-1")),
            ("text/xml;CHARSET=\"utf-8\"; x=y", Some("utf-8")),
            ("text/xml; x=y; charset = latin1 ", Some("latin1")),
            ("text/xml; charset=", None),
            ("text/xml", None),
        ] {
            let value = HeaderValue::from_static(text);
            assert_eq!(charset(&value).as_deref(), wanted, "{text}");
        }
    }
}
