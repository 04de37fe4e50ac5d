//! What can be written under a source of `type: feed`.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_core::{ByteSize, HumanDuration, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Polls RSS, Atom and JSON feeds, and reads each new or changed entry once.
///
/// A record is a JSON object whose fields are in `docs/decoding.md`. They are the source's schema by themselves; a
/// `schema` may choose among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct FeedSourceConfig {
    /// The feed's address. It is stored with each entry, so put secrets into `headers`, not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Several feeds' addresses, polled one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// How often each feed is asked for. A server that says `Retry-After`, or fails, is asked less often.
    #[serde(default = "default_interval")]
    pub interval: HumanDuration,
    /// Headers sent with each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// How long one request may take.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// How many entries to remember per feed, so that each is read once. Keep it above the number of entries that the
    /// feed holds.
    #[serde(default = "default_remember")]
    pub remember: usize,
    /// The largest document; a larger one goes to the dead letter queue with its first MiB.
    #[serde(default = "crate::file::config::default_max_record")]
    pub max_body: ByteSize,
}

fn default_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn default_remember() -> usize {
    10_000
}

impl FeedSourceConfig {
    /// A poller of `url`, with every other setting at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Some(url.into()),
            urls: Vec::new(),
            interval: default_interval(),
            headers: BTreeMap::new(),
            timeout: default_timeout(),
            remember: default_remember(),
            max_body: crate::file::config::default_max_record(),
        }
    }

    /// Every feed to poll, in the order written, each once.
    pub fn all_urls(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for url in self.url.iter().chain(&self.urls) {
            if !all.contains(&url.as_str()) {
                all.push(url);
            }
        }
        all
    }

    /// Finds settings that can't work; see [`crate::source::SourceConfig::check`].
    pub(crate) fn check(&self, problems: &mut crate::source::Problems) {
        if self.url.is_none() && self.urls.is_empty() {
            problems.add("url", "is missing: name the feed's address here, or several under `urls`");
        }
        if let Some(url) = &self.url {
            problems.check_url("url", url, &["http", "https"]);
        }
        for (i, url) in self.urls.iter().enumerate() {
            problems.check_url(format!("urls[{i}]"), url, &["http", "https"]);
        }
        problems.check_not_zero("interval", self.interval);
        problems.check_not_zero("timeout", self.timeout);
        problems.check_headers(&self.headers);
        if self.remember == 0 {
            problems.add("remember", "is zero: every poll would read every entry again");
        }
        if self.max_body.0 == 0 {
            problems.add("max_body", "is zero: nothing could be received");
        }
    }
}
