//! The sources there are: their settings as one closed set, the check of those settings, and how to open one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::units::unencoded_user_info;
use millstream_core::{ByteSize, Clock, Cursor, Error, HumanDuration, Result, Secret, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::feed::{FeedSource, FeedSourceConfig};
use crate::file::{FileSource, FileSourceConfig};
use crate::format::{Framing, TextEncoding};
use crate::http_push::HttpPushConfig;
use crate::http_stream::{HttpStreamSource, HttpStreamSourceConfig};
use crate::websocket::{WebsocketSource, WebsocketSourceConfig};

/// A source's settings, told apart by `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceConfig {
    /// Files.
    File(FileSourceConfig),
    /// Records pushed to this server over HTTP.
    Http(HttpPushConfig),
    /// RSS, Atom and JSON feeds: each new or changed entry once. The fields of an entry are in `docs/decoding.md`.
    Feed(FeedSourceConfig),
    /// A WebSocket.
    Websocket(WebsocketSourceConfig),
    /// An HTTP answer that does not end.
    HttpStream(HttpStreamSourceConfig),
}

/// What a source is told when it is opened.
#[derive(Clone)]
pub struct SourceContext {
    /// The source's name in the pipeline file, for messages.
    pub name: Arc<str>,
    /// The place to go on behind, as the log kept it; empty for the first start.
    pub cursor: Cursor,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How the decoder wants bytes cut into records.
    pub framing: Framing,
    /// The encoding of what is read, where the bytes do not say it themselves; none is UTF-8.
    pub encoding: Option<TextEncoding>,
    /// Told when the source begins to wait for its system, at each attempt that fails, and when it gets on.
    pub status: Status,
}

/// Takes a source's state.
pub type Status = Arc<dyn Fn(SourceStatus<'_>) + Send + Sync>;

/// How it goes between a source and its system. `part` tells several systems of one source apart (the feeds of a list);
/// it is empty where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceStatus<'a> {
    /// An attempt failed; there will be another.
    Waiting {
        /// Which system.
        part: &'a str,
        /// What went wrong: holds no number that changes from attempt to attempt, and no secret.
        why: &'a str,
    },
    /// It is connected, or has answered.
    Works {
        /// Which system.
        part: &'a str,
    },
    /// Something was not as it should be, and does not hold the source up.
    Trouble {
        /// What.
        why: &'a str,
    },
}

impl SourceContext {
    /// A first start, with the machine's clock and nobody listening to the status.
    pub fn new(name: impl Into<Arc<str>>, framing: Framing) -> Self {
        Self {
            name: name.into(),
            cursor: Cursor::new(),
            clock: Arc::new(millstream_core::SystemClock),
            framing,
            encoding: None,
            status: Arc::new(|_| {}),
        }
    }

    /// A seed for jitter: different for each source and each start.
    pub(crate) fn seed(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(self.name.as_bytes(), self.clock.now_us() as u64)
    }
}

impl fmt::Debug for SourceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceContext")
            .field("name", &self.name)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

impl SourceConfig {
    /// The value of `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::Feed(_) => "feed",
            Self::Websocket(_) => "websocket",
            Self::HttpStream(_) => "http_stream",
        }
    }

    /// True where the source comes to an end by itself.
    pub fn bounded(&self) -> bool {
        match self {
            Self::File(config) => !config.follow,
            Self::Http(_) | Self::Feed(_) | Self::Websocket(_) | Self::HttpStream(_) => false,
        }
    }

    /// Finds settings that can't work. Pure: looks at neither disk nor network.
    ///
    /// # Errors
    /// Every problem, as the field (`urls[1]`, `backoff.max`) and what is wrong with it.
    pub fn check(&self) -> Result<(), Vec<(String, String)>> {
        let mut problems = Problems::default();
        match self {
            Self::File(config) => config.check(&mut problems),
            Self::Http(config) => config.check(&mut problems),
            Self::Feed(config) => config.check(&mut problems),
            Self::Websocket(config) => config.check(&mut problems),
            Self::HttpStream(config) => config.check(&mut problems),
        }
        if problems.0.is_empty() { Ok(()) } else { Err(problems.0) }
    }
}

/// Opens a source behind `context.cursor`. Nothing is read or connected to before the first `next`.
///
/// # Errors
/// `Config`: a setting can't work, or the source is `http`, whose records come through the server.
pub fn build(config: &SourceConfig, context: SourceContext) -> Result<Box<dyn Source>> {
    if let Err(problems) = config.check() {
        let list: Vec<String> = problems.into_iter().map(|(field, message)| format!("`{field}` {message}")).collect();
        return Err(Error::config(format!("source {}: {}", context.name, list.join("; "))));
    }
    Ok(match config {
        SourceConfig::File(config) => Box::new(FileSource::new(config.clone(), context)?),
        SourceConfig::Feed(config) => Box::new(FeedSource::new(config.clone(), context)?),
        SourceConfig::Websocket(config) => Box::new(WebsocketSource::new(config.clone(), context)?),
        SourceConfig::HttpStream(config) => Box::new(HttpStreamSource::new(config.clone(), context)?),
        SourceConfig::Http(_) => {
            return Err(Error::config(format!(
                "source {} is of type http: its records are posted to the server, there is nothing to read",
                context.name
            )));
        }
    })
}

/// Collects what is wrong with some settings.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<(String, String)>);

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    pub(crate) fn check_not_zero(&mut self, field: &str, value: HumanDuration) {
        if value.0.is_zero() {
            self.add(field, "is zero");
        }
    }

    pub(crate) fn check_max_record(&mut self, value: ByteSize) {
        if value.0 == 0 {
            self.add("max_record", "is zero: no record would pass");
        } else if value.0 > MAX_RECORD_LIMIT {
            self.add("max_record", format!("is above {}: a record is held in memory", ByteSize(MAX_RECORD_LIMIT)));
        }
    }

    pub(crate) fn check_url(&mut self, field: impl Into<String>, text: &str, schemes: &[&str]) {
        let field = field.into();
        let schemes_text = schemes.iter().map(|s| format!("{s}://")).collect::<Vec<_>>().join(" or ");
        if unencoded_user_info(text) {
            return self.add(field, ENCODE_PASSWORD);
        }
        match url::Url::parse(text) {
            // The text itself may hold a token, so it is not repeated.
            Err(e) => self.add(field, format!("is no URL ({e}): write {schemes_text} and a host")),
            Ok(url) if !schemes.contains(&url.scheme()) => {
                self.add(
                    field,
                    format!("begins with {}://, which this source does not speak: use {schemes_text}", url.scheme()),
                );
            }
            Ok(_) => {}
        }
    }

    pub(crate) fn check_headers(&mut self, headers: &BTreeMap<String, Secret>) {
        for (name, value) in headers {
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                self.add(format!("headers.{name}"), "is no valid header name");
            }
            if reqwest::header::HeaderValue::from_str(value.expose()).is_err() {
                self.add(format!("headers.{name}"), "has a value with characters that no header may hold");
            }
        }
    }

    /// Hosts that redirects may lead to.
    pub(crate) fn check_hosts(&mut self, hosts: &[String]) {
        for (i, host) in hosts.iter().enumerate() {
            if let Some(message) = crate::http_client::wrong_host(host) {
                self.add(format!("allow_hosts[{i}]"), message);
            }
        }
    }

    /// An address that is denied however often it is asked.
    pub(crate) fn check_private(&mut self, field: &str, url: &str, denied: bool) {
        if denied && crate::http_client::is_private_url(url) {
            self.add(field, crate::http_client::PRIVATE_URL);
        }
    }

    pub(crate) fn check_bearer(&mut self, headers: &BTreeMap<String, Secret>, token: Option<&Secret>) {
        let Some(token) = token else { return };
        if reqwest::header::HeaderValue::from_str(token.expose()).is_err() {
            self.add("bearer_token", "has characters that no header may hold");
        }
        if headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
            self.add("bearer_token", "is set, and so is the header `Authorization`: keep one of them");
        }
    }
}

/// No record may be larger than this, whatever the settings.
const MAX_RECORD_LIMIT: u64 = 1 << 30;

/// The header map for requests of the connectors: what the user wrote, and the bearer token. Values are marked as
/// sensitive, so that no client logs them.
///
/// # Errors
/// `Config`: a name or value that can't be a header.
pub(crate) fn request_headers(
    headers: &BTreeMap<String, Secret>,
    bearer_token: Option<&Secret>,
) -> Result<reqwest::header::HeaderMap> {
    use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
    let wrong = |name: &str| {
        Error::config(format!("header `{name}` can't be sent: name or value has characters that no header may hold"))
    };
    let secret = |name: &str, text: &str| {
        let mut value = HeaderValue::from_str(text).map_err(|_| wrong(name))?;
        value.set_sensitive(true);
        Ok::<_, Error>(value)
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(name))?, secret(name, value.expose())?);
    }
    if let Some(token) = bearer_token {
        map.insert(AUTHORIZATION, secret("Authorization", &format!("Bearer {}", token.expose()))?);
    }
    Ok(map)
}

/// What to say of a URL whose user or password is not encoded.
pub(crate) const ENCODE_PASSWORD: &str = "has a character in its user or password that must be encoded: encode the \
    password (`@` as %40, `/` as %2F, `%` as %25, `#` as %23, `?` as %3F)";

/// The longest that a server may ask to be left alone.
pub(crate) const SERVER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// The value of a `Retry-After` header: seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(value: &reqwest::header::HeaderValue, clock: &dyn Clock) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    u64::try_from(date.timestamp_micros() - clock.now_us()).ok().map(Duration::from_micros)
}

/// The label of the encoding that a `Content-Type` names as its `charset`.
pub fn charset(content_type: &reqwest::header::HeaderValue) -> Option<String> {
    let parameters = content_type.to_str().ok()?.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    let value = value.trim().trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> SourceConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_problem_is_named_with_its_field() {
        let fields =
            |json| -> Vec<String> { parse(json).check().unwrap_err().into_iter().map(|(field, _)| field).collect() };
        assert_eq!(
            fields(
                serde_json::json!({"type": "feed", "urls": ["https://a.example/", "ftp://b.example/"], "interval": "0s", "remember": 0})
            ),
            ["urls[1]", "interval", "remember"]
        );
        assert_eq!(fields(serde_json::json!({"type": "feed"})), ["url"]);
        assert_eq!(
            fields(serde_json::json!({"type": "websocket", "url": "https://a.example", "ping_interval": "30s",
                "bearer_token": "x", "headers": {"authorization": "y", "bad name": "z"}, "backoff": {"max": "1ms"}})),
            ["url", "headers.bad name", "bearer_token", "ping_interval", "backoff.max"]
        );
        assert_eq!(
            fields(
                serde_json::json!({"type": "file", "path": "a/***", "ignore": ["[", "*.gz"], "start": "end", "max_record": 0})
            ),
            ["path", "ignore[0]", "max_record", "start"]
        );
        assert_eq!(
            fields(serde_json::json!({"type": "http_stream", "url": "no url", "method": "G T"})),
            ["url", "method"]
        );
    }

    #[test]
    fn defaults_pass_the_check_and_unknown_keys_do_not_parse() {
        for json in [
            serde_json::json!({"type": "file", "path": "./x"}),
            serde_json::json!({"type": "http"}),
            serde_json::json!({"type": "feed", "url": "https://a.example/feed"}),
            serde_json::json!({"type": "websocket", "url": "wss://a.example/", "subscribe": ["hello", {"op": "subscribe"}]}),
            serde_json::json!({"type": "http_stream", "url": "https://a.example/", "format": "sse"}),
        ] {
            let config = parse(json.clone());
            assert_eq!(config.check(), Ok(()), "{json}");
            assert_eq!(config.kind(), json["type"]);
            let mut wrong = json;
            wrong["no_such_key"] = 1.into();
            assert!(serde_json::from_value::<SourceConfig>(wrong).is_err());
        }
    }

    #[test]
    fn the_published_schema_knows_the_type_and_refuses_unknown_keys() {
        let schema = serde_json::to_value(schemars::schema_for!(SourceConfig)).unwrap();
        let variants = schema["oneOf"].as_array().unwrap();
        assert_eq!(variants.len(), 5);
        for variant in variants {
            assert!(variant["properties"]["type"]["const"].is_string(), "{variant:#}");
            assert!(variant["required"].as_array().unwrap().contains(&"type".into()), "{variant:#}");
            // A reference would bring the refusal of unknown keys, `type` among them, with it.
            assert!(variant.get("$ref").is_none(), "{variant:#}");
            let closed = [&variant["additionalProperties"], &variant["unevaluatedProperties"]];
            assert!(closed.contains(&&serde_json::Value::Bool(false)), "{variant:#}");
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
            let value = reqwest::header::HeaderValue::from_static(text);
            assert_eq!(charset(&value).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = parse(
            serde_json::json!({"type": "websocket", "url": "wss://a.example/", "bearer_token": "hush", "headers": {"X-Key": "hush"}}),
        );
        let shown = format!("{config:?}{}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_http_source_has_nothing_to_read() {
        let context = SourceContext::new("in", Framing::Lines);
        let error = build(&SourceConfig::Http(HttpPushConfig::default()), context).err().unwrap();
        assert_eq!(error.kind(), millstream_core::ErrorKind::Config);
    }
}
