//! Values as people write them in a pipeline file: durations (`30s`), sizes (`64MiB`), secrets.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration written as a number and a unit: `250us`, `5ms`, `2s`, `10m`, `1h`, `30d`; parts add up: `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// Reads a duration; see the type.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no duration: write a number and a unit, such as 500ms, 30s, 10m, 1h or 30d");
        let mut total = Duration::ZERO;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| digits + i);
            let unit_us: u64 = match &rest[digits..unit_end] {
                "us" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                "m" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                _ => return Err(wrong()),
            };
            total += Duration::from_micros(number.checked_mul(unit_us).ok_or_else(wrong)?);
            rest = &rest[unit_end..];
        }
        Ok(Self(total))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        for (unit_us, unit) in
            [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")]
        {
            if us >= unit_us && us.is_multiple_of(unit_us) {
                return write!(f, "{}{unit}", us / unit_us);
            }
        }
        write!(f, "{us}us")
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^\s*(\d+(us|ms|s|m|h|d))+\s*$", "description": "a number and a unit: 500ms, 30s, 10m, 1h, 30d" })
    }
}

/// A size in bytes: a plain number, or a number and a unit: `64KiB`, `8MiB`, `1GiB`, `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads a size; see the type.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no size: write bytes or a number and a unit, such as 512KiB, 64MiB or 1GiB");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit: u64 = match text[digits..].trim() {
            "" | "B" => 1,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit_bytes, unit) in [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if self.0 >= unit_bytes && self.0.is_multiple_of(unit_bytes) {
                return write!(f, "{}{unit}", self.0 / unit_bytes);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(Self(bytes)),
            Written::Text(text) => Self::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": r"^\s*\d+\s*(B|KB|MB|GB|KiB|MiB|GiB|TiB)?\s*$" }
            ],
            "description": "bytes, or a number and a unit: 512KiB, 64MiB, 1GiB"
        })
    }
}

/// A value that is never printed: a password, a token, a URL with credentials.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the client that needs it; never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "a secret: write ${NAME} and set the environment variable; it is never printed" })
    }
}

/// Something to send, which may hold a token and is never printed: a text as it is, anything else as JSON.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(serde_json::Value);

impl SecretValue {
    /// Wraps a value.
    pub fn new(value: impl Into<serde_json::Value>) -> Self {
        Self(value.into())
    }

    /// True for a text.
    pub fn is_text(&self) -> bool {
        self.0.is_string()
    }

    /// What is sent; never for a message.
    pub fn expose(&self) -> String {
        self.0.as_str().map_or_else(|| self.0.to_string(), str::to_owned)
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl JsonSchema for SecretValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "a text, or anything that is sent as JSON; it is never printed" })
    }
}

/// `url` as it may be shown: without user, password and query, and of an address of the web without its path, which
/// holds a token often enough: `https://host/***`.
pub fn redact_url(url: &str) -> String {
    let shown = url_without_credentials(url);
    let Some((scheme, rest)) = shown.split_once("://") else { return shown };
    let (host, path) = split_authority(rest);
    let is_web = ["http", "https", "ws", "wss"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    if !is_web || path.len() <= 1 { shown } else { format!("{scheme}://{host}/***") }
}

/// `url` without user, password and query, but with its path: to tell addresses apart, not to be shown. Where a
/// password may reach behind what looks like the host (it holds a `/`, `?`, `#` or `@` that is not encoded), only the
/// scheme is left.
pub fn url_without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".into() };
    let (authority, behind) = split_authority(rest);
    let host = authority.rsplit('@').next().unwrap_or_default();
    // `amqp://user:12/3@host`: what looks like a port may be the beginning of a password.
    let is_local = ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| host.starts_with(local));
    let looks_whole = host.contains('.') && !host.contains(':');
    if unencoded_user_info(url) || behind.contains('@') && !is_local && !looks_whole {
        return format!("{scheme}://***");
    }
    let path = &behind[..behind.find(['?', '#']).unwrap_or(behind.len())];
    format!("{scheme}://{host}{path}")
}

/// True where user or password of `url` holds a character that must be percent-encoded there, so that another host is
/// read from it than the one that is meant, or another password.
pub fn unencoded_user_info(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let (authority, behind) = split_authority(rest);
    let Some((user_info, _)) = authority.rsplit_once('@') else {
        // A port of other characters than digits is a password that was cut off.
        let port = authority.rsplit_once(':').filter(|_| !authority.ends_with(']')).map(|(_, port)| port);
        return behind.contains('@')
            && port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()) || port.is_empty());
    };
    let stray = user_info.match_indices('%').any(|(at, _)| {
        let digits = user_info.as_bytes().get(at + 1..at + 3);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    stray || user_info.contains('@') || behind.contains('@')
}

/// What stands before the path, the query or the fragment, and the rest.
fn split_authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_and_print() {
        assert_eq!(HumanDuration::parse("1h30m").unwrap().0, Duration::from_secs(5400));
        assert_eq!(HumanDuration::parse("5ms").unwrap().to_string(), "5ms");
        assert_eq!(HumanDuration::parse("90s").unwrap().to_string(), "90s");
        for wrong in ["", "5", "s", "5 parsecs", "99999999999999999999d", "18446744073709551615d"] {
            assert!(HumanDuration::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ByteSize::parse("64MiB").unwrap(), ByteSize(64 << 20));
        assert_eq!(ByteSize(64 << 20).to_string(), "64MiB");
        assert!(ByteSize::parse("64 parsecs").is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?} {}", Secret::new("x"), Secret::new("x")), "*** ***");
        assert_eq!(redact_url("amqp://u:p@host:5672/%2f?token=1"), "amqp://host:5672/%2f");
    }

    #[test]
    fn a_password_with_reserved_characters_is_found_and_shown_nowhere() {
        for url in [
            "amqp://user:p@ss/w%rd#1@host:5672/%2f",
            "amqp://user:pa/ss@host/",
            "amqp://user:#1@host/",
            "ws://user:a?b@host/x",
            "https://user:p@ss@host/",
            "https://user:p%rd@host/",
            "https://user:p%4@host/",
        ] {
            assert!(unencoded_user_info(url), "{url}");
            let shown = redact_url(url);
            assert!(shown.ends_with("://***"), "{url} is shown as {shown}");
        }
        for (url, shown) in [
            ("amqp://user:12/3@host/", "amqp://***"),
            ("https://medium.com/feed/@user", "https://medium.com/***"),
            ("http://127.0.0.1:80/@user", "http://127.0.0.1:80/***"),
            ("https://user:p%40ss%2Fw%25rd%231@host:1/a?b=c", "https://host:1/***"),
            ("WSS://host/token", "WSS://host/***"),
            ("http://[::1]:8080/x", "http://[::1]:8080/***"),
            ("http://host/?token=1", "http://host/"),
            ("http://host", "http://host"),
        ] {
            assert!(!unencoded_user_info(url), "{url}");
            assert_eq!(redact_url(url), shown);
        }
        assert_eq!(url_without_credentials("https://u:p@host:1/a?b=c"), "https://host:1/a", "to tell addresses apart");
    }
}
