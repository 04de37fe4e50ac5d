//! What can be written under a source of `type: feed`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use millstream_core::units::redact_url;
use millstream_core::{ByteSize, HumanDuration, Secret};
use reqwest::header::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::check::{Problem, Problems};

/// Polls RSS, Atom and JSON feeds, and reads each new or changed entry once.
///
/// A record is a JSON object whose fields are in `docs/decoding.md`. They are the source's schema by themselves; a
/// `schema` may choose among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct FeedSourceConfig {
    /// The feed's address. It is shown without what may be secret in it (`https://host/***`), and stored so with each
    /// entry whose feed does not say itself where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// Several feeds' addresses, polled side by side. In messages the second is `urls[1] (https://host/***)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<Secret>,
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
    #[serde(default = "crate::check::default_max_record")]
    pub max_body: ByteSize,
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
            url: Some(Secret::new(url)),
            urls: Vec::new(),
            interval: default_interval(),
            headers: BTreeMap::new(),
            timeout: default_timeout(),
            remember: default_remember(),
            max_body: crate::check::default_max_record(),
            allow_hosts: Vec::new(),
            deny_private: false,
        }
    }

    /// Every feed to poll, in the order written, each once: its address, and what messages call it.
    fn all_urls(&self) -> Vec<(&str, String)> {
        let mut all: Vec<(&str, String)> = Vec::new();
        let alone = self.url.iter().len() + self.urls.len() == 1;
        let first = self.url.iter().map(|url| (url.expose(), redact_url(url.expose())));
        let others = self.urls.iter().enumerate().map(|(i, url)| {
            let shown = redact_url(url.expose());
            // Several of one host are shown alike.
            (url.expose(), if alone { shown } else { format!("urls[{i}] ({shown})") })
        });
        for (url, shown) in first.chain(others) {
            if !all.iter().any(|(known, _)| *known == url) {
                all.push((url, shown));
            }
        }
        all
    }

    /// The settings as the source relies on them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn checked(&self) -> Result<FeedSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.url.is_none() && self.urls.is_empty() {
            problems.add("url", "is missing: name the feed's address here, or several under `urls`");
        }
        if let Some(url) = &self.url {
            problems.check_url("url", url.expose(), &["http", "https"]);
        }
        for (i, url) in self.urls.iter().enumerate() {
            problems.check_url(format!("urls[{i}]"), url.expose(), &["http", "https"]);
        }
        problems.check_not_zero("interval", self.interval);
        problems.check_not_zero("timeout", self.timeout);
        let headers = problems.check_headers(&self.headers, None);
        problems.check_hosts(&self.allow_hosts);
        let mut feeds = Vec::new();
        for (i, (typed, shown)) in self.all_urls().into_iter().enumerate() {
            let field = if self.url.is_some() && i == 0 { "url" } else { "urls" };
            problems.check_private(field, typed, self.deny_private);
            // Whatever is no address was said above.
            feeds.extend(Url::parse(typed).ok().map(|url| FeedAddress { url, typed: typed.to_owned(), shown }));
        }
        if self.remember == 0 {
            problems.add("remember", "is zero: every poll would read every entry again");
        }
        if self.max_body.0 == 0 {
            problems.add("max_body", "is zero: nothing could be received");
        }
        problems.finish(|| Some(FeedSpec { config: self.clone(), headers, feeds }))
    }
}

/// A source of feeds whose settings were checked.
#[derive(Clone)]
pub struct FeedSpec {
    /// What was typed.
    pub(super) config: FeedSourceConfig,
    /// Of each request; their values are marked as sensitive.
    pub(super) headers: HeaderMap,
    /// Every feed to poll, in the order written, each once.
    pub(super) feeds: Vec<FeedAddress>,
}

/// Where a feed is.
#[derive(Clone)]
pub(super) struct FeedAddress {
    pub(super) url: Url,
    /// As written: what the cursor knows the feed by.
    pub(super) typed: String,
    /// What messages call it.
    pub(super) shown: String,
}

/// Addresses may hold tokens.
impl fmt::Debug for FeedSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FeedSpec").field(&self.config).finish()
    }
}
