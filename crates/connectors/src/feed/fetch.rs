//! One poll of one feed: a conditional request, and the document's entries.

use std::time::Duration;

use bytes::Bytes;
use millstream_core::units::redact_url;
use millstream_core::{Clock, Failure, FailureKind};
use reqwest::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    RETRY_AFTER,
};
use reqwest::{StatusCode, Url};
use serde::{Deserialize, Serialize};

use crate::format::feed::{FeedEntry, parse_feed};
use crate::format::framing::KEPT_BYTES_MAX;
use crate::http_client::{HttpClient, Outgoing, charset, describe, retry_after};

/// What a server wants to see again in order to answer "not modified".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// What a poll gave.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Nothing has changed.
    NotModified,
    /// The document's entries, in its order.
    Entries { entries: Vec<FeedEntry>, validators: Validators },
    /// The document is no feed, or too large.
    Refused { kept: Bytes, failure: Failure, validators: Validators },
    /// No document: why, and how long the server wants to be left alone.
    Failed { why: String, retry_after: Option<Duration> },
}

/// Asks for `url`, whose last answer had these `validators`.
pub(crate) async fn poll(
    client: HttpClient,
    url: Url,
    validators: Validators,
    max_body: usize,
    clock: &dyn Clock,
) -> Polled {
    let mut headers = HeaderMap::new();
    for (name, value) in [(IF_NONE_MATCH, &validators.etag), (IF_MODIFIED_SINCE, &validators.last_modified)] {
        if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    let failed = |why| Polled::Failed { why, retry_after: None };
    let mut response = match client.send(&url, Outgoing { headers, ..Outgoing::default() }).await {
        Ok(response) => response,
        Err(why) => return failed(why),
    };
    if response.status() == StatusCode::NOT_MODIFIED {
        return Polled::NotModified;
    }
    if !response.status().is_success() {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, clock));
        return Polled::Failed { why: format!("the server answered {}", response.status()), retry_after };
    }
    let validators =
        Validators { etag: text(response.headers(), &ETAG), last_modified: text(response.headers(), &LAST_MODIFIED) };
    let charset = response.headers().get(CONTENT_TYPE).and_then(charset);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(e) => return failed(describe(e)),
        }
        if body.len() > max_body {
            let failure = Failure::new(
                FailureKind::TooLarge,
                format!(
                    "the document has more than the {max_body} bytes that `max_body` allows; its beginning is kept"
                ),
            );
            body.truncate(KEPT_BYTES_MAX);
            return Polled::Refused { kept: body.into(), failure, validators };
        }
    }
    // Large documents take a while.
    let parsed = tokio::task::spawn_blocking(move || {
        let base = without_credentials(url);
        let mut entries = parse_feed(&body, Some(&base), charset.as_deref()).map_err(|failure| (body, failure))?;
        let shown = redact_url(&base);
        for entry in &mut entries {
            entry.feed_url.clone_from(&entry.own_url);
            entry.feed_url.get_or_insert_with(|| shown.clone());
        }
        Ok(entries)
    });
    match parsed.await {
        Ok(Ok(entries)) => Polled::Entries { entries, validators },
        Ok(Err((body, failure))) => Polled::Refused { kept: body.into(), failure, validators },
        Err(e) => failed(format!("reading the document broke off: {e}")),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What the links of a document are resolved against.
fn without_credentials(mut url: Url) -> String {
    // Neither fails for an address that has a host, and only those can be polled.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}
