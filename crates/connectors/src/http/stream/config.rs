//! What can be written under a source of `type: http_stream`.

use std::collections::BTreeMap;
use std::fmt;

use millstream_core::{ByteSize, HumanDuration, Secret, SecretValue};
use reqwest::Method;
use reqwest::header::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::backoff::BackoffConfig;
use crate::check::{Problem, Problems};

/// Reads an HTTP answer that does not end: lines, or server-sent events.
///
/// The request is made again, with back-off, when the answer ends, breaks, or stays silent for `stall_timeout`. For
/// `format: sse` the last event id is remembered, across restarts too, and sent as `Last-Event-ID`, so that a server
/// that supports it goes on behind it. Otherwise what the server sends while the connection is down is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct HttpStreamSourceConfig {
    /// `http://…` or `https://…`.
    pub url: Secret,
    /// The request's method.
    #[serde(default = "default_method")]
    pub method: String,
    /// Headers sent with the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// The request's body. A text is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<SecretValue>,
    /// Connect again when no byte has come for this long. Servers of such streams send an empty line or a comment now
    /// and then to show that they are there.
    #[serde(default = "crate::backoff::default_stall_timeout")]
    pub stall_timeout: HumanDuration,
    /// The largest record. A larger one goes to the dead letter queue with its first MiB, and the rest of it is
    /// skipped.
    #[serde(default = "crate::check::default_max_record")]
    pub max_record: ByteSize,
    /// Waits between attempts to connect.
    #[serde(default)]
    pub backoff: BackoffConfig,
    /// How records are told apart.
    #[serde(default)]
    pub format: StreamFormat,
    /// Of server-sent events, the types to read (`event:`; an event without one is a `message`); all where it is left
    /// out. The type of each is in the column `_event` (`metadata: [event]`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Other hosts that a redirect may lead to: `cdn.example.com`, `*.example.com`, or `*` for any. The headers of this
    /// source, and user and password of `url`, go to none of them. Without it, a redirect is followed on the host of
    /// `url` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_hosts: Vec<String>,
    /// Connect to no address of this machine or of a private network, whatever the name of a host leads to; and through
    /// no proxy, which would look up names itself.
    #[serde(default)]
    pub deny_private: bool,
}

/// How the records of an HTTP stream are told apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamFormat {
    /// One record per line; empty lines only show that the server is there.
    #[default]
    Lines,
    /// Server-sent events (`text/event-stream`); the data of each event is one record.
    Sse,
}

fn default_method() -> String {
    "GET".into()
}

impl HttpStreamSourceConfig {
    /// A reader of `url`, with every other setting at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            method: default_method(),
            headers: BTreeMap::new(),
            bearer_token: None,
            body: None,
            stall_timeout: crate::backoff::default_stall_timeout(),
            max_record: crate::check::default_max_record(),
            backoff: BackoffConfig::default(),
            format: StreamFormat::default(),
            events: Vec::new(),
            allow_hosts: Vec::new(),
            deny_private: false,
        }
    }

    /// The settings as the source relies on them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn checked(&self) -> Result<HttpStreamSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        let url = problems.check_url("url", self.url.expose(), &["http", "https"]);
        let method = Method::from_bytes(self.method.as_bytes()).ok();
        if method.is_none() {
            problems.add("method", format!("`{}` is no HTTP method", self.method));
        }
        if !self.events.is_empty() && self.format != StreamFormat::Sse {
            problems.add("events", "are the types of server-sent events: set `format: sse`, or leave it out");
        }
        let headers = problems.check_headers(&self.headers, self.bearer_token.as_ref());
        problems.check_hosts(&self.allow_hosts);
        problems.check_private("url", self.url.expose(), self.deny_private);
        problems.check_not_zero("stall_timeout", self.stall_timeout);
        problems.check_max_record(self.max_record);
        self.backoff.check(&mut problems);
        problems.finish(|| Some(HttpStreamSpec { config: self.clone(), url: url?, method: method?, headers }))
    }
}

/// A source of an HTTP stream whose settings were checked.
#[derive(Clone)]
pub struct HttpStreamSpec {
    /// What was typed.
    pub(super) config: HttpStreamSourceConfig,
    pub(super) url: Url,
    pub(super) method: Method,
    /// Of each request; their values are marked as sensitive.
    pub(super) headers: HeaderMap,
}

/// The address may hold a password.
impl fmt::Debug for HttpStreamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpStreamSpec").field(&self.config).finish()
    }
}
