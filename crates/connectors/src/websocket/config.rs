//! What can be written under a source of `type: websocket`.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_core::{ByteSize, HumanDuration, Secret, SecretValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backoff::BackoffConfig;

/// Reads the messages of a WebSocket; each text or binary message is one record.
///
/// The connection is made again, with back-off, when it breaks, is closed, or stays silent for `stall_timeout`. A
/// WebSocket can't be asked for the past: what its server sends while the connection is down is lost, unless the
/// subscribe message asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct WebsocketSourceConfig {
    /// `ws://…` or `wss://…`.
    pub url: Secret,
    /// Headers sent when connecting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// Messages sent after each connect, in order. A text is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<SecretValue>,
    /// Connect again when neither a whole message nor an answer to a ping has come for this long.
    #[serde(default = "default_stall_timeout")]
    pub stall_timeout: HumanDuration,
    /// How often to send a ping while nothing comes. Keep it below `stall_timeout`.
    #[serde(default = "default_ping_interval")]
    pub ping_interval: HumanDuration,
    /// The largest message. A larger one is not received: it goes to the dead letter queue without its bytes, and the
    /// connection is made again.
    #[serde(default = "crate::file::config::default_max_record")]
    pub max_record: ByteSize,
    /// Messages that are no records, such as a service's own heartbeats: regular expressions, of which one must be
    /// found in the message. `['^\{"type":"ping"', '^pong$']`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// A message to send again and again, where the service asks its clients for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// Waits between attempts to connect.
    #[serde(default)]
    pub backoff: BackoffConfig,
    /// Connect to no address of this machine or of a private network, whatever the name of the host leads to.
    #[serde(default)]
    pub deny_private: bool,
}

/// A message that is sent again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Heartbeat {
    /// The message. A text is sent as it is, anything else as JSON.
    pub send: SecretValue,
    /// How often; the first time this long after connecting.
    pub every: HumanDuration,
}

pub(crate) fn default_stall_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn default_ping_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

impl WebsocketSourceConfig {
    /// A reader of `url`, with every other setting at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            headers: BTreeMap::new(),
            bearer_token: None,
            subscribe: Vec::new(),
            stall_timeout: default_stall_timeout(),
            ping_interval: default_ping_interval(),
            max_record: crate::file::config::default_max_record(),
            ignore: Vec::new(),
            heartbeat: None,
            backoff: BackoffConfig::default(),
            deny_private: false,
        }
    }

    /// Finds settings that can't work; see [`crate::source::SourceConfig::check`].
    pub(crate) fn check(&self, problems: &mut crate::source::Problems) {
        problems.check_url("url", self.url.expose(), &["ws", "wss"]);
        problems.check_private("url", self.url.expose(), self.deny_private);
        problems.check_headers(&self.headers);
        problems.check_bearer(&self.headers, self.bearer_token.as_ref());
        problems.check_not_zero("stall_timeout", self.stall_timeout);
        problems.check_not_zero("ping_interval", self.ping_interval);
        if self.ping_interval >= self.stall_timeout {
            problems.add(
                "ping_interval",
                "is not below `stall_timeout`: a quiet but healthy connection would be taken for a stalled one",
            );
        }
        for (i, pattern) in self.ignore.iter().enumerate() {
            if let Err(e) = regex::bytes::Regex::new(pattern) {
                problems.add(format!("ignore[{i}]"), format!("is no regular expression: {e}"));
            } else if pattern.is_empty() {
                problems.add(format!("ignore[{i}]"), "is empty: it would be found in every message");
            }
        }
        if let Some(heartbeat) = &self.heartbeat {
            problems.check_not_zero("heartbeat.every", heartbeat.every);
        }
        problems.check_max_record(self.max_record);
        self.backoff.check(problems);
    }
}
