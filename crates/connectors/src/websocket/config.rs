//! What can be written under a source of `type: websocket`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use millstream_core::{ByteSize, HumanDuration, Secret, SecretValue};
use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;

use crate::backoff::{BackoffConfig, default_stall_timeout};
use crate::check::{Problem, Problems};

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
    #[serde(default = "crate::check::default_max_record")]
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
            max_record: crate::check::default_max_record(),
            ignore: Vec::new(),
            heartbeat: None,
            backoff: BackoffConfig::default(),
            deny_private: false,
        }
    }

    /// The settings as the source relies on them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn checked(&self) -> Result<WebsocketSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        let request = self.check_request(&mut problems);
        problems.check_private("url", self.url.expose(), self.deny_private);
        let headers = problems.check_headers(&self.headers, self.bearer_token.as_ref());
        problems.check_not_zero("stall_timeout", self.stall_timeout);
        problems.check_not_zero("ping_interval", self.ping_interval);
        if self.ping_interval >= self.stall_timeout {
            problems.add(
                "ping_interval",
                "is not below `stall_timeout`: a quiet but healthy connection would be taken for a stalled one",
            );
        }
        let mut ignore = Vec::new();
        for (i, pattern) in self.ignore.iter().enumerate() {
            match Regex::new(pattern) {
                Err(e) => problems.add(format!("ignore[{i}]"), format!("is no regular expression: {e}")),
                Ok(_) if pattern.is_empty() => {
                    problems.add(format!("ignore[{i}]"), "is empty: it would be found in every message");
                }
                Ok(pattern) => ignore.push(pattern),
            }
        }
        if let Some(heartbeat) = &self.heartbeat {
            problems.check_not_zero("heartbeat.every", heartbeat.every);
        }
        problems.check_max_record(self.max_record);
        self.backoff.check(&mut problems);
        problems.finish(|| {
            let mut request = request?;
            headers.iter().for_each(|(name, value)| {
                request.headers_mut().append(name, value.clone());
            });
            Some(WebsocketSpec { config: self.clone(), request, ignore })
        })
    }

    fn check_request(&self, problems: &mut Problems) -> Option<Request> {
        problems.check_url("url", self.url.expose(), &["ws", "wss"])?;
        // The error may repeat the address, which may hold a token.
        let request = self.url.expose().into_client_request().ok();
        if request.is_none() {
            problems.add("url", "is no WebSocket address: write ws:// or wss:// and a host");
        }
        request
    }
}

/// A source of a WebSocket whose settings were checked.
#[derive(Clone)]
pub struct WebsocketSpec {
    /// What was typed.
    pub(super) config: WebsocketSourceConfig,
    /// The handshake, with what was written beside the address.
    pub(super) request: Request,
    /// What is no record.
    pub(super) ignore: Vec<Regex>,
}

/// The address may hold a password.
impl fmt::Debug for WebsocketSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebsocketSpec").field(&self.config).finish()
    }
}
